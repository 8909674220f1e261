"""That every delivery of a key is answered, whenever it joins."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from contracts.batches import BatchEnded
from contracts.events import Event
from tests.end_to_end.in_process import Handed, KeptOutbox
from tests.steps import RecordedSteps
from worker.clock import SystemClock
from worker.unlinks.batches import Batches
from worker.unlinks.ports.broker import Delivery, ReplyTo
from worker.unlinks.ports.ledger import Ledger
from worker.unlinks.ports.steps import Reporter
from worker.unlinks.replies import Replies

EVENT = b"{}"


class Published(KeptOutbox):
    """An outbox that keeps to which queues each event was published, and which deliveries had been acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: list[set[ReplyTo]] = []
        self.refusals: list[int] = []

    async def publish(
        self, event: Event | BatchEnded | bytes, reply_to: Collection[ReplyTo] = (), *, refusals: int = 0
    ) -> None:
        """Keep it."""
        assert event == EVENT
        assert len(set(reply_to)) == len(reply_to)
        self.replies.append(set(reply_to))
        self.refusals.append(refusals)


async def test_a_command_that_joins_after_the_event_was_published_is_answered_by_the_event_again() -> None:
    """The sender of such a command may listen only since then, and would wait for ever."""
    outbox, clock = Published(), SystemClock()
    replies = Replies(outbox, clock, Batches(cast("Ledger", None)))
    first, second, third = (Handed(b"", clock.monotonic(), reply_to=name) for name in ("first", None, "third"))
    deliveries: list[Delivery] = [first]
    later = [second, third]

    async def ended_batches() -> list[BatchEnded]:
        """Nothing; a delivery joins while it is asked for, which is after the event's confirm."""
        if later:
            deliveries.append(later.pop(0))
        assert not any(delivery.acknowledged for delivery in (first, second, third))
        return []

    await replies.publish(EVENT, deliveries, Reporter(RecordedSteps(), "default", "CHG1"), ended_batches)

    assert outbox.replies == [{ReplyTo("first")}, {ReplyTo("third")}, set()]
    assert all(delivery.acknowledged for delivery in (first, second, third))


async def test_each_delivery_gets_a_reply_with_its_own_correlation_id() -> None:
    """Two callers that share a queue tell their replies apart by it alone; one would wait for ever."""
    outbox, clock = Published(), SystemClock()
    replies = Replies(outbox, clock, Batches(cast("Ledger", None)))

    def waiting(correlation_id: str | None, queue: str | None = "shared") -> Handed:
        return Handed(b"", clock.monotonic(), reply_to=queue, correlation_id=correlation_id)

    deliveries: list[Delivery] = [waiting("A"), waiting("B"), waiting("A"), waiting(None), waiting("C", None)]
    late = [waiting("A"), waiting("D")]

    async def ended_batches() -> list[BatchEnded]:
        """Nothing; a repeat and another caller join after the first event."""
        deliveries.extend(late)
        late.clear()
        return []

    await replies.publish(EVENT, deliveries, Reporter(RecordedSteps(), "default", "CHG1"), ended_batches)

    first = {ReplyTo("shared", "A"), ReplyTo("shared", "B"), ReplyTo("shared")}
    assert outbox.replies == [first, {ReplyTo("shared", "D")}]


async def test_an_answer_that_was_refused_says_so_when_it_is_published_again() -> None:
    """It kept its slot for a minute each time: some hundreds of them, and a full subscriber stopped the others."""
    outbox, clock = Published(), SystemClock()
    replies = Replies(outbox, clock, Batches(cast("Ledger", None)))
    deliveries: list[Delivery] = [Handed(b"", clock.monotonic()), Handed(b"", clock.monotonic(), refusals=3)]
    await replies.publish(EVENT, deliveries, Reporter(RecordedSteps(), "default", "CHG1"))
    await replies.publish(EVENT, [], Reporter(RecordedSteps(), "default", "CHG1"))
    await replies.repeat(EVENT, deliveries, Reporter(RecordedSteps(), "default", "CHG1"))
    assert outbox.refusals == [3, 0, 3]
