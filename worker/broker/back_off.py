"""Waiting before trying again: without end, ever longer, with jitter."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.unlinks.ports.clock import Clock

#: Seconds before the first new try; the wait doubles from there.
SHORTEST = 0.5

#: Seconds between tries at most.
LONGEST = 30.0

#: After so many seconds without trouble, the next wait is the shortest again.
QUIET = 5.0

_log = structlog.get_logger()


class BackOff:
    """The waits between the tries of one thing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = SHORTEST
        self._last_wait_ended = clock.monotonic()

    async def wait(self) -> None:
        """Wait before the next try; twice as long as the last time, unless the last time is long past."""
        if self._clock.monotonic() - self._last_wait_ended > QUIET:
            self._next = SHORTEST
        seconds = self._next
        self._next = min(LONGEST, 2 * seconds)
        await self._clock.sleep(self._clock.jitter(seconds))
        self._last_wait_ended = self._clock.monotonic()


async def forever(part: str, once: Callable[[], Awaitable[None]], clock: Clock) -> NoReturn:
    """Keep a part at work: whenever and however it ends, wait, and start it again.

    A part deals with the errors that it knows; one that it does not know is logged with its trace, and must not end the
    part either: a worker that looks alive and consumes nothing is the worst of all.
    """
    back_off = BackOff(clock)
    while True:
        try:
            await once()
        except Exception:  # noqa: BLE001 - as said above
            _log.exception("broker.part_failed", part=part)
        await back_off.wait()
