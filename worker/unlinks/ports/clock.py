"""The clock and random numbers. Times of day are aware datetimes in UTC; durations are seconds."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The only source of time and of random numbers."""

    def now(self) -> datetime:
        """The time of day, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed instant; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def jitter(self, seconds: float) -> float:
        """`seconds`, times a random factor between 0.5 and 1.5."""
        ...
