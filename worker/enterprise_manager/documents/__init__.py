"""From the bytes of an answer to plain records, in either format, with limits on what is read."""
