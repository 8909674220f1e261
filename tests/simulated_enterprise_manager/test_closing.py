"""What becomes of a client in the middle of its TLS handshake when the server closes."""

from __future__ import annotations

import gc
import socket
import ssl
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest

from worker.sandbox.simulated_enterprise_manager import SimulatedEnterpriseManager


class HalfHandshake:
    """A client that has read the server's part of the handshake, and has not yet sent the rest of its own."""

    def __init__(self, em: SimulatedEnterpriseManager, raw: socket.socket) -> None:
        self._raw = raw
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=em.ca_file)
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self._raw.sendall(self._to_send.read())
        self._received.write(self._raw.recv(65536))

    def until_closed(self) -> None:
        """Read what is still to come, until the server closes the connection."""
        try:
            while self._raw.recv(65536):
                pass
        except ConnectionError:
            return


def connection_to(em: SimulatedEnterpriseManager) -> socket.socket:
    """A connection to this server that has sent nothing."""
    return socket.create_connection(("127.0.0.1", urlsplit(em.url).port or 0), timeout=10)


@contextmanager
def half_handshake(em: SimulatedEnterpriseManager) -> Iterator[HalfHandshake]:
    """A client in the middle of its handshake with this server."""
    with connection_to(em) as raw:
        yield HalfHandshake(em, raw)


def test_a_server_that_ends_closes_a_connection_in_its_handshake() -> None:
    """Else the garbage collector closes it later, with a warning that fails whichever test runs then."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        with ExitStack() as connections:
            with SimulatedEnterpriseManager.start() as em:
                client = connections.enter_context(half_handshake(em))
            client.until_closed()
        del em
        gc.collect()
    assert [str(warning.message) for warning in warned] == []


def test_a_server_that_ends_closes_a_connection_that_it_has_just_accepted() -> None:
    """A connection that comes in the last moment has no transport yet whose end would close it."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(20):
            with ExitStack() as connections, SimulatedEnterpriseManager.start() as em:
                for _ in range(5):
                    connections.enter_context(connection_to(em))
        del em
        gc.collect()
    assert [str(warning.message) for warning in warned] == []


def test_a_server_that_refuses_connections_ends_a_handshake(em: SimulatedEnterpriseManager) -> None:
    """Else a client that connected slowly would be answered by a server that is away."""
    with half_handshake(em) as client:
        em.refuse_connections()
        client.until_closed()
    assert em.requests == []
