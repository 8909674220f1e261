"""What ends the wait of an unlink, in the task that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import pytest

from tests.garbage import alive, without_search
from tests.waiting import until
from worker.clock import SystemClock
from worker.unlinks.ports.enterprise_manager import EnterpriseManager, Unavailable
from worker.unlinks.ports.ledger import CancelRequestedError
from worker.unlinks.ports.steps import Reporter, Step
from worker.unlinks.signals import Signal
from worker.unlinks.waiting import (
    MOST_UNANSWERED,
    DeadlinePassedError,
    DeferredError,
    Departure,
    LeavingError,
    UnansweredError,
    Waiting,
)


class Unread:
    """Reads no step."""

    def report(self, step: Step) -> None:
        """Look away."""


def waiting_until(hold: float = 60.0, deadline: float | None = None) -> Waiting:
    """A wait whose hold and deadline end so many seconds from now."""
    clock = SystemClock()
    now = clock.monotonic()
    return Waiting(
        clock,
        lambda: now + hold,
        Signal(),
        Signal(),
        Reporter(Unread(), "default"),
        deadline=None if deadline is None else now + deadline,
    )


async def _forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("waiting", "error"),
    [({"hold": 0.0}, DeferredError), ({"deadline": 0.0}, DeadlinePassedError)],
    ids=["the hold", "the deadline"],
)
async def test_a_wait_ends_with_the_time(waiting: dict[str, float], error: type[Exception]) -> None:
    """Else a delivery would be held past the broker's limit, or a command past its own."""
    with pytest.raises(error):
        await waiting_until(**waiting).until(_forever())


@pytest.mark.parametrize(("signal", "error"), [("leaving", LeavingError), ("cancelled", CancelRequestedError)])
@pytest.mark.parametrize("before", [True, False])
async def test_a_wait_ends_with_a_signal(signal: str, error: type[Exception], *, before: bool) -> None:
    """Else a drain or a cancel would wait for whatever the unlink waits for."""
    waiting = waiting_until()
    if before:
        getattr(waiting, signal).set()
    wait = asyncio.ensure_future(waiting.until(_forever()))
    await asyncio.sleep(0)
    getattr(waiting, signal).set()
    with pytest.raises(error):
        await wait
    assert not wait.cancelled()


async def test_what_is_there_at_once_is_returned_whatever_has_ended() -> None:
    """Else an answer that took no time would be thrown away."""
    waiting = waiting_until(hold=0.0, deadline=0.0)
    waiting.leaving.set()

    async def answer() -> str:
        return "there"

    assert await waiting.until(answer()) == "there"


async def test_a_result_in_spite_of_the_end_is_returned_and_the_task_goes_on() -> None:
    """Else the next wait of the task would be cancelled for the end of this one."""
    waiting = waiting_until(deadline=0.0)

    async def stubborn() -> str:
        with suppress(asyncio.CancelledError):
            await _forever()
        return "a result"

    assert await waiting.until(stubborn()) == "a result"
    task: Any = asyncio.current_task()
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_task_that_is_cancelled_while_its_wait_ends_is_cancelled() -> None:
    """Else a drain that cancels a delivery's task would be taken for the end of its hold."""
    waiting = waiting_until()
    wait = asyncio.ensure_future(waiting.until(_forever()))
    await asyncio.sleep(0)
    waiting.leaving.set()
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait


class AnswersNothing:
    """An Enterprise Manager that is there, as far as a wait asks."""

    async def until_available(self) -> None:
        """It is."""


class PauselessClock(SystemClock):
    """A clock whose pauses are over at once."""

    def jitter(self, seconds: float) -> float:
        """Nothing is left of it."""
        return 0 * seconds


async def test_a_request_that_is_never_answered_is_no_answer() -> None:
    """Else links that could not be read would pass for links that are listed, and a DELETE be sent again."""
    asked: list[int] = []

    async def question() -> bool:
        asked.append(len(asked))
        raise Unavailable("status 500")

    waiting = replace(waiting_until(), clock=PauselessClock())
    with pytest.raises(UnansweredError, match="status 500"):
        await waiting.ask(cast("EnterpriseManager", AnswersNothing()), question)
    assert len(asked) == MOST_UNANSWERED


async def _now() -> float:
    return 0.0


async def test_what_may_have_left_is_awaited_to_its_end_whatever_ends_meanwhile() -> None:
    """Else nobody would learn whether a DELETE was carried out."""
    waiting = waiting_until()
    answered = asyncio.Event()

    async def send(departure: Departure) -> str:
        await departure.may_send()
        waiting.leaving.set()
        waiting.cancelled.set()
        await answered.wait()
        return "an answer"

    exchanging = asyncio.ensure_future(waiting.until_sent(send, _now))
    for _ in range(5):
        await asyncio.sleep(0)
        exchanging.cancel()
    answered.set()
    assert await exchanging == "an answer"


async def test_nothing_leaves_once_the_wait_has_ended() -> None:
    """An exchange that does not heed its cancellation would leave behind the back of the one who ended it."""
    waiting = waiting_until()
    refused: list[BaseException] = []

    async def send(departure: Departure) -> str:
        with suppress(asyncio.CancelledError):
            await _forever()
        try:
            await departure.may_send()
        except LeavingError as error:
            refused.append(error)
            raise
        return "left"

    waiting.leaving.set()
    exchanging = asyncio.ensure_future(waiting.until_sent(send, _now))
    with pytest.raises(LeavingError):
        await exchanging
    assert len(refused) == 1


class Held:
    """What an unlink holds while it waits."""


async def _refuse(departure: Departure) -> None:
    await departure.may_send()
    raise Unavailable


async def _wait_to_leave(_: Departure) -> None:
    await _forever()


_STOPS: dict[str, Callable[[], Awaitable[None]]] = {
    "a wait that was ended": lambda: waiting_until(hold=0.0).until(_forever()),
    "a request that failed": lambda: waiting_until().until_sent(_refuse, _now),
    "a request that never left": lambda: waiting_until(hold=0.0).until_sent(_wait_to_leave, _now),
}


@pytest.mark.parametrize("stop", _STOPS.values(), ids=list(_STOPS))
async def test_an_unlink_that_stopped_waiting_is_freed(stop: Callable[[], Awaitable[None]]) -> None:
    """Each deferred unlink kept its delivery and its documents, until a search for cycles that may be hours away."""

    async def unlink() -> None:
        held = Held()
        await stop()
        del held

    with without_search():
        for _ in range(5):
            with suppress(DeferredError, Unavailable):
                await unlink()
        await until(lambda: alive(Held) == 0, "the unlinks are freed")
