"""A short connection without retries, for commands that read or declare something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from worker.broker.channels import settle
from worker.broker.connection import CLOSE_SECONDS, CONNECT_SECONDS, connection_parameters
from worker.broker.problems import ConnectError, explain_connect
from worker.broker.tolerant import TolerantConnection
from worker.settings import BrokerSettings

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection


@asynccontextmanager
async def visit(settings: BrokerSettings, purpose: str) -> AsyncIterator[AsyncioConnection]:
    """Connect once, and close on exit. TCP, TLS and AMQP together may take `CONNECT_SECONDS`.

    Raises:
        ConnectError: the broker cannot be reached, or refuses the connection; one line with the remedy.
        SettingsInvalidError: the URL or the CA file cannot be used.
    """
    parameters = connection_parameters(settings, purpose)
    parameters.stack_timeout = CONNECT_SECONDS
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[BaseException | None] = loop.create_future()
    closed: asyncio.Future[Any] = loop.create_future()
    connection = TolerantConnection(
        parameters,
        on_open_callback=lambda _connection: settle(opened, None),
        on_open_error_callback=lambda _connection, error: settle(opened, error),
        on_close_callback=lambda _connection, reason: settle(closed, reason),
    )
    error = await opened
    if error is not None:
        raise ConnectError(explain_connect(error, parameters))
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()
        await asyncio.wait((closed,), timeout=CLOSE_SECONDS)
