"""The real clock, and real random numbers."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime
from pathlib import Path

#: On Linux, the monotonic clock that also counts while the machine is suspended; elsewhere the only one.
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """The operating system's (`worker.unlinks.ports.clock.Clock`)."""

    def now(self) -> datetime:
        """The time of day, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some fixed instant, suspended ones included; never goes back. On Linux, since boot."""
        return time.clock_gettime(_CLOCK)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def jitter(self, seconds: float) -> float:
        """`seconds`, times a random factor between 0.5 and 1.5."""
        return seconds * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, not for security


def boot_id() -> str | None:
    """The ID of this boot of the host, in all of its containers; None where the operating system has none."""
    try:
        return _BOOT_ID.read_text().strip() or None
    except OSError:
        return None
