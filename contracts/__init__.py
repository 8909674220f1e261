"""What publishers of unlink commands and consumers of their events share: the messages.

`commands` are the messages that the worker takes, `events` those that it publishes. `reading` parses a message's bytes
into a command, or says what is wrong with them. `examples/` holds golden messages of each kind. Nothing here imports
the worker.
"""
