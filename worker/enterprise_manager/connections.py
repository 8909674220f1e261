"""HTTP connections that enforce one deadline for a whole exchange (a request and its response).

A time-out of `requests` or urllib3 applies to a single read of the socket. A server that sends one byte now and then
can therefore keep a reader waiting without limit. Here each read and each write of the socket has the time that
remains until the deadline.

An exchange runs on one thread. The connection reads its limits from a context variable of that thread.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from http.client import HTTPConnection as PlainConnection
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout
from urllib3.util.connection import is_connection_dropped

from worker.enterprise_manager.lookups import addresses

if TYPE_CHECKING:
    import socket
    import ssl

#: The time-out of a connection attempt to one address, and of the TLS handshake, in seconds.
CONNECT_SECONDS = 10.0

#: A connection that was idle for longer than this, in seconds, is not used for a request that must not be repeated.
#: Servers and proxies close idle connections after 2 s (gunicorn), 5 s (Apache, Node), 75 s (nginx), 120 s (HTTP.sys).
WARM_SECONDS = 1.0

_SWITCHING_PROTOCOLS, _OK = 101, 200

#: urllib3's own time-outs are off: each read and each write has the time that remains until the exchange's deadline.
_BY_LIMITS = Timeout(connect=None, read=None)


@dataclass(slots=True)
class Limits:
    """The limits of one exchange.

    Args:
        seconds: how long the exchange may take. The time starts again when `may_write` has returned.
        may_write: called on the exchange's thread when the connection is ready. Raises if the request is not permitted.
        written: set directly before the first byte of the request is written. Until then nothing was sent.
        answer: the response that `http.client` is reading, until it is returned to the caller; for closing it.
        deadline: the end of the exchange, by `time.monotonic`.
    """

    seconds: float
    may_write: Callable[[], None] | None = None
    written: bool = False
    answer: HTTPResponse | None = None
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
    """Reads from a socket. Each read times out at the deadline of the exchange."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._reads = connected.makefile("rb", buffering=0)
        self._limits = LIMITS.get()

    def makefile(self, _: str) -> io.BufferedReader:
        """The file that `http.client` reads the response from; `http.client` uses this object as the socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read once.

        Raises:
            TimeoutError: no data arrived before the deadline.
        """
        self._socket.settimeout(self._limits.left())
        return self._reads.readinto(buffer)

    def close(self) -> None:
        """Release the socket."""
        self._reads.close()
        super().close()


class _Response(HTTPResponse):
    """A response, and the interim responses (1xx) before it.

    `http.client` skips an interim response only if its status is 100. It would return any other interim response as
    the final response, and the final response as the response to the next request.
    """

    def __init__(self, connected: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(_BoundedReads(connected), *arguments, **options)  # type: ignore[arg-type] # it has `makefile`
        LIMITS.get().answer = self

    def begin(self) -> None:
        """Read up to the headers of the final response. After an interim response the connection is not reused."""
        super().begin()
        interim = self.status < _OK
        while self.status < _OK and self.status != _SWITCHING_PROTOCOLS:
            self.headers = None  # type: ignore[assignment] # `begin` returns at once if there are headers
            super().begin()
        self.will_close = self.will_close or interim


class _BoundedConnection(HTTPConnection):
    response_class = _Response
    #: When the connection was returned to the pool, by `time.monotonic`.
    idle_since = float("-inf")

    @property
    def _was_kept(self) -> bool:
        return self.idle_since > float("-inf")

    def connect(self) -> None:
        self.idle_since = float("-inf")
        super().connect()

    def _new_conn(self) -> socket.socket:
        """Connect to the first of the host's addresses that accepts. All of them share the time of the exchange."""
        limits, name = LIMITS.get(), self._dns_host
        refusal: HTTPError | None = None
        try:
            for address in addresses(name, self.port, limits.left()):
                self._dns_host = address
                self.timeout = min(CONNECT_SECONDS, limits.left())
                try:
                    connected = super()._new_conn()
                except HTTPError as error:
                    refusal = error
                    continue
                connected.settimeout(min(CONNECT_SECONDS, limits.left()))  # for the TLS handshake
                return connected
        finally:
            self._dns_host = name
        raise refusal or OSError("the name has no address")

    def putheader(self, header: str | bytes, *values: Any) -> None:
        """Add a header; `http.client` refuses line breaks in it. Only urllib3's part is left out.

        urllib3 looks for a mark in each value that leaves out a default header; no request here has one.
        """
        PlainConnection.putheader(self, header, *values)

    def send(self, data: Any) -> None:
        """Connect if necessary, wait for the permission, and write."""
        limits = LIMITS.get()
        if self.sock is None:
            self.connect()
        limits.require_permission()
        if limits.may_write is not None and not limits.written and self._was_kept and is_connection_dropped(self):
            # The server closed the connection during the wait for the permission. Nothing was written, so that the
            # request may be sent over another connection.
            raise ConnectionResetError
        self.sock.settimeout(limits.left())
        limits.written = True
        super().send(data)


class _BoundedHTTPSConnection(_BoundedConnection, HTTPSConnection):
    pass


class _KeptConnections(HTTPConnectionPool):
    """A connection pool that records when each connection became idle."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        """A connection. If it was idle too long for the request, it is closed, so that it connects again."""
        connection: Any = super()._get_conn(timeout)
        if LIMITS.get().may_write is not None and time.monotonic() - connection.idle_since > WARM_SECONDS:
            connection.close()
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since = time.monotonic()
        super()._put_conn(conn)


class _HTTPPool(_KeptConnections):
    ConnectionCls = _BoundedConnection


class _HTTPSPool(_KeptConnections, HTTPSConnectionPool):
    ConnectionCls = _BoundedHTTPSConnection


class BoundedAdapter(HTTPAdapter):
    """An adapter for one host, with these connections and one SSLContext. It never repeats a request.

    Use it without a `requests.Session`: a session would add cookies, credentials and proxies from the environment,
    which must not be sent, would follow redirects, and would take twice the CPU time.
    """

    def __init__(self, tls: ssl.SSLContext, url: str, connections: int) -> None:
        super().__init__(pool_connections=1, pool_maxsize=connections, max_retries=0)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        self._connections = self.poolmanager.connection_from_url(url, {"ssl_context": tls})

    def send(self, request: requests.PreparedRequest, *_ignored: Any, **_options: Any) -> requests.Response:
        """Send a request whose `url` is a path, within this thread's limits. The response body is not read yet.

        Raises:
            urllib3.exceptions.HTTPError, OSError, ValueError: there is no response.
        """
        response = requests.Response()
        response.request = request
        limits = LIMITS.get()
        try:
            response.raw = self._connections.urlopen(
                request.method or "",
                request.url or "",
                body=request.body,
                headers=request.headers,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
                retries=self.max_retries,
                timeout=_BY_LIMITS,
            )
        except BaseException:
            if limits.answer is not None:
                limits.answer.close()  # urllib3 does not close a response with headers that it rejects
            raise
        finally:
            limits.answer = None
        response.status_code = response.raw.status
        return response

    def close(self) -> None:
        """Close the idle connections. urllib3's pool manager alone would only forget them."""
        self._connections.close()
        super().close()
