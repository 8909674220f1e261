"""What publishers of unlink commands and consumers of their events share: the messages.

`commands` is what goes in, `events` is what comes out, `reading` turns a message's bytes into a command or says what is
wrong with them, and `examples/` holds one golden message of each kind. Nothing here imports the worker.
"""
