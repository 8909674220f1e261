"""The findings of an examination, one line each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum, auto

#: How long the examination of one part may take, in seconds.
PART_SECONDS = 40.0


class Mark(Enum):
    """The severity of a finding. Only `WRONG` prevents the worker's work."""

    GOOD = auto()
    DOUBTFUL = auto()
    WRONG = auto()


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, what was found, and the remedy for a problem. Holds no secret."""

    mark: Mark
    what: str
    seen: str
    remedy: str | None = None


def good(what: str, seen: str) -> Finding:
    """As it should be."""
    return Finding(Mark.GOOD, what, seen)


def doubtful(what: str, seen: str, remedy: str | None = None) -> Finding:
    """It may do harm, or its state cannot be read."""
    return Finding(Mark.DOUBTFUL, what, seen, remedy)


def wrong(what: str, seen: str, remedy: str | None = None) -> Finding:
    """The worker cannot work with it."""
    return Finding(Mark.WRONG, what, seen, remedy)


async def bounded(examination: AsyncIterator[Finding], seconds: float = PART_SECONDS) -> list[Finding]:
    """All findings within so many seconds; running out of time is a finding too."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(seconds):
            async for finding in examination:
                found.append(finding)  # noqa: PERF401 - what was found before the time is over is kept
    except TimeoutError:
        found.append(wrong("time", f"no answer to the next check within {seconds:g} s", "see the network between"))
    return found
