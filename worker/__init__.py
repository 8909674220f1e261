"""The unlink worker.

Its folders are the parts of one unlink's journey; the core, `unlinks`, imports none of the others.
"""
