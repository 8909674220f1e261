"""Examines RabbitMQ over AMQP: tries the worker's operations in a way that has no effect."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from pika import BasicProperties
from pika.spec import Basic

from worker.broker import topology
from worker.broker.channels import AwaitableChannel, settle
from worker.broker.problems import (
    ACCESS_REFUSED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    BrokerError,
    ChannelLostError,
    ConnectError,
)
from worker.broker.topology import Exchange, Queue
from worker.broker.visit import visit
from worker.doctor.findings import Finding, doubtful, good, wrong
from worker.settings import BrokerSettings

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection

#: The oldest version that the worker runs on.
OLDEST_VERSION = (3, 10)

#: RabbitMQ's default consumer timeout (how long a delivery may stay unacknowledged), in seconds, since 3.8.17.
DEFAULT_CONSUMER_TIMEOUT = 1800.0

#: How long to wait until the broker closes the channel as a refusal, in seconds.
_REFUSAL_SECONDS = 5.0

#: An invalid expiration, since it is no number. The broker refuses the message after it has checked the permission.
_NO_EXPIRATION = "doctor"


async def examine(settings: BrokerSettings, enterprise_managers: Iterable[str]) -> AsyncIterator[Finding]:
    """Connect, and check version, topology and permissions."""
    try:
        async with visit(settings, "doctor") as connection:
            yield _reached(settings, connection)
            yield _version(connection)
            async for finding in _topology(settings, list(enterprise_managers), connection):
                yield finding
    except ConnectError as error:
        yield wrong("reachable", str(error))
    except BrokerError as error:
        yield wrong("connection", f"it went away during the examination: {error}")


def _reached(settings: BrokerSettings, connection: AsyncioConnection) -> Finding:
    parameters = connection.params
    safe = settings.url.get_secret_value().startswith("amqps:")
    where = f"{parameters.host}:{parameters.port}, virtual host {parameters.virtual_host}"
    return good("reachable", f"{where}, {'over TLS' if safe else 'without TLS'}")


def _version(connection: AsyncioConnection) -> Finding:
    properties: dict[str, Any] = connection.server_properties or {}
    product, version = str(properties.get("product", "?")), str(properties.get("version", "?"))
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers and numbers < OLDEST_VERSION:
        return wrong("version", f"{product} {version}", "the worker needs RabbitMQ 3.10 or later")
    return good("version", f"{product} {version}")


# --- exchanges and queues ---------------------------------------------------------------------------------------------


async def _topology(
    settings: BrokerSettings, enterprise_managers: list[str], connection: AsyncioConnection
) -> AsyncIterator[Finding]:
    described = topology.describe(enterprise_managers)
    parts: list[Exchange | Queue] = [*described.exchanges, *described.queues]
    answers = [(part, await _refusal(connection, part, passive=True)) for part in parts]
    there = [part for part, refusal in answers if refusal is None]
    # RabbitMQ 4.3 refuses a passive declaration if the user has no permission on the exchange or queue at all. The
    # worker needs no permission on some of them.
    untold = [part.name for part, refusal in answers if refusal and refusal.reply_code == ACCESS_REFUSED]
    unusable = [part.name for part, refusal in answers if refusal and refusal.not_ready]
    missing = [part.name for part, refusal in answers if refusal and part.name not in {*untold, *unusable}]
    if unusable:
        yield wrong("topology", f"there, but not on any node: {_listed(unusable)}", "see that the broker's nodes run")
    if untold and not missing:
        yield doubtful("topology", f"the user may not ask the broker about {_listed(untold)}; the others are there")
    elif not missing:
        yield good("topology", f"all {len(described.exchanges)} exchanges and {len(described.queues)} queues are there")
    elif settings.topology == "declare":
        yield good("topology", f"{len(missing)} of {len(parts)} not there yet: the worker declares them at its start")
    else:
        yield wrong(
            "topology", f"missing: {_listed(missing)}", "unlink-worker topology declare, or UNLINK_BROKER__TOPOLOGY"
        )
    async for finding in _arguments(settings, there, connection):
        yield finding
    yield await _permissions([part.name for part in there], described, connection)


async def _arguments(
    settings: BrokerSettings, there: list[Exchange | Queue], connection: AsyncioConnection
) -> AsyncIterator[Finding]:
    """Declare the existing exchanges and queues again. This changes nothing, and fails if their arguments differ."""
    if settings.topology == "verify" or not there:
        return
    refusals = [(part.name, refusal) for part in there if (refusal := await _refusal(connection, part, passive=False))]
    for name, refusal in refusals:
        if refusal.reply_code == PRECONDITION_FAILED:
            remedy = "drain and delete it, so that the worker can declare it anew"
            yield wrong("arguments", f"{name} was declared with others: {refusal}", remedy)
    denied = [name for name, refusal in refusals if refusal.reply_code == ACCESS_REFUSED]
    if denied:
        remedy = "rabbitmqctl set_permissions, or UNLINK_BROKER__TOPOLOGY=verify"
        yield wrong("permissions", f"may not configure {_listed(denied)}", remedy)
    if not refusals:
        yield good("arguments", "exchanges and queues are as the worker declares them")


async def _refusal(connection: AsyncioConnection, part: Exchange | Queue, *, passive: bool) -> ChannelLostError | None:
    """The broker's refusal of a declaration, or None. Use `passive=False` only for existing exchanges and queues."""
    channel = await AwaitableChannel.open(connection)
    arguments: dict[str, Any] = {"passive": passive, "durable": True, "arguments": part.arguments}
    try:
        if isinstance(part, topology.Exchange):
            named = {"exchange": part.name, "exchange_type": part.kind}
            await channel.call(channel.raw.exchange_declare, **named, **arguments)
        else:
            await channel.call(channel.raw.queue_declare, queue=part.name, **arguments)
    except ChannelLostError as error:
        if error.channel_alone:
            return error
        raise
    await channel.close()
    return None


# --- permissions ------------------------------------------------------------------------------------------------------


async def _permissions(there: list[str], described: topology.Topology, connection: AsyncioConnection) -> Finding:
    written, read = described.written, described.consumed
    tried = [name for name in (*written, *read) if name in there]
    denied = [f"write to {name}" for name in written if name in there and not await _may_write(connection, name)]
    denied += [f"read from {name}" for name in read if name in there and not await _may_read(connection, name)]
    if denied:
        return wrong("permissions", f"may not {_listed(denied)}", "rabbitmqctl set_permissions")
    if not tried:
        return doubtful("permissions", "cannot be tried before exchanges and queues are there")
    return good("permissions", "may write to the exchanges and read from the queues that it uses")


async def _may_write(connection: AsyncioConnection, exchange: str) -> bool:
    """Publish an invalid message. The broker refuses it, but checks the permission to write first."""
    channel = await AwaitableChannel.open(connection)
    channel.raw.basic_publish(exchange, "doctor", b"", BasicProperties(expiration=_NO_EXPIRATION))
    await asyncio.wait((channel.closed,), timeout=_REFUSAL_SECONDS)
    if not channel.closed.done():
        await channel.close()
        return True
    return ChannelLostError(channel.closed.result()).reply_code != ACCESS_REFUSED


async def _may_read(connection: AsyncioConnection, queue: str) -> bool:
    """Get one message and requeue it at once. This counts as one of the thousand deliveries that a message may have."""
    channel = await AwaitableChannel.open(connection)
    got: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    channel.raw.add_callback(lambda _frame: settle(got, None), [Basic.GetEmpty])
    channel.raw.basic_get(queue, lambda _channel, method, _properties, _body: settle(got, method.delivery_tag))
    try:
        tag = await channel.until(got)
    except ChannelLostError as error:
        if not error.channel_alone:
            raise
        return error.reply_code not in {ACCESS_REFUSED, NOT_FOUND}
    if tag is not None:
        channel.raw.basic_nack(tag, requeue=True)
    await channel.close()
    return True


def _listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
