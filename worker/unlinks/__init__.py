"""The core: one unlink's path, what a redelivery finds, the verdict and its event, and the ports to the outside.

It imports no library that does input or output, reads no wall clock and makes no random number except through a port.
"""
