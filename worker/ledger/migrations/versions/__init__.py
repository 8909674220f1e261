"""The revisions, oldest first by name. Written out in full: a revision never changes with the code around it."""
