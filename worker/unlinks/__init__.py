"""The core: one unlink's workflow, what a redelivery finds, the ending and its event, and the ports to the outside.

It imports no library that does input or output, reads no wall clock and makes no random number except through a port.
"""
