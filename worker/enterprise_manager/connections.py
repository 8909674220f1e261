"""Connections that end every wait at the deadline of their exchange.

The time-outs of `requests` and urllib3 hold for one read of the socket: a server that sends a byte now and then is read
for as long as it likes. Here each write and each read of the socket is given what is left of one deadline.

An exchange runs on one thread, and a connection finds its limits in the context of that thread.
"""

from __future__ import annotations

import io
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    import requests

#: The longest that connecting to one address may take, in seconds, and the longest that the TLS handshake may take.
CONNECT_SECONDS = 10.0

_SWITCHING_PROTOCOLS, _OK = 101, 200


@dataclass(slots=True)
class Limits:
    """The limits of one exchange.

    Args:
        seconds: how long the exchange may take. They begin anew when `may_write` has returned.
        may_write: called on the exchange's thread when the connection is ready. Raises if the request is not permitted.
        written: set directly before the first byte of the request is written. Until then nothing was sent.
        deadline: when the seconds end, by `time.monotonic`.
    """

    seconds: float
    may_write: Callable[[], None] | None = None
    written: bool = False
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.seconds

    def require_permission(self) -> None:
        """Return if the request may be written now. Raises what `may_write` raises."""
        if self.may_write is not None and not self.written:
            self.may_write()
            self.deadline = time.monotonic() + self.seconds

    def left(self) -> float:
        """The seconds until the deadline.

        Raises:
            TimeoutError: the deadline has passed.
        """
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


#: The limits of the exchange that runs on this thread.
LIMITS: ContextVar[Limits] = ContextVar("limits")


class _BoundedReads(io.RawIOBase):
    """Reads of a socket, each for no longer than the exchange may take."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._reads = connected.makefile("rb", buffering=0)
        self._limits = LIMITS.get()

    def makefile(self, _: str) -> io.BufferedReader:
        """What `http.client` reads the answer from; it takes this object for the socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read once.

        Raises:
            TimeoutError: nothing came until the deadline.
        """
        self._socket.settimeout(self._limits.left())
        return self._reads.readinto(buffer)

    def close(self) -> None:
        """Release the socket."""
        self._reads.close()
        super().close()


class _Response(HTTPResponse):
    """An answer, and the interim answers (1xx) before it.

    `http.client` takes every interim answer but 100 for the answer itself, and the answer for that of the next request.
    """

    def __init__(self, connected: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(_BoundedReads(connected), *arguments, **options)  # type: ignore[arg-type] # it has `makefile`

    def begin(self) -> None:
        """Read until the head of the answer. After an interim answer the connection is not used again."""
        super().begin()
        interim = self.status < _OK
        while self.status < _OK and self.status != _SWITCHING_PROTOCOLS:
            self.headers = None  # type: ignore[assignment] # what `begin` knows by that it has not begun
            super().begin()
        self.will_close = self.will_close or interim


class _BoundedConnection(HTTPConnection):
    response_class = _Response

    def connect(self) -> None:
        self.timeout = min(CONNECT_SECONDS, LIMITS.get().left())
        super().connect()

    def send(self, data: Any) -> None:
        """Connect if need be, wait for the permission, and write."""
        limits = LIMITS.get()
        if self.sock is None:
            self.connect()
        limits.require_permission()
        self.sock.settimeout(limits.left())
        limits.written = True
        super().send(data)


class _BoundedHTTPSConnection(_BoundedConnection, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _BoundedConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _BoundedHTTPSConnection


class BoundedAdapter(HTTPAdapter):
    """Makes such connections, verifies them by one SSLContext, and never repeats a request."""

    def __init__(self, tls: ssl.SSLContext, connections: int) -> None:
        self._tls = tls
        super().__init__(pool_connections=1, pool_maxsize=connections, max_retries=0)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        """One pool for each host, with the SSLContext."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"ssl_context": self._tls}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave it to the SSLContext: requests would add its own bundle of public CAs to it."""
