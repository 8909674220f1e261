"""A clock that a doctor and a simulated Enterprise Manager share."""

from __future__ import annotations

import asyncio

from worker.clock import SystemClock


class VirtualClock(SystemClock):
    """Only its own pauses pass, at once: what is found then does not depend on how busy the machine is."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        """The seconds of all pauses."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Let these seconds pass."""
        self._now += max(seconds, 0)
        await asyncio.sleep(0)
