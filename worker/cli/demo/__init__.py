"""The command `demo`: scripted commands against a private broker and a simulated Enterprise Manager."""
