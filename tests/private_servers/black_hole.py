"""Something that accepts connections, and never answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from worker.sandbox.processes.free_ports import LOOPBACK


@contextmanager
def black_hole() -> Iterator[int]:
    """Its port, for as long as the context lasts."""
    with socket.create_server((LOOPBACK, 0), backlog=256) as listener:
        kept: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    kept.append(listener.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for connection in kept:
            connection.close()
