"""The findings of an examination, one line each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum, auto

#: How long the examination of one part may take, in seconds.
PART_SECONDS = 40.0


class Mark(Enum):
    """The severity of a finding. Only `WRONG` prevents the worker from working."""

    GOOD = auto()
    DOUBTFUL = auto()
    WRONG = auto()


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, what was found, and the remedy for a problem. Contains no secret."""

    mark: Mark
    what: str
    seen: str
    remedy: str | None = None


def good(what: str, seen: str) -> Finding:
    """A finding without a problem."""
    return Finding(Mark.GOOD, what, seen)


def doubtful(what: str, seen: str, remedy: str | None = None) -> Finding:
    """A finding that may cause problems, or a state that cannot be determined."""
    return Finding(Mark.DOUBTFUL, what, seen, remedy)


def wrong(what: str, seen: str, remedy: str | None = None) -> Finding:
    """A finding that prevents the worker from working."""
    return Finding(Mark.WRONG, what, seen, remedy)


async def bounded(examination: AsyncIterator[Finding], seconds: float = PART_SECONDS) -> list[Finding]:
    """The findings of an examination that may take this many seconds. A time-out is a finding too."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(seconds):
            async for finding in examination:
                found.append(finding)  # noqa: PERF401 - findings before the time-out are kept
    except TimeoutError:
        found.append(wrong("time", f"no answer to the next check within {seconds:g} s", "see the network between"))
    return found
