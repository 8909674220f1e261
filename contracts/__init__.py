"""What publishers of unlink commands and consumers of their events share: the messages.

`commands` are the messages that the worker consumes, `events` and `batches` those that it publishes. `reading` parses a
message's bytes into a command, or says what is wrong with them. `keys` derives idempotency keys and batch IDs.
`published` makes the JSON Schemas in `schemas/`. `examples/` holds golden messages of each kind. Nothing here imports
the worker.
"""
