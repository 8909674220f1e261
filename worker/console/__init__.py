"""The console: web pages and an HTTP API beside the workers. It reads the ledger and does not disturb the workers."""
