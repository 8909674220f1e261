"""How long one unlink may wait, and for what: the only place where the core lets time pass.

Four things end a wait early: the delivery has been held long enough (`DeferredError`), the command's own time is over
(`DeadlinePassedError`), somebody asked to cancel it (`CancelRequestedError`), or this worker is to stop
(`LeavingError`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from worker.unlinks.back_off import BackOff
from worker.unlinks.ports.enterprise_manager import Unavailable
from worker.unlinks.ports.ledger import CancelRequestedError
from worker.unlinks.ports.steps import StepKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.unlinks.ports.clock import Clock
    from worker.unlinks.ports.enterprise_manager import EnterpriseManager
    from worker.unlinks.ports.steps import Reporter
    from worker.unlinks.signals import Signal

#: The first pause after an Enterprise Manager that says it is available did not answer, and the longest, in seconds.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
#: How long a wait goes on, in seconds, before it is looked at again whether it has to end.
LONGEST_LOOK = 30.0
#: How often an Enterprise Manager that is available may leave one question unanswered.
MOST_UNANSWERED = 6

Answer = TypeVar("Answer")


class DeferredError(Exception):
    """Not now: the command goes to a delay queue, with its state in the ledger."""

    def __init__(self, why: str, seconds: float) -> None:
        super().__init__(why)
        self.why = why
        self.seconds = seconds


class DeadlinePassedError(Exception):
    """The command's `timeout_seconds` since the DELETE are over."""


class LeavingError(Exception):
    """This worker is to stop: the command is left to redelivery."""


class UnansweredError(Exception):
    """An Enterprise Manager that answers others did not answer this question, again and again."""


def abandon(future: asyncio.Future[Any]) -> None:
    """Cancel what nobody waits for any more; how it ends does not matter."""
    future.cancel()
    if future.done():
        _ignore(future)
    else:
        future.add_done_callback(_ignore)


def _ignore(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()


@dataclass(slots=True)
class Waiting:
    """One unlink's waiting.

    `hold_until` says until when its deliveries may stay unacknowledged, `deadline` when its own time is over, both by
    the monotonic clock; `leaving` is set when the worker is to stop, `cancelled` when somebody asked to cancel it. With
    `heeds_cancel` off, a cancel ends no wait: it is not its hold, or it was taken note of.
    """

    clock: Clock
    hold_until: Callable[[], float]
    leaving: Signal
    cancelled: Signal
    report: Reporter
    heeds_cancel: bool = True
    deadline: float | None = None

    async def wait(self, seconds: float) -> None:
        """Let `seconds` pass."""
        await self._bounded(asyncio.sleep(max(seconds, 0)))

    def require_not_cancelled(self) -> None:
        """Go on, unless somebody asked to cancel.

        Raises:
            CancelRequestedError: somebody did.
        """
        if self.cancelled.is_set() and self.heeds_cancel:
            raise CancelRequestedError

    async def wait_while_staying(self, seconds: float) -> bool:
        """Let `seconds` pass whatever the hold and the deadline say; False, at once, if the worker is to stop."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self.leaving.wait()
        except TimeoutError:
            return True
        return False

    async def until(self, condition: Awaitable[Answer]) -> Answer:
        """Wait for something that takes as long as it takes."""
        return await self._bounded(condition)

    async def to_the_end(self, exchange: Awaitable[Answer]) -> Answer:
        """Await an exchange that must not be cut off: a cancellation is ignored until the exchange is over.

        It has a deadline of its own. Whoever cancels does so again if the caller then goes on.
        """
        exchanging = asyncio.ensure_future(exchange)
        while not exchanging.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((exchanging,))
        return exchanging.result()

    async def ask(self, enterprise_manager: EnterpriseManager, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask until there is an answer, through an Enterprise Manager that goes away and comes back.

        Raises:
            UnansweredError: it is there, and yet does not answer this.
        """
        back_off = BackOff(self.clock, FIRST_PAUSE, LONGEST_PAUSE)
        for _ in range(MOST_UNANSWERED):
            try:
                return await self.until(question())
            except Unavailable as error:
                problem = str(error)
            self.report(StepKind.WAITING, problem=problem)
            await self.until(enterprise_manager.until_available())
            await self.wait(back_off.pause())
        raise UnansweredError(problem)

    async def _bounded(self, awaitable: Awaitable[Answer]) -> Answer:
        """Await it in this task, which is cancelled when the wait has to end."""
        interruption = _Interruption(self)
        heeded = (self.leaving, self.cancelled) if self.heeds_cancel else (self.leaving,)
        for signal in heeded:
            signal.connect(interruption.look)
        interruption.look_later()
        try:
            return await awaitable
        except asyncio.CancelledError:
            if interruption.taken_back() and interruption.error is not None:
                raise interruption.error from None
            raise
        finally:
            for signal in heeded:
                signal.disconnect(interruption.look)
            interruption.close()

    def left(self) -> float:
        """Until the next look at what may end a wait: a delivery that joins may bring an earlier end of the hold."""
        ends = [self.hold_until()] + ([] if self.deadline is None else [self.deadline])
        return min(max(min(ends) - self.clock.monotonic(), 0), LONGEST_LOOK)

    def require_time(self) -> None:
        """Raise if a wait has to end. The hold may have moved during it: a delivery came, or its channel has gone."""
        now = self.clock.monotonic()
        if self.leaving.is_set():
            raise LeavingError
        self.require_not_cancelled()
        if self.deadline is not None and self.deadline <= now:
            raise DeadlinePassedError
        if self.hold_until() <= now:
            raise DeferredError("the delivery was held as long as it may be", FIRST_PAUSE)


class _Interruption:
    """Cancels the task that made it when its wait has to end; `error` says why."""

    def __init__(self, waiting: Waiting) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a wait runs in a task")
        self._task = task
        self._cancellations = task.cancelling()
        self._waiting = waiting
        self._timer: asyncio.TimerHandle | None = None
        self._taken_back = False
        self.error: Exception | None = None

    def look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._waiting.left(), self.look)

    def look(self) -> None:
        self.stop()
        if self.error is not None:
            return
        try:
            self._waiting.require_time()
        except Exception as error:  # noqa: BLE001 - raised where the wait was begun
            self.error = error
            self._task.cancel()
        else:
            self.look_later()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def taken_back(self) -> bool:
        """Take the cancellation back, if there was one; false if the task was cancelled for another reason too."""
        if self.error is not None and not self._taken_back:
            self._taken_back = True
            return self._task.uncancel() <= self._cancellations
        return False

    def close(self) -> None:
        """End the looks. A cancellation that what was awaited has swallowed is taken back: its result stands."""
        self.stop()
        self.taken_back()
