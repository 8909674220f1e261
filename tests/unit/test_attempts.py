"""As what the failure of an attempt is reported."""

from __future__ import annotations

from typing import cast

import pytest

from tests.end_to_end.in_process import Handed, KeptOutbox
from tests.steps import RecordedSteps
from worker.clock import SystemClock
from worker.telemetry.step_log import STEP_EVENTS
from worker.unlinks.attempts import Attempts
from worker.unlinks.batches import Batches
from worker.unlinks.ports.broker import Delivery, PublishRefusedError
from worker.unlinks.ports.ledger import Ledger
from worker.unlinks.ports.steps import Reporter
from worker.unlinks.replies import Replies
from worker.unlinks.signals import Signal

EVENT = b"{}"
FULL = "the broker refused the message: a queue bound to the exchange is full"


class RefusingOutbox(KeptOutbox):
    """An outbox whose publishes all fail, and that delays whatever it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def publish(self, *_: object) -> None:
        """Fail."""
        raise self._error

    async def delay(self, delivery: Delivery, seconds: float, *, failed: bool) -> None:
        """Keep it."""
        del seconds, failed
        self.returning.put_nowait(delivery)


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (PublishRefusedError(FULL), {"unlink.unpublished": "warning"}),
        (KeyError("outcome"), {"unlink.attempt_failed": "error", "unlink.unpublished": "warning"}),
    ],
    ids=["a full subscriber", "a bug"],
)
async def test_an_event_that_the_broker_refuses_is_no_error_of_the_worker(
    error: Exception, reported: dict[str, str]
) -> None:
    """One full subscriber would fill the log with stack traces, and a bug would be no longer found among them."""
    steps, clock = RecordedSteps(), SystemClock()
    outbox = RefusingOutbox(error)
    replies = Replies(outbox, clock, Batches(cast("Ledger", None)))
    attempts = Attempts(replies, clock, Signal(), most=5, hold_seconds=60.0)
    delivery = Handed(b"", clock.monotonic())
    report = Reporter(steps, "default", "CHG1")

    await attempts.run([delivery], replies.publish_settled(EVENT, [delivery], report), report)

    assert outbox.returning.get_nowait() is delivery
    assert delivery.acknowledged
    logged = [step for step in steps.steps if step.kind in STEP_EVENTS]
    assert dict(STEP_EVENTS[step.kind] for step in logged) == reported
    assert [step.error is not None for step in logged] == ["attempt_failed" in name for name in reported]
