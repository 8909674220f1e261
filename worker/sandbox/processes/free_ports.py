"""Free loopback ports."""

import random
import socket

LOOPBACK = "127.0.0.1"

#: Below the ephemeral ports (from 32768 on Linux, from 49152 elsewhere), so that outgoing connections do not take the
#: port of a server while it is stopped.
_RANGE = range(15_000, 32_000)


def free_port() -> int:
    """Find a TCP port of the loopback address that no program listens on.

    Raises:
        OSError: none of many tried is free.
    """
    for port in random.sample(_RANGE, 200):
        if _is_free(port):
            return port
    raise OSError(f"no free port on {LOOPBACK} between {_RANGE.start} and {_RANGE.stop}")


def is_open(port: int) -> bool:
    """Whether a program accepts connections on this port of the loopback address."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
