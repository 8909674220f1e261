"""A short connection without retries, for commands that read or declare something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from worker.broker.channels import settle
from worker.broker.connection import CLOSE_SECONDS, CONNECT_SECONDS, connect, connection_parameters
from worker.settings import BrokerSettings

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection


@asynccontextmanager
async def visit(settings: BrokerSettings, purpose: str) -> AsyncIterator[AsyncioConnection]:
    """Connect once, and close on exit. TCP, TLS and AMQP together may take `CONNECT_SECONDS` for each address.

    Raises:
        ConnectError: the broker cannot be reached, or refuses the connection; one line with the remedy.
        SettingsInvalidError: the URL or the CA file cannot be used.
    """
    parameters = connection_parameters(settings, purpose)
    parameters.stack_timeout = CONNECT_SECONDS
    closed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    connection = await connect(parameters)
    connection.add_on_close_callback(lambda _connection, reason: settle(closed, reason))
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()
        if not connection.is_closed:
            await asyncio.wait((closed,), timeout=CLOSE_SECONDS)
