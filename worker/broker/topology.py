"""Exchanges, queues and bindings: one description as data, and how it is declared or checked.

Everything is durable, and all queues are quorum queues. Settings without which messages could be lost are arguments:
the dead-letter exchange of a queue, and the alternate exchange of an exchange. A policy would be easier to change, but
only one policy applies to a queue: an operator's own policy would silently disable it. Besides, AMQP cannot declare a
policy. Settings that may differ between installations, such as limits, are better set by a policy. A queue or an
exchange that exists with other arguments cannot be declared again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import structlog

from worker.broker.channels import AwaitableChannel
from worker.broker.problems import ACCESS_REFUSED, NOT_FOUND, ChannelLostError, QueueNotReadyError, TopologyError

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection

COMMANDS = "unlink.commands"
EVENTS = "unlink.events"
UNROUTED = "unlink.unrouted"
MISROUTED = "unlink.misrouted"
DEAD = "unlink.dead"

#: Seconds of the delay queues: for a busy job, a short outage, and two lengths of longer outages.
DELAY_TIERS: Sequence[int] = (5, 30, 120, 600)

#: How often a command may return unacknowledged before the broker treats it as a poison message and dead-letters it.
#: RabbitMQ counts every delivery that was not acknowledged (from 4.3 on, those ended by `basic.nack` or by the consumer
#: timeout do not count), so one crash counts against each message that the worker held. With the default of 4.0 and
#: later, which is 20, a series of crashes would dead-letter commands that did not cause them. The
#: worker counts failed attempts itself, in a header (`Delivery.attempt`). This limit is only the last resort against a
#: message that crashes the whole worker each time. Such a message goes to `unlink.misrouted`, where it is answered from
#: the ledger. At the limit of that queue, it goes to `unlink.dead`.
COMMAND_DELIVERY_LIMIT = 1000

#: The delivery limit of queues that people browse. Browsing takes messages and requeues them, which counts each time
#: before 4.3. The limit is high because "no limit" cannot be set in the same way everywhere: 3.10 accepts no negative
#: number, and from 4.0 on a queue without the argument has the limit 20.
BROWSED_DELIVERY_LIMIT = 1_000_000

#: How many events without a subscriber are kept; the oldest are dropped first.
UNROUTED_MAX_LENGTH = 10_000


_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: Literal["direct", "fanout", "topic"]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """The binding of a queue to an exchange; a fanout exchange ignores the routing key."""

    exchange: str
    queue: str
    routing_key: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """All exchanges, queues and bindings that the worker needs.

    Exchanges are in the order in which they are declared, each with the queues bound to it. An alternate exchange and
    its queue are declared before the exchange that refers to it, so that no unroutable message is lost.
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
    """The name of the queue of one Enterprise Manager's commands."""
    return f"{COMMANDS}.{enterprise_manager}"


def delay_exchange(seconds: int) -> str:
    """The name of the exchange of one delay, and of its queue."""
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
            # A copy is published to the delay's fanout exchange with the Enterprise Manager's name as its routing key,
            # and keeps that key when the queue dead-letters it.
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
    """Declare all exchanges, queues and bindings. Those that exist are unchanged.

    Raises:
        TopologyError: an exchange or a queue exists with other arguments, or the user may not declare it.
        QueueNotReadyError: a queue exists, and cannot be used at the moment.
        ChannelLostError: the connection was lost.
    """
    channel = await AwaitableChannel.open(connection)
    queues = {queue.name: queue for queue in topology.queues}
    with channel.closed_on_error():
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
            kind = QueueNotReadyError if error.not_ready else TopologyError
            raise kind(f"{what} cannot be declared: {error}") from None
        raise


async def verify(topology: Topology, connection: AsyncioConnection) -> None:
    """Check that every exchange and queue exists. AMQP cannot query their arguments and bindings.

    An exchange or a queue that the user may not ask about counts as existing. From 4.3 on (and in 4.2.6) RabbitMQ
    refuses the passive declaration to a user without any permission on the resource (pull requests 16085 and 16272 of
    rabbitmq/rabbitmq-server).
    A worker needs no permission on some resources, such as the queue of unrouted events. The log names them.

    Raises:
        TopologyError: an exchange or a queue is missing; the text names all that are.
        ChannelLostError: the connection was lost.
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
    """Whether an exchange or a queue exists; None if the user may not ask.

    `arguments`: those of pika's `exchange_declare` (with `exchange`) or `queue_declare`.

    Raises:
        TopologyError: the broker refuses the passive declaration for another reason.
        ChannelLostError: the connection was lost.
    """
    # One channel for each question: the broker closes the channel if the exchange or queue does not exist.
    channel = await AwaitableChannel.open(connection)
    method = channel.raw.exchange_declare if "exchange" in arguments else channel.raw.queue_declare
    try:
        with channel.closed_on_error():
            await channel.call(method, passive=True, **arguments)
    except ChannelLostError as error:
        if error.not_ready:
            return True
        if error.reply_code == NOT_FOUND:
            return False
        if error.reply_code == ACCESS_REFUSED:
            return None
        if error.channel_alone:
            raise TopologyError(f"{next(iter(arguments.values()))} cannot be checked: {error}") from None
        raise
    await channel.close()
    return True
