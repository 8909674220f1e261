"""That every delivery of a key is answered, whenever it joins."""

from __future__ import annotations

from typing import cast

from contracts.batches import BatchEnded
from contracts.events import Event
from tests.end_to_end.in_process import Handed, KeptOutbox
from tests.steps import RecordedSteps
from worker.clock import SystemClock
from worker.unlinks.batches import Batches
from worker.unlinks.ports.broker import Delivery
from worker.unlinks.ports.ledger import Ledger
from worker.unlinks.ports.steps import Reporter
from worker.unlinks.replies import Replies

EVENT = b"{}"


class Published(KeptOutbox):
    """An outbox that keeps to which queues each event was published, and which deliveries had been acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.reply_queues: list[set[str]] = []

    async def publish(self, event: Event | BatchEnded | bytes, reply_to: object = ()) -> None:
        """Keep it."""
        assert event == EVENT
        self.reply_queues.append(set(cast("set[str]", reply_to)))


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

    assert outbox.reply_queues == [{"first"}, {"third"}, set()]
    assert all(delivery.acknowledged for delivery in (first, second, third))
