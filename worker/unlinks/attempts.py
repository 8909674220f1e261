"""One attempt at a delivery, and what becomes of the delivery if the attempt fails.

Nothing unforeseen is the end of a delivery: any exception delays it and counts as a failed attempt. After the last
attempt it is rejected and dead-lettered, with an event that repeats nothing of the message but a valid key. If even
that fails, it returns to its queue.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from worker.unlinks.ports.enterprise_manager import EnterpriseManagerError
from worker.unlinks.ports.ledger import LeaseLostError
from worker.unlinks.ports.steps import StepKind
from worker.unlinks.replies import UnpublishedError
from worker.unlinks.waiting import DeferredError, LeavingError, UnansweredError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from worker.unlinks.ports.broker import Delivery
    from worker.unlinks.ports.clock import Clock
    from worker.unlinks.ports.steps import Reporter
    from worker.unlinks.replies import Replies

#: The wait after an attempt that failed in an unforeseen way, in seconds: it grows by the factor, up to the longest.
FIRST_RETRY_SECONDS = 5.0
RETRY_FACTOR = 3.0
LONGEST_RETRY_SECONDS = 600.0
#: The waits before a settled event is published again, in seconds, by attempt; the last one repeats without end.
REPUBLISH_SECONDS = (5.0, 30.0, 120.0, 600.0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempts:
    """Attempts at deliveries. `leaving` is set when the worker is to stop; `most` is how many may fail."""

    replies: Replies
    clock: Clock
    leaving: asyncio.Event
    most: int

    async def run(self, deliveries: list[Delivery], work: Coroutine[None, None, T], report: Reporter) -> T | None:
        """Do the work and return its result; None if it failed, with each delivery answered or back in its queue.

        Deliveries may join while this runs. Raises nothing but `asyncio.CancelledError`.
        """
        try:
            return await work
        except LeavingError:
            report(StepKind.LEFT)
        except LeaseLostError:
            report(StepKind.LEASE_LOST)
            _requeue(deliveries)
        except DeferredError as later:
            report(StepKind.DEFERRING, why=later.why, seconds=later.seconds)
            await self._answer(deliveries, self.replies.delay(deliveries, later.seconds, report, failed=False), report)
        except Exception as error:  # noqa: BLE001 - whatever it is, the deliveries must come back
            if self.leaving.is_set():  # what it worked with is closed under it, as a drain does in the end
                report(StepKind.CUT_OFF, problem=str(error))
                return None
            attempt = attempt_of(deliveries)
            report(StepKind.ATTEMPT_FAILED, attempt=attempt, problem=str(error), error=error)
            if isinstance(error, UnpublishedError):
                seconds = REPUBLISH_SECONDS[min(attempt, len(REPUBLISH_SECONDS)) - 1]
                answer = self.replies.delay(deliveries, seconds, report, failed=True)
            elif attempt < self.most:
                seconds = self.clock.jitter(retry_seconds(attempt))
                answer = self.replies.delay(deliveries, seconds, report, failed=True)
            else:
                report(StepKind.GAVE_UP, attempt=attempt, error=error)
                answer = self.replies.give_up(deliveries, _gave_up(attempt, error), report)
            await self._answer(deliveries, answer, report)
        return None

    def gave_up(self, error: Exception, deliveries: list[Delivery], report: Reporter) -> str:
        """Report that the last attempt has failed, and return the text for the event.

        To be deferred, to leave and to lose a lease are no failures.

        Raises:
            Exception: the error itself, if it was no failure or not the last attempt.
        """
        attempt = attempt_of(deliveries)
        if isinstance(error, (DeferredError, LeavingError, LeaseLostError)) or attempt < self.most:
            raise error
        report(StepKind.GAVE_UP, attempt=attempt, error=error)
        return _gave_up(attempt, error)

    async def _answer(self, deliveries: list[Delivery], answer: Coroutine[None, None, None], report: Reporter) -> None:
        """Give the answer; if that fails, return the deliveries to their queue after a pause, so that none is lost."""
        try:
            await answer
        except Exception as error:  # noqa: BLE001 - the last resort
            if self.leaving.is_set():
                report(StepKind.CUT_OFF, problem=str(error))
                return
            report(StepKind.REQUEUED, problem=str(error), error=error)
            try:
                async with asyncio.timeout(self.clock.jitter(FIRST_RETRY_SECONDS)):
                    await self.leaving.wait()
            except TimeoutError:
                _requeue(deliveries)


def attempt_of(deliveries: list[Delivery]) -> int:
    """The number of the attempt at deliveries that are answered together."""
    return max((delivery.attempt for delivery in deliveries), default=1)


def retry_seconds(attempt: int) -> float:
    """The pause after a failed attempt, before jitter, in seconds."""
    return min(FIRST_RETRY_SECONDS * RETRY_FACTOR ** (min(attempt, 10) - 1), LONGEST_RETRY_SECONDS)


def _requeue(deliveries: list[Delivery]) -> None:
    for delivery in deliveries:
        delivery.requeue()


def _gave_up(attempt: int, error: Exception) -> str:
    """What the event says: never the text of an unforeseen error, which may name hosts, users or queries."""
    foreseen = isinstance(error, (EnterpriseManagerError, UnansweredError))
    cause = str(error) if foreseen else f"an unexpected error in the worker ({type(error).__name__}), see its log"
    return f"gave up after {attempt} attempts: {cause}"
