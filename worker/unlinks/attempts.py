"""One attempt at a delivery, and what becomes of the delivery if the attempt fails.

Every exception delays the delivery and counts as a failed attempt. After the last attempt the delivery is rejected and
dead-lettered. The event of the rejection repeats only a valid key, nothing else of the message.

An answer that the broker refuses is never given up: the delivery is delayed, and answered again when it returns. The
same applies to a delivery that cannot even be rejected. Only if it cannot be delayed either, it returns to its queue,
where it comes before all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TypeVar

from worker.frames import without_frames
from worker.unlinks.ports.broker import Delivery, PublishRefusedError
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import EnterpriseManagerError
from worker.unlinks.ports.ledger import LeaseLostError
from worker.unlinks.ports.steps import Reporter, StepKind
from worker.unlinks.replies import Replies, UnpublishedError, refusals_of
from worker.unlinks.signals import Signal
from worker.unlinks.waiting import LONGEST_LOOK, DeferredError, LeavingError, UnansweredError

#: The wait after an attempt that failed in an unforeseen way, in seconds: it grows by the factor, up to the longest.
FIRST_RETRY_SECONDS = 5.0
RETRY_FACTOR = 3.0
LONGEST_RETRY_SECONDS = 600.0
#: The waits before an answer is published again, in seconds, by refusals before; the last one repeats without end.
REPUBLISH_SECONDS = (5.0, 30.0, 120.0, 600.0)

#: How often overdue work is cancelled again, in seconds: a request that must not be interrupted ends first.
CANCEL_AGAIN_SECONDS = 1.0
#: How long the answer to a delivery may take, in seconds, and then its delay.
ANSWER_SECONDS = 90.0

T = TypeVar("T")


class NotTheLastError(Exception):
    """An attempt at a run has failed, and it was not the last one. `cause`: the error; `attempt`: its number.

    `attempt` stays the same if a delivery of a later attempt joins after the failure: otherwise the run would be given
    up without an end in the ledger.
    """

    def __init__(self, cause: Exception, attempt: int) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.attempt = attempt


@dataclass(frozen=True, slots=True)
class Attempts:
    """Attempts at deliveries.

    Attributes:
        leaving: set when the worker is to stop.
        most: how many attempts may fail.
        hold_seconds: how long a delivery may stay unacknowledged, whatever it waits for.
    """

    replies: Replies
    clock: Clock
    leaving: Signal
    most: int
    hold_seconds: float

    def hold_until(self, deliveries: list[Delivery]) -> float:
        """Until when deliveries may be held, by the monotonic clock; infinite if the broker has all of them back."""
        oldest = min((delivery.taken_at for delivery in deliveries if delivery.live), default=float("inf"))
        return oldest + self.hold_seconds

    async def run(self, deliveries: list[Delivery], work: Coroutine[None, None, T], report: Reporter) -> T | None:
        """Do the work and return its result. None if it failed; then each delivery is answered or back in its queue.

        Work that lasts longer than the hold is cancelled, and the deliveries are delayed. Deliveries may join while
        this runs. Raises nothing but `asyncio.CancelledError`.
        """
        try:
            return await self._within_the_hold(deliveries, work)
        except LeavingError:
            report(StepKind.LEFT)
        except LeaseLostError:
            report(StepKind.LEASE_LOST)
            _requeue(deliveries)
        except DeferredError as later:
            report(StepKind.DEFERRING, why=later.why, seconds=later.seconds)
            deferral = self.replies.delay(deliveries, later.seconds, report)
            await self._answer(deliveries, attempt_of(deliveries), deferral, report)
        except Exception as error:  # noqa: BLE001 - after any error the deliveries must be answered or returned
            if self.leaving.is_set():  # at the end of a drain, ledger and broker are closed while it runs
                report(StepKind.CUT_OFF, problem=str(error))
                return None
            attempt, cause = attempt_of(deliveries), error
            if isinstance(error, NotTheLastError):
                attempt, cause = error.attempt, error.cause
            _report_failure(cause, attempt, report)
            if isinstance(cause, UnpublishedError):
                seconds = REPUBLISH_SECONDS[min(refusals_of(deliveries), len(REPUBLISH_SECONDS) - 1)]
                answer = self._delay_unpublished(deliveries, cause, seconds, report)
            elif attempt < self.most:
                seconds = self.clock.jitter(retry_seconds(attempt))
                answer = self.replies.delay(deliveries, seconds, report, failed=True)
            else:
                report(StepKind.GAVE_UP, attempt=attempt, error=cause)
                answer = self.replies.give_up(deliveries, _gave_up(attempt, cause), report)
            without_frames(error)  # it has been logged, and this frame holds its cause
            await self._answer(deliveries, attempt, answer, report)
        return None

    async def _within_the_hold(self, deliveries: list[Delivery], work: Coroutine[None, None, T]) -> T:
        """Do the work in this task, which is cancelled when the hold is over."""

        def left() -> float:
            return self.hold_until(deliveries) - self.clock.monotonic()

        if left() <= 0:
            work.close()
            raise _held_too_long()
        end = _EndOfHold(left)
        try:
            return await work
        except asyncio.CancelledError:
            if end.taken_back():
                raise _held_too_long() from None
            raise
        finally:
            end.close()

    def gave_up(self, error: Exception, deliveries: list[Delivery], report: Reporter) -> str:
        """Report that the last attempt has failed, and return the text for the event.

        Deferral, leaving and the loss of a lease are not failures.

        Raises:
            DeferredError, LeavingError, LeaseLostError: the error itself, which was no failure.
            NotTheLastError: it was not the last attempt.
        """
        attempt = attempt_of(deliveries)
        if isinstance(error, (DeferredError, LeavingError, LeaseLostError)):
            raise error
        if attempt < self.most:
            raise NotTheLastError(error, attempt) from error
        report(StepKind.GAVE_UP, attempt=attempt, error=error)
        return _gave_up(attempt, error)

    async def _answer(
        self, deliveries: list[Delivery], attempt: int, answer: Coroutine[None, None, None], report: Reporter
    ) -> None:
        """Give the answer. If that fails, delay the deliveries; if that fails, too, return them to their queue.

        A delivery that returns to its queue comes before all others, and is not counted by the broker from 4.3 on.
        Others would then wait for it without end.
        """
        error = await _failure_of(answer)
        if error is not None and not self.leaving.is_set():
            _report_failure(error, attempt, report)
            without_frames(error)
            seconds = REPUBLISH_SECONDS[-1]
            error = await _failure_of(self._delay_unpublished(deliveries, error, seconds, report))
        if error is None:
            return
        if self.leaving.is_set():
            report(StepKind.CUT_OFF, problem=str(error))
            return
        report(StepKind.REQUEUED, problem=str(error), error=error)
        try:
            async with asyncio.timeout(self.clock.jitter(FIRST_RETRY_SECONDS)):
                await self.leaving.wait()
        except TimeoutError:
            _requeue(deliveries)

    async def _delay_unpublished(
        self, deliveries: list[Delivery], error: Exception, seconds: float, report: Reporter
    ) -> None:
        """Delay deliveries whose answer was not published: it is published again when they return.

        This is no attempt at the command: a run that is retried after many refusals has all its attempts.
        """
        report(StepKind.UNPUBLISHED, refusals=1 + refusals_of(deliveries), problem=str(error), seconds=seconds)
        await self.replies.delay(deliveries, seconds, report, refused=True)


async def _failure_of(answer: Coroutine[None, None, None]) -> Exception | None:
    """Give an answer; return the error if that fails, or takes too long."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS) as limit:
            await answer
    except Exception as error:  # noqa: BLE001 - the deliveries must be answered or returned after any error
        return TimeoutError(f"not confirmed within {ANSWER_SECONDS:.0f} s") if limit.expired() else error
    return None


def _report_failure(error: Exception, attempt: int, report: Reporter) -> None:
    """Report an error, unless the broker refused an answer, which is no failure of the worker."""
    refusal = error.__cause__ if isinstance(error, UnpublishedError) else error
    if not isinstance(refusal, PublishRefusedError):
        report(StepKind.ATTEMPT_FAILED, attempt=attempt, problem=str(error), error=error)


class _EndOfHold:
    """Cancels the task that made it when `left()`, in seconds, is over; again and again until it is closed.

    A delivery that joins may end the hold earlier, so that it is looked at from time to time.
    """

    def __init__(self, left: Callable[[], float]) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("an attempt runs in a task")
        self._task = task
        self._left = left
        self._cancellations = 0
        self._others = task.cancelling()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(min(left(), LONGEST_LOOK), self._look)

    def _look(self) -> None:
        left = self._left()
        if left <= 0:
            self._cancellations += 1
            self._task.cancel()
        self._timer = self._loop.call_later(min(left, LONGEST_LOOK) if left > 0 else CANCEL_AGAIN_SECONDS, self._look)

    def taken_back(self) -> bool:
        """Undo the cancellations. Return whether there were some, and no other reason to cancel the task."""
        ours, self._cancellations = self._cancellations, 0
        for _ in range(ours):
            self._task.uncancel()
        return ours > 0 and self._task.cancelling() <= self._others

    def close(self) -> None:
        """Stop looking. If the work has ignored the cancellations, undo them: its result is valid."""
        self._timer.cancel()
        self.taken_back()


def attempt_of(deliveries: list[Delivery]) -> int:
    """The number of the attempt at deliveries that are answered together."""
    return max((delivery.attempt for delivery in deliveries), default=1)


def retry_seconds(attempt: int) -> float:
    """The pause after a failed attempt, before jitter, in seconds."""
    return min(FIRST_RETRY_SECONDS * RETRY_FACTOR ** (min(attempt, 10) - 1), LONGEST_RETRY_SECONDS)


def _held_too_long() -> DeferredError:
    return DeferredError("the delivery was held as long as it may be", FIRST_RETRY_SECONDS)


def _requeue(deliveries: list[Delivery]) -> None:
    for delivery in deliveries:
        delivery.requeue()


def _gave_up(attempt: int, error: Exception) -> str:
    """The text for the event: never that of an unforeseen error, which may name hosts, users or queries."""
    foreseen = isinstance(error, (EnterpriseManagerError, UnansweredError))
    cause = str(error) if foreseen else f"an unexpected error in the worker ({type(error).__name__}), see its log"
    return f"gave up after {attempt} attempts: {cause}"
