"""Retries without a limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

from worker.unlinks.back_off import BackOff
from worker.unlinks.ports.clock import Clock

#: The first and the longest pause, in seconds, before jitter.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0

#: After so many seconds without trouble, the next pause is the first again.
QUIET = 5.0

_log = structlog.get_logger()


def new_back_off(clock: Clock) -> BackOff:
    """The pauses between the tries of one thing that needs the broker."""
    return BackOff(clock, FIRST_PAUSE, LONGEST_PAUSE, quiet=QUIET)


async def forever(part: str, once: Callable[[], Awaitable[None]], clock: Clock) -> NoReturn:
    """Run `once` again whenever it returns or raises, after a pause.

    `once` deals with the errors that it knows. Any other error is logged with its trace and does not end the loop: a
    worker that looks alive and consumes nothing would be worse.
    """
    back_off = new_back_off(clock)
    while True:
        try:
            await once()
        except Exception:  # noqa: BLE001 - as the docstring says
            _log.exception("broker.part_failed", part=part)
        await clock.sleep(back_off.pause())
