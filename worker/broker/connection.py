"""One supervised connection, reconnected whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog
from pika import SSLOptions, URLParameters

from worker.broker.back_off import forever
from worker.broker.channels import settle
from worker.broker.problems import (
    URL_UNREADABLE,
    BrokerError,
    ConnectError,
    QueueNotReadyError,
    closed_in_order,
    explain_connect,
    explain_lost,
)
from worker.broker.tls import tls_context
from worker.broker.tolerant import TolerantConnection
from worker.settings import BrokerSettings, SettingsInvalidError
from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection

#: Seconds for the TCP connection to one address; and for TCP, TLS and AMQP together.
CONNECT_SECONDS = 10.0
HANDSHAKE_SECONDS = 20.0

#: Seconds for all addresses of the host. pika never ends an attempt in which no socket could be opened.
OPEN_SECONDS = 60.0

#: Seconds for declaring or verifying the topology on a new connection, before it counts as open.
PREPARE_SECONDS = 60.0

#: Seconds for closing in good order.
CLOSE_SECONDS = 5.0

_log = structlog.get_logger()

# pika logs each failure in several lines, with stack traces. The worker logs one line with the remedy instead.
logging.getLogger("pika").setLevel(logging.CRITICAL)


def connection_parameters(settings: BrokerSettings, purpose: str) -> URLParameters:
    """The parameters with which pika connects; made anew for each connection, since the CA file may have been renewed.

    Raises:
        SettingsInvalidError: the URL or the CA file cannot be used.
    """
    try:
        parameters = URLParameters(settings.url.get_secret_value())
    except (ValueError, TypeError):
        raise SettingsInvalidError(URL_UNREADABLE) from None
    if parameters.ssl_options is not None:
        parameters.ssl_options = SSLOptions(tls_context(settings.ca_file), server_hostname=parameters.host)
    parameters.heartbeat = settings.heartbeat_seconds
    parameters.blocked_connection_timeout = settings.blocked_seconds
    parameters.socket_timeout = CONNECT_SECONDS
    parameters.stack_timeout = HANDSHAKE_SECONDS
    parameters.client_properties = {
        "product": "unlink-worker",
        "connection_name": f"unlink-worker {purpose} {socket.gethostname()}:{os.getpid()}",
    }
    return parameters


def user_of(settings: BrokerSettings) -> str:
    """The broker user that the URL names.

    Raises:
        SettingsInvalidError: the URL or the CA file cannot be used.
    """
    credentials: Any = connection_parameters(settings, "user").credentials
    return str(credentials.username)


class SupervisedConnection:
    """A connection that reconnects.

    Attributes:
        problem: why it is not open, in one line; None while it is open, and until the first attempt has failed.
        blocked: whether the broker takes no messages from it, because of a memory or disk alarm.

    Args:
        purpose: `consume` or `publish`; part of the name that the broker's operator sees.
        prepare: called on each new connection before it counts as open. If it raises `BrokerError`, the connection is
            closed, and another attempt follows.
        changed: called whenever the connection has opened or closed.

    Raises:
        SettingsInvalidError: the URL or the CA file cannot be used.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        clock: Clock,
        *,
        purpose: str,
        prepare: Callable[[AsyncioConnection], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        connection_parameters(settings, purpose)  # wrong settings raise here, not on the first connection
        self._settings = settings
        self._clock = clock
        self._purpose = purpose
        self._prepare = prepare
        self._changed = changed
        self._connection: AsyncioConnection | None = None
        self._opened = asyncio.Event()
        self._supervision: asyncio.Task[None] | None = None
        self._closing = False
        self._separate: set[SeparateConnection] = set()
        self.problem: str | None = None
        self.blocked = False

    @property
    def is_open(self) -> bool:
        """Whether it is connected and prepared."""
        return self._opened.is_set()

    def start(self) -> None:
        """Connect in the background, and reconnect after each loss. Returns at once."""
        if self._supervision is None and not self._closing:
            self._supervision = asyncio.create_task(forever(f"{self._purpose} connection", self._once, self._clock))

    @property
    def current(self) -> AsyncioConnection | None:
        """The open connection; None if there is none."""
        return self._connection

    async def opened(self) -> AsyncioConnection:
        """The open connection; waits until there is one."""
        while self._connection is None:
            await self._opened.wait()
        return self._connection

    @asynccontextmanager
    async def separate(self) -> AsyncIterator[SeparateConnection]:
        """A second connection with the same settings, which is not reconnected. Closed at the end of the context.

        Raises:
            ConnectError: it could not be opened, or `close` was called.
            SettingsInvalidError: the URL or the CA file cannot be used.
        """
        connection = await connect(connection_parameters(self._settings, f"{self._purpose} separately"))
        separate = SeparateConnection(connection)
        try:
            if self._closing:
                raise ConnectError("the worker has closed its connections to the broker")
            self._separate.add(separate)
            yield separate
        finally:
            self._separate.discard(separate)
            await separate.close()

    async def close(self) -> None:
        """Close the connection, within twice `CLOSE_SECONDS`, and do not reconnect."""
        self._closing = True
        await asyncio.gather(*(separate.close() for separate in self._separate))
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.wait((self._supervision,))

    async def _once(self) -> None:
        try:
            await self._live_once()
        except (BrokerError, SettingsInvalidError) as error:
            may_pass = isinstance(error, QueueNotReadyError) and self.problem is None
            self.problem = str(error)
            said = {"purpose": self._purpose, "problem": self.problem}
            if may_pass:
                # Most likely another worker is just declaring the queue, and the next attempt finds it.
                _log.warning("broker.connection_failed", **said)
            else:
                _log.error("broker.connection_failed", **said)

    async def _live_once(self) -> None:
        lost: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        connection = await connect(connection_parameters(self._settings, self._purpose))
        try:
            connection.add_on_close_callback(lambda _connection, reason: self._on_lost(lost, reason))
            connection.add_on_connection_blocked_callback(lambda *_: self._on_blocked(blocked=True))
            connection.add_on_connection_unblocked_callback(lambda *_: self._on_blocked(blocked=False))
            await self._prepared(connection, lost)
            self._on_open(connection)
            # `await lost` would cancel `lost` when this task is cancelled; the close below could not wait for it then.
            await asyncio.wait((lost,))
        finally:
            self._forget()
            await _close(connection, lost)

    async def _prepared(self, connection: AsyncioConnection, lost: asyncio.Future[BaseException]) -> None:
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                await self._prepare(connection)
        except TimeoutError:
            raise ConnectError("the broker took too long to answer on a new connection") from None
        if lost.done():
            raise ConnectError(explain_lost(lost.result()))

    def _on_open(self, connection: AsyncioConnection) -> None:
        self._connection = connection
        self.problem = None
        self._opened.set()
        _log.info("broker.connected", purpose=self._purpose)
        self._changed()

    def _on_lost(self, lost: asyncio.Future[BaseException], reason: BaseException) -> None:
        settle(lost, reason)
        if self.is_open and not closed_in_order(reason):
            self.problem = explain_lost(reason)
            _log.warning("broker.connection_lost", purpose=self._purpose, problem=self.problem)
        self._forget()

    def _forget(self) -> None:
        self.blocked = False
        self._connection = None
        if self._opened.is_set():
            self._opened.clear()
            self._changed()

    def _on_blocked(self, *, blocked: bool) -> None:
        self.blocked = blocked
        if blocked:
            problem = "the broker takes no messages: a memory or disk alarm (rabbitmq-diagnostics alarms)"
            _log.warning("broker.blocked", purpose=self._purpose, problem=problem)
        else:
            _log.info("broker.unblocked", purpose=self._purpose)


class SeparateConnection:
    """A connection that is used once.

    Attributes:
        raw: pika's connection.
        blocked: as for `SupervisedConnection`.
    """

    def __init__(self, raw: AsyncioConnection) -> None:
        self.raw = raw
        self.blocked = False
        self._lost: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        raw.add_on_close_callback(lambda _connection, reason: settle(self._lost, reason))
        raw.add_on_connection_blocked_callback(lambda *_: self._on_blocked(blocked=True))
        raw.add_on_connection_unblocked_callback(lambda *_: self._on_blocked(blocked=False))

    async def close(self) -> None:
        """Close the connection, within twice `CLOSE_SECONDS`. Closing again does nothing."""
        await _close(self.raw, self._lost)

    def _on_blocked(self, *, blocked: bool) -> None:
        self.blocked = blocked


async def connect(parameters: URLParameters) -> AsyncioConnection:
    """Open a connection, within `OPEN_SECONDS`.

    Raises:
        ConnectError: the broker cannot be reached, or refuses the connection.
    """
    outcome: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    connection = TolerantConnection(
        parameters,
        on_open_callback=lambda _connection: settle(outcome, None),
        on_open_error_callback=lambda _connection, error: settle(outcome, error),
    )
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            error = await asyncio.shield(outcome)
    except TimeoutError as given_up:
        await _close(connection, outcome)
        raise ConnectError(explain_connect(given_up, parameters)) from None
    except asyncio.CancelledError:
        await _close(connection, outcome)
        raise
    if error is not None:
        raise ConnectError(explain_connect(error, parameters))
    return connection


async def _close(connection: AsyncioConnection, lost: asyncio.Future[Any]) -> None:
    """Close a connection that may be in any state."""
    if not (connection.is_closed or connection.is_closing):
        connection.close()
    await asyncio.wait((lost,), timeout=CLOSE_SECONDS)
    # The broker may not answer, or a channel still wait for an answer: pika would wait without a limit. A connection
    # without a transport is cut off already.
    if not lost.done() and connection._transport is not None:  # type: ignore[attr-defined] # noqa: SLF001 - as below
        connection._adapter_disconnect_stream()  # type: ignore[attr-defined] # noqa: SLF001 - no public way to hang up
        await asyncio.wait((lost,), timeout=CLOSE_SECONDS)
