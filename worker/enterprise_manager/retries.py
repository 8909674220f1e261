"""The retry of a request to Enterprise Manager that failed temporarily: how often, and after which pauses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from worker.enterprise_manager.responses import Again
from worker.frames import without_frames
from worker.unlinks.back_off import BackOff
from worker.unlinks.ports.clock import Clock

#: The total number of attempts of a request before Enterprise Manager counts as unavailable.
ATTEMPTS = 3

#: The pauses between attempts, in seconds, before jitter. The server may ask for longer ones (`Retry-After`).
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 1.0

_T = TypeVar("_T")


async def retry(once: Callable[[int], Awaitable[_T]], first: Again, clock: Clock) -> _T:
    """Make the attempts after the first one, which failed with `first`. `once` is given the attempt's number.

    Raises:
        Again: all attempts failed. Any other error of `once` ends the retry.
    """
    back_off = BackOff(clock, FIRST_PAUSE, LONGEST_PAUSE)
    await clock.sleep(max(first.retry_after, back_off.pause()))
    async for attempt in tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS - 1),
        wait=lambda state: max(_asked_for(state), back_off.pause()),
        retry=tenacity.retry_if_exception_type(Again),
        sleep=clock.sleep,
        reraise=True,
    ):
        with attempt:
            try:
                result = await once(1 + attempt.retry_state.attempt_number)
            except Again as error:
                raise without_frames(error) from None  # tenacity and its error hold each other
    return result


def _asked_for(state: tenacity.RetryCallState) -> float:
    """The server's `Retry-After`, in seconds."""
    error = state.outcome.exception() if state.outcome is not None else None
    return error.retry_after if isinstance(error, Again) else 0.0
