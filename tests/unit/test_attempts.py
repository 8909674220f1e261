"""What becomes of a delivery whose attempt or answer fails, and as what that is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from contracts.events import ReasonCode
from contracts.reading import PartialParse
from tests.end_to_end.in_process import Handed, KeptOutbox
from tests.steps import RecordedSteps
from worker.clock import SystemClock
from worker.telemetry.step_log import STEP_EVENTS
from worker.unlinks.attempts import REPUBLISH_SECONDS, Attempts
from worker.unlinks.batches import Batches
from worker.unlinks.ports.broker import Delivery, PublishRefusedError
from worker.unlinks.ports.ledger import Ledger
from worker.unlinks.ports.steps import Reporter, StepKind
from worker.unlinks.replies import Replies
from worker.unlinks.signals import Signal

CLOCK = SystemClock()
EVENT = b"{}"
FULL = "the broker refused the message: a queue bound to the exchange is full"


class RefusingOutbox(KeptOutbox):
    """An outbox whose publishes all fail, and that delays whatever it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def publish(self, *_: object, **__: object) -> None:
        """Fail."""
        raise self._error

    async def delay(self, delivery: Delivery, seconds: float, *, failed: bool = False, refused: bool = False) -> None:
        """Keep it."""
        assert (failed, refused) == (False, True)
        self.delays.append(seconds)
        self.returning.put_nowait(delivery)


class UndelayingOutbox(RefusingOutbox):
    """An outbox that takes nothing at all."""

    async def delay(self, delivery: Delivery, seconds: float, *, failed: bool = False, refused: bool = False) -> None:
        """Fail."""
        del delivery, seconds, failed, refused
        raise PublishRefusedError("the delay queue is gone")


async def answer(
    delivery: Handed, outbox: KeptOutbox, steps: RecordedSteps, *, by: Callable[[Replies, Reporter], Any]
) -> None:
    """Attempt to answer a delivery."""
    replies = Replies(outbox, CLOCK, Batches(cast("Ledger", None)))
    attempts = Attempts(replies, CLOCK, Signal(), most=5, hold_seconds=60.0)
    report = Reporter(steps, "default", "CHG1")
    await attempts.run([delivery], by(replies, report), report)


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
    steps, outbox = RecordedSteps(), RefusingOutbox(error)
    delivery = Handed(b"", CLOCK.monotonic())

    await answer(delivery, outbox, steps, by=lambda replies, report: replies.publish_settled(EVENT, [delivery], report))

    assert outbox.returning.get_nowait() is delivery
    assert delivery.acknowledged
    logged = [step for step in steps.steps if step.kind in STEP_EVENTS]
    assert dict(STEP_EVENTS[step.kind] for step in logged) == reported
    assert [step.error is not None for step in logged] == ["attempt_failed" in name for name in reported]


def rejection(delivery: Handed) -> Callable[[Replies, Reporter], Any]:
    """The rejection of a delivery that is dead-lettered."""
    code = ReasonCode.INVALID_MESSAGE
    return lambda replies, report: replies.reject(delivery, PartialParse("CHG1"), code, "no", report, dead_letter=True)


@pytest.mark.parametrize(("refusals", "seconds"), [(0, 5.0), (1, 30.0), (2, 120.0), (3, 600.0), (50, 600.0)])
async def test_a_rejection_that_the_broker_refuses_is_never_given_up(refusals: int, seconds: float) -> None:
    """While a subscriber's queue is full, the command would end in another way, or write dead letters without end."""
    steps, outbox = RecordedSteps(), RefusingOutbox(PublishRefusedError(FULL))
    delivery = Handed(b"", CLOCK.monotonic(), refusals=refusals)

    await answer(delivery, outbox, steps, by=rejection(delivery))

    assert outbox.delays == [seconds]
    assert delivery.acknowledged
    reported = {step.kind for step in steps.steps}
    assert not reported & {StepKind.GAVE_UP, StepKind.DEAD_LETTERED, StepKind.ATTEMPT_FAILED}


async def test_a_delivery_that_cannot_even_be_rejected_is_delayed() -> None:
    """It would return to the head of its queue, and those behind it never be delivered."""
    steps, outbox = RecordedSteps(), RefusingOutbox(KeyError("a bug"))
    delivery = Handed(b"", CLOCK.monotonic(), attempt=5)

    await answer(delivery, outbox, steps, by=rejection(delivery))

    assert outbox.delays == [REPUBLISH_SECONDS[-1]]
    assert (delivery.acknowledged, delivery.requeued) == (True, False)
    logged = [STEP_EVENTS[step.kind][0] for step in steps.steps if step.kind in STEP_EVENTS]
    assert logged.count("unlink.gave_up") == 1
    assert logged[-2:] == ["unlink.attempt_failed", "unlink.unpublished"]


@pytest.mark.parametrize("attempt", [1, 5])
async def test_a_delivery_that_cannot_be_delayed_either_returns_to_its_queue(
    attempt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep its slot for ever, unanswered."""
    monkeypatch.setattr("worker.unlinks.attempts.FIRST_RETRY_SECONDS", 0.01)
    steps, outbox = RecordedSteps(), UndelayingOutbox(PublishRefusedError(FULL))
    delivery = Handed(b"", CLOCK.monotonic(), attempt=attempt)

    await answer(delivery, outbox, steps, by=rejection(delivery))

    assert (delivery.acknowledged, delivery.requeued) == (False, True)
    assert [step.kind for step in steps.steps].count(StepKind.REQUEUED) == 1


async def test_an_answer_that_hangs_is_over_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A confirm that never comes would keep the slot of a command that failed before."""
    monkeypatch.setattr("worker.unlinks.attempts.ANSWER_SECONDS", 0.05)
    steps, outbox = RecordedSteps(), RefusingOutbox(KeyError("a bug"))
    delivery = Handed(b"", CLOCK.monotonic(), attempt=5)

    async def hang(*_: object, **__: object) -> None:
        monkeypatch.setattr(outbox, "publish", lambda *_, **__: asyncio.sleep(3600))
        raise KeyError("a bug")

    monkeypatch.setattr(outbox, "publish", hang)
    await answer(delivery, outbox, steps, by=rejection(delivery))

    assert delivery.acknowledged
    (unpublished,) = (step for step in steps.steps if step.kind is StepKind.UNPUBLISHED)
    assert "not confirmed within" in unpublished.facts["problem"]
