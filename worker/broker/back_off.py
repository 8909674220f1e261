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

#: After this many seconds without an error, the next pause is `FIRST_PAUSE` again.
QUIET = 5.0

_log = structlog.get_logger()


def new_back_off(clock: Clock) -> BackOff:
    """The pauses between the attempts of one operation on the broker."""
    return BackOff(clock, FIRST_PAUSE, LONGEST_PAUSE, quiet=QUIET)


async def forever(part: str, once: Callable[[], Awaitable[None]], clock: Clock) -> NoReturn:
    """Run `once` again whenever it returns or raises, after a pause.

    `once` catches the errors that it expects. Any other error is logged with its stack trace and does not end the loop.
    If it did, the worker would keep running without consuming.
    """
    back_off = new_back_off(clock)
    while True:
        try:
            await once()
        except Exception:  # noqa: BLE001 - as the docstring says
            _log.exception("broker.part_failed", part=part)
        await clock.sleep(back_off.pause())
