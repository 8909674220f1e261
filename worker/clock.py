"""The real clock, and real random numbers."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime


class SystemClock:
    """The operating system's (`worker.unlinks.ports.clock.Clock`)."""

    def now(self) -> datetime:
        """The time of day, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some fixed instant; never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def jitter(self, seconds: float) -> float:
        """`seconds`, times a random factor between 0.5 and 1.5."""
        return seconds * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load; not for security
