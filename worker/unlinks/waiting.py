"""The waits of one unlink.

A wait ends early if the delivery was held long enough (`DeferredError`), the command's timeout is over
(`DeadlinePassedError`), its cancellation was requested (`CancelRequestedError`), or this worker is to stop
(`LeavingError`). `Attempts` limits the time of a whole attempt, and `Dispatcher.drain` that of the drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from worker.frames import without_frames
from worker.unlinks.back_off import BackOff
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import EnterpriseManager, Unavailable
from worker.unlinks.ports.ledger import CancelRequestedError
from worker.unlinks.ports.steps import Reporter, StepKind
from worker.unlinks.signals import Signal

#: The first and the longest pause, in seconds, after an available Enterprise Manager did not answer.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
#: The longest time, in seconds, between two checks whether a wait has to end.
LONGEST_LOOK = 30.0
#: How often an available Enterprise Manager may leave one request unanswered.
MOST_UNANSWERED = 6

Answer = TypeVar("Answer")


class DeferredError(Exception):
    """The command is put into a delay queue; its state is in the ledger."""

    def __init__(self, why: str, seconds: float) -> None:
        super().__init__(why)
        self.why = why
        self.seconds = seconds


class DeadlinePassedError(Exception):
    """The command's `timeout_seconds` since the DELETE have passed."""


class LeavingError(Exception):
    """This worker is to stop: the command is left to redelivery."""


class UnansweredError(Exception):
    """An available Enterprise Manager did not answer this request, several times."""


#: What ends a wait early.
ENDS_OF_WAITS = (DeferredError, DeadlinePassedError, LeavingError, CancelRequestedError)


@dataclass(slots=True)
class Departure:
    """Whether the request of an exchange may have left.

    `possible`: it was permitted, and it is not known that it was not carried out. `stop`: why it may leave no more.
    """

    check: Callable[[], Awaitable[float]]
    possible: bool = False
    stop: BaseException | None = None

    async def may_send(self) -> float:
        """The last moment at which the request may be written. From its return on, the request may have left."""
        self._require_going_on()
        last_moment = await self.check()
        self._require_going_on()
        self.possible = True
        return last_moment

    def unsent(self) -> None:
        """The permitted request was certainly not carried out: the exchange may be ended again."""
        self.possible = False
        self._require_going_on()

    def _require_going_on(self) -> None:
        if self.stop is not None:
            raise self.stop


def abandon(future: asyncio.Future[Any]) -> None:
    """Cancel a future whose result is no longer needed, and ignore how it ends."""
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

    `hold_until` returns the end of the hold of its deliveries; `deadline` is the end of its timeout. Both are times of
    the monotonic clock. `leaving` is set when the worker is to stop, `cancelled` when a cancellation was requested.
    Without `heeds_cancel`, a cancel ends no wait: it does not concern this unlink, or was already handled.
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
        """Return unless a cancellation was requested.

        Raises:
            CancelRequestedError: it was.
        """
        if self.cancelled.is_set() and self.heeds_cancel:
            raise CancelRequestedError

    async def wait_while_staying(self, seconds: float) -> bool:
        """Let `seconds` pass regardless of the hold and the deadline. Return False at once if the worker is to stop."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self.leaving.wait()
        except TimeoutError:
            return True
        return False

    async def until(self, condition: Awaitable[Answer]) -> Answer:
        """Wait for something of unknown duration."""
        return await self._bounded(condition)

    async def until_sent(
        self, send: Callable[[Departure], Awaitable[Answer]], may_send: Callable[[], Awaitable[float]]
    ) -> Answer:
        """Await an exchange that must not be interrupted from the moment at which its request may leave.

        `send` passes the departure on to `EnterpriseManager.delete_link`; `may_send` is the check before each attempt.
        Before its request may leave, the exchange ends as every wait does, or with the cancellation of this task: then
        nothing was carried out. After that it has a deadline of its own, and a cancellation is lost: the canceller must
        cancel again if the caller continues.
        """
        departure = Departure(may_send)
        exchanging = asyncio.ensure_future(send(departure))
        while not exchanging.done():
            done = asyncio.wait((exchanging,))
            try:
                await (done if departure.stop is not None else self.until(done))
            except (asyncio.CancelledError, *ENDS_OF_WAITS) as end:
                departure.stop = departure.stop or end
                if not departure.possible:
                    exchanging.cancel()
        try:
            if departure.stop is not None and not departure.possible:
                _ignore(exchanging)
                raise without_frames(departure.stop)
            return exchanging.result()
        finally:
            del departure, exchanging  # their errors would hold this frame, and so themselves

    async def ask(self, enterprise_manager: EnterpriseManager, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """Repeat a request until it is answered. While Enterprise Manager is not available, wait.

        Raises:
            UnansweredError: it is available, but did not answer this request `MOST_UNANSWERED` times.
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
        """Seconds until the next check whether the wait has to end: a delivery that joins may end the hold earlier."""
        ends = [self.hold_until()] + ([] if self.deadline is None else [self.deadline])
        return min(max(min(ends) - self.clock.monotonic(), 0), LONGEST_LOOK)

    def require_time(self) -> None:
        """Raise if a wait has to end. The hold may have changed: a delivery joined, or its channel has closed."""
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
        """Undo the cancellation, if there was one. Return False if the task was cancelled for another reason, too."""
        if self.error is not None and not self._taken_back:
            self._taken_back = True
            return self._task.uncancel() <= self._cancellations
        return False

    def close(self) -> None:
        """Stop checking. If the awaited code has ignored the cancellation, undo it: its result is valid."""
        self.stop()
        self.taken_back()
        self.error = None  # it holds the frames of the wait, and so this object
