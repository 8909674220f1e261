"""Parses the body of a response, XML or JSON, into records. The size and the depth of a document are limited."""
