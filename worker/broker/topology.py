"""Exchanges, queues and bindings: one description as data, and how it is declared or checked.

All is durable, and all queues are quorum queues. Arguments are used where a message could otherwise be lost: where a
queue dead-letters to, and an exchange's alternate exchange. A policy would be easier to change, but only one policy
applies to a queue, so that an operator's own policy would disable it unnoticed. Besides, AMQP cannot declare a policy.
What may differ from one installation to the next, such as a limit, is for a policy. A queue or an exchange that exists
with other arguments cannot be declared again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import structlog

from worker.broker.channels import AwaitableChannel
from worker.broker.problems import ACCESS_REFUSED, NOT_FOUND, ChannelLostError, TopologyError

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection

COMMANDS = "unlink.commands"
EVENTS = "unlink.events"
UNROUTED = "unlink.unrouted"
MISROUTED = "unlink.misrouted"
DEAD = "unlink.dead"

#: Seconds of the delay queues: for a busy job, a short outage, and two kinds of long ones.
DELAY_TIERS: Sequence[int] = (5, 30, 120, 600)

#: How often a command may come back before the broker takes it for poison and dead-letters it.
#: RabbitMQ counts every delivery that was not acknowledged, so that one crash counts against each message that the
#: worker held; its default since 4.0, 20, would take innocent commands away in one bad night. Attempts that failed are
#: counted by the worker, in a header (`Delivery.attempt`): this limit is only the last resort against a message that
#: brings the whole worker down each time. Such a message goes to `unlink.misrouted`, where it is answered from the
#: ledger; past the limit of that queue, it goes to `unlink.dead`.
COMMAND_DELIVERY_LIMIT = 1000

#: For queues that people look through: each look takes messages and gives them back, which counts. There is no word for
#: "no limit" that both 3.10 (no negative number) and 4.0 (20 if nothing is said) understand.
BROWSED_DELIVERY_LIMIT = 1_000_000

#: Events without a subscriber; the oldest are dropped first.
UNROUTED_MAX_LENGTH = 10_000


_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange, durable."""

    name: str
    kind: Literal["direct", "fanout", "topic"]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A quorum queue."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """What leads from an exchange to a queue."""

    exchange: str
    queue: str
    routing_key: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """All that the worker needs the broker to have.

    Exchanges are in the order in which they are declared, each with the queues bound to it: what an exchange cannot
    route has somewhere to go before the exchange is there.
    """

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]

    @property
    def written(self) -> list[str]:
        """The exchanges that the worker publishes to. Publishers and the broker itself fill the others."""
        filled = {COMMANDS, MISROUTED, UNROUTED}
        return [exchange.name for exchange in self.exchanges if exchange.name not in filled]

    @property
    def consumed(self) -> list[str]:
        """The queues that the worker consumes."""
        return [binding.queue for binding in self.bindings if binding.exchange in {COMMANDS, MISROUTED}]


def command_queue(enterprise_manager: str) -> str:
    """The queue of one Enterprise Manager's commands."""
    return f"{COMMANDS}.{enterprise_manager}"


def delay_exchange(seconds: int) -> str:
    """The exchange, and the queue, of one delay."""
    return f"unlink.delay.{seconds}s"


def describe(enterprise_managers: Iterable[str], delay_tiers: Iterable[int] = DELAY_TIERS) -> Topology:
    """The topology for these Enterprise Managers and delays, in seconds."""
    managers, tiers = list(enterprise_managers), list(delay_tiers)
    return Topology(
        exchanges=(
            Exchange(DEAD, "fanout"),
            Exchange(UNROUTED, "fanout"),
            Exchange(MISROUTED, "fanout"),
            Exchange(EVENTS, "topic", {"alternate-exchange": UNROUTED}),
            *(Exchange(delay_exchange(seconds), "fanout") for seconds in tiers),
            Exchange(COMMANDS, "direct", {"alternate-exchange": MISROUTED}),
        ),
        queues=(
            _quorum(DEAD, {"x-delivery-limit": BROWSED_DELIVERY_LIMIT}),
            _quorum(
                UNROUTED,
                {
                    "x-delivery-limit": BROWSED_DELIVERY_LIMIT,
                    "x-max-length": UNROUTED_MAX_LENGTH,
                    "x-overflow": "drop-head",
                },
            ),
            _quorum(MISROUTED, {"x-delivery-limit": COMMAND_DELIVERY_LIMIT, **_dead_lettering(DEAD)}),
            *(
                _quorum(command_queue(name), {"x-delivery-limit": COMMAND_DELIVERY_LIMIT, **_dead_lettering(MISROUTED)})
                for name in managers
            ),
            # The routing key stays: published to the delay's exchange, a fanout, with the Enterprise Manager's name.
            *(
                _quorum(delay_exchange(seconds), {"x-message-ttl": 1000 * seconds, **_dead_lettering(COMMANDS)})
                for seconds in tiers
            ),
        ),
        bindings=(
            Binding(DEAD, DEAD),
            Binding(UNROUTED, UNROUTED),
            Binding(MISROUTED, MISROUTED),
            *(Binding(COMMANDS, command_queue(name), routing_key=name) for name in managers),
            *(Binding(delay_exchange(seconds), delay_exchange(seconds)) for seconds in tiers),
        ),
    )


def _quorum(name: str, arguments: Mapping[str, Any]) -> Queue:
    return Queue(name, {"x-queue-type": "quorum", **arguments})


def _dead_lettering(exchange: str) -> dict[str, Any]:
    # Without `reject-publish`, at-least-once dead-lettering quietly becomes at-most-once
    # (https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering).
    return {
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


async def declare(topology: Topology, connection: AsyncioConnection) -> None:
    """Declare all of it; what is there already stays as it is.

    Raises:
        TopologyError: something exists with other arguments, or the user may not declare it.
        ChannelLostError: the connection went.
    """
    channel = await AwaitableChannel.open(connection)
    queues = {queue.name: queue for queue in topology.queues}
    for exchange in topology.exchanges:
        arguments = {"exchange_type": exchange.kind, "durable": True, "arguments": exchange.arguments}
        await _declare_one(
            channel, f"exchange {exchange.name}", channel.raw.exchange_declare, exchange=exchange.name, **arguments
        )
        for binding in (each for each in topology.bindings if each.exchange == exchange.name):
            await _declare_bound(channel, queues[binding.queue], binding)
    await channel.close()


async def _declare_bound(channel: AwaitableChannel, queue: Queue, binding: Binding) -> None:
    await _declare_one(
        channel,
        f"queue {queue.name}",
        channel.raw.queue_declare,
        queue=queue.name,
        durable=True,
        arguments=queue.arguments,
    )
    await _declare_one(
        channel,
        f"binding of queue {queue.name}",
        channel.raw.queue_bind,
        queue=queue.name,
        exchange=binding.exchange,
        routing_key=binding.routing_key,
    )


async def _declare_one(channel: AwaitableChannel, what: str, method: Any, **arguments: Any) -> None:
    try:
        await channel.call(method, **arguments)
    except ChannelLostError as error:
        if error.channel_alone:
            raise TopologyError(f"{what} cannot be declared: {error}") from None
        raise


async def verify(topology: Topology, connection: AsyncioConnection) -> None:
    """Check that every exchange and queue is there. AMQP has no question for their arguments and bindings.

    What the user may not ask about counts as there. From 4.3 on (and in 4.2.6) RabbitMQ refuses the question to a user
    without any permission on the thing asked about (rabbitmq-server 16085, 16272), and a worker needs none on some,
    such as the queue of unrouted events. They are named in the log.

    Raises:
        TopologyError: naming all that is missing.
        ChannelLostError: the connection went.
    """
    answers = {what: await exists(connection, arguments) for what, arguments in _questions(topology)}
    missing = [what for what, there in answers.items() if there is False]
    if missing:
        raise TopologyError(
            f"the broker lacks {', '.join(missing)}: declare it (unlink-worker topology declare), or set "
            "UNLINK_BROKER__TOPOLOGY=declare"
        )
    unknown = [what for what, there in answers.items() if there is None]
    if unknown:
        _log.info("broker.topology_not_verified", problem=f"the user may not ask about {', '.join(unknown)}")


def _questions(topology: Topology) -> Iterator[tuple[str, dict[str, Any]]]:
    for exchange in topology.exchanges:
        # The kind is not compared in a passive declaration.
        yield f"exchange {exchange.name}", {"exchange": exchange.name, "exchange_type": exchange.kind}
    for queue in topology.queues:
        yield f"queue {queue.name}", {"queue": queue.name}


async def exists(connection: AsyncioConnection, arguments: Mapping[str, Any]) -> bool | None:
    """Whether an exchange or a queue is there, by the arguments of its declaration; None if the user may not ask.

    Raises:
        TopologyError: the broker does not say, for another reason.
        ChannelLostError: the connection went.
    """
    # A channel for each question: the broker's way of saying no is to close it.
    channel = await AwaitableChannel.open(connection)
    method = channel.raw.exchange_declare if "exchange" in arguments else channel.raw.queue_declare
    try:
        await channel.call(method, passive=True, **arguments)
    except ChannelLostError as error:
        if error.reply_code == NOT_FOUND:
            return False
        if error.reply_code == ACCESS_REFUSED:
            return None
        if error.channel_alone:
            raise TopologyError(f"{next(iter(arguments.values()))} cannot be checked: {error}") from None
        raise
    await channel.close()
    return True
