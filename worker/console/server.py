"""Serving the console until it is stopped."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.console.access import is_loopback
from worker.console.addresses import Network, block_of, is_in, networks_of
from worker.console.app import create_app
from worker.settings import ConsoleProgramSettings, SettingsInvalidError
from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = structlog.get_logger()

#: The most connections that are served at once; others are answered with 503.
_MOST_CONNECTIONS = 2000
#: The most connections of one client that is no trusted proxy and not on this host, so that it leaves room for others.
_MOST_OF_ONE = _MOST_CONNECTIONS // 4
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 30\r\nConnection: close\r\n\r\n"
    b"This client has too many connections.\n"
)
#: How long the headers of a request may take, and how long a client may leave an answer unread, in seconds.
HEADER_SECONDS = 10.0
_UNREAD_SECONDS = 30
#: How long a connection may idle, and how long requests may go on after the signal to stop, in seconds.
_IDLE_SECONDS = 30
_STOP_SECONDS = 5


def serve(settings: ConsoleProgramSettings, clock: Clock) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SettingsInvalidError: the console may not or cannot listen there, or the ledger's URL, the policy or the users
            cannot be read.
    """
    allow_many_files()
    host, port = settings.console.host, settings.console.port
    if not settings.console.has_users and not is_loopback(host) and host != "localhost":
        raise SettingsInvalidError("UNLINK_CONSOLE__HOST: without users, the console is served on loopback alone")
    try:
        listener = listening(host, port)
    except OSError as error:
        raise SettingsInvalidError(f"UNLINK_CONSOLE__HOST, UNLINK_CONSOLE__PORT: {error.strerror or error}") from error
    name = f"[{host}]" if ":" in host else host
    with listener:
        console = settings.console.model_copy(update={"port": listener.getsockname()[1]})
        ending = threading.Event()
        app = create_app(settings.model_copy(update={"console": console}), clock, ending)
        configuration = configuration_for(app, networks_of(console.trusted_proxies))
        server = _Server(configuration, ending, url=console.public_url or f"http://{name}:{console.port}/")
        server.run(sockets=[listener])


def allow_many_files() -> None:
    """Raise the limit of open files as far as this process may: each connection is one, and 1024 is a usual limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says that there is no limit, and accepts none
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def listening(host: str, port: int) -> socket.socket:
    """The socket that clients connect to. A connection ends whose client leaves an answer unread.

    Raises:
        OSError: the console cannot listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=256)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; inherited by each connection
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_SECONDS * 1000)
    return listener


class _Server(uvicorn.Server):
    """A server that logs when it listens, and that ends with status 0 when it is asked to stop.

    uvicorn handles signals only after it has started, and raises them again for the earlier handlers.
    """

    def __init__(self, configuration: uvicorn.Config, ending: threading.Event, *, url: str) -> None:
        super().__init__(configuration)
        self._ending = ending
        self._url = url
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve, and log the address."""
        await super().startup(sockets)
        log.info("console.listening", url=self._url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what waits end its wait, and stop."""
        self._ending.set()
        await super().shutdown(sockets)


class _Protocol(H11Protocol):
    """uvicorn's protocol, with a time limit for a request's headers, and a limit to the connections of one client.

    uvicorn limits only idle connections, and all of them together.
    """

    #: Proxies, whose connections are those of many clients.
    proxies: Sequence[Network] = ()

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """A client has connected: the first headers have to come."""
        super().connection_made(transport)
        self._limit = self.loop.call_later(HEADER_SECONDS, transport.close)
        if self._are_too_many():
            transport.write(_TOO_MANY)
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Part of a request came."""
        super().data_received(data)
        cycle: Any = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete:
            self._unlimited()
        elif self._limit is None:
            self._limit = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._unlimited()
        super().connection_lost(exc)

    def _are_too_many(self) -> bool:
        if self.client is None or is_loopback(self.client[0]) or is_in(self.client[0], self.proxies):
            return False
        mine = block_of(self.client[0])
        peers = [getattr(each, "client", None) for each in self.connections]
        return sum(block_of(peer[0]) == mine for peer in peers if peer) > _MOST_OF_ONE

    def _unlimited(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


def configuration_for(app: ASGIApp, proxies: Sequence[Network] = ()) -> uvicorn.Config:
    """The configuration of uvicorn: it reads no proxy's header, and sends no header that names the server.

    `proxies`: those whose connections are not limited.
    """
    protocol = type("_LimitedProtocol", (_Protocol,), {"proxies": proxies})
    return uvicorn.Config(
        app,
        http=protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
        lifespan="on",
        ws="none",
    )
