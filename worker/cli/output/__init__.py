"""What several commands print: tables, event text, error text."""
