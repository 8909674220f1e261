"""The broker: deliveries, and the outbox."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contracts.batches import BatchEnded
    from contracts.events import Event, Reason


#: Why the broker takes a message from its queue: it came back unacknowledged too often.
DELIVERY_LIMIT = "delivery_limit"


@dataclass(frozen=True, slots=True)
class Misrouting:
    """How a message came to the queue `unlink.misrouted`.

    Attributes:
        routing_key: with which it was published, as text.
        seconds: how long it has been in delay queues since its first delivery.
    """

    routing_key: str
    seconds: int


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """The queue where a sender waits for the answer, and the `correlation_id` by which they recognise it.

    Both are AMQP properties of the delivery that is answered. Without a `correlation_id`, the reply has the event's.
    """

    queue: str
    correlation_id: str | None = None


class Delivery(Protocol):
    """One delivery of one message, unacknowledged until `acknowledge` or `requeue` is called."""

    @property
    def body(self) -> bytes:
        """The message."""
        ...

    @property
    def content_type(self) -> str | None:
        """The AMQP property of that name."""
        ...

    @property
    def correlation_id(self) -> str | None:
        """The AMQP property of that name."""
        ...

    @property
    def reply_to(self) -> str | None:
        """The AMQP property of that name, if the allowed patterns match it; else None."""
        ...

    @property
    def user_id(self) -> str | None:
        """The broker user who published the message, if it says so and the broker has verified it; else None.

        For a delayed copy, the user who published the original.
        """
        ...

    @property
    def headers(self) -> Mapping[str, object]:
        """The message's headers."""
        ...

    @property
    def enterprise_manager(self) -> str:
        """The Enterprise Manager from whose queue the message was delivered.

        For a misrouted message, the one that it was for; `UNKNOWN_NAME` if it names none.
        """
        ...

    @property
    def misrouting(self) -> Misrouting | None:
        """How it was misrouted; None if it came on a command queue."""
        ...

    @property
    def taken_away(self) -> str | None:
        """Why the broker took the message from its queue, in one word (`DELIVERY_LIMIT`); None if it did not.

        The broker also does so if all copies together came back unacknowledged too often.
        """
        ...

    @property
    def attempt(self) -> int:
        """1, and one more for each earlier attempt that failed (`Outbox.delay` with `failed`)."""
        ...

    @property
    def refusals(self) -> int:
        """How often the broker refused its answer (`Outbox.delay` with `refused`)."""
        ...

    @property
    def redelivered(self) -> bool:
        """Whether the broker may have delivered the message before, as it says itself."""
        ...

    @property
    def returns(self) -> int:
        """How often the message and its copies returned to the broker unacknowledged, in all."""
        ...

    @property
    def taken_at(self) -> float:
        """When it was delivered, by `Clock.monotonic`."""
        ...

    @property
    def arrived_at(self) -> datetime:
        """The time of day when the message was first delivered; the same for its delayed copies.

        Anyone who sends can claim another one: only IDs of events and short waits are made from it.
        """
        ...

    @property
    def live(self) -> bool:
        """Whether its channel is still open."""
        ...

    def acknowledge(self) -> None:
        """Acknowledge it to the broker. Does nothing if its channel has closed."""
        ...

    def requeue(self) -> None:
        """Return it to its queue. Does nothing if its channel has closed."""
        ...


class PublishRefusedError(Exception):
    """The broker is available, but did not accept a message in time, although it was published repeatedly."""


class Outbox(Protocol):
    """Publishes to the broker. Each call returns once the broker has confirmed, and waits through reconnections.

    Each raises `PublishRefusedError` if the broker refuses the message for a minute, as it does when a subscriber's
    queue is full and has `x-overflow` `reject-publish`; if it has refused this answer before, for a few seconds.
    """

    async def publish(
        self, event: Event | BatchEnded | bytes, reply_to: Collection[ReplyTo] = (), *, refusals: int = 0
    ) -> None:
        """Publish an event to the events exchange; a stored one byte for byte. A terminal one also to `reply_to`.

        `refusals` says how often it was refused before.
        """
        ...

    async def offer(self, event: Event) -> None:
        """Publish a progress event once; nothing is repeated if the broker does not take it.

        Raises:
            PublishRefusedError: it did not.
        """
        ...

    async def delay(self, delivery: Delivery, seconds: float, *, failed: bool = False, refused: bool = False) -> None:
        """Put a copy of the message into the shortest delay queue of at least `seconds`; it comes back to its queue.

        With `failed`, the copy counts one attempt more (`Delivery.attempt`), with `refused` one refusal more. The
        copy of a misrouted message counts the delay (`Misrouting.seconds`), and goes to its own queue, if that exists
        by then. The caller then acknowledges.
        """
        ...

    async def dead_letter(self, delivery: Delivery, reason: Reason, run: int | None = None) -> None:
        """Put a copy of the message into `unlink.dead`, the reason in its headers. The caller then acknowledges.

        `run` is the run that the dead letter ends: a replay retries it.
        """
        ...
