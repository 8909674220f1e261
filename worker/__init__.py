"""The unlink worker.

Its folders are the parts that an unlink passes through; the core, `unlinks`, imports none of the others.
"""
