"""One unlink per job at a time in this process: an edit of a job is read-modify-write on the other side.

The ledger enforces it across workers; taking turns here spares it the asking.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.unlinks.patience import Patience


class Turns:
    """First come, first served, for each job of each Enterprise Manager."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._interested: dict[tuple[str, str], int] = {}

    @asynccontextmanager
    async def turn(self, enterprise_manager: str, job_id: str, patience: Patience) -> AsyncIterator[None]:
        """Hold the job, after waiting for it as long as `patience` allows."""
        job = (enterprise_manager, job_id)
        lock = self._locks.setdefault(job, asyncio.Lock())
        self._interested[job] = self._interested.get(job, 0) + 1
        try:
            await patience.until(lock.acquire())
            try:
                yield
            finally:
                lock.release()
        finally:
            self._interested[job] -= 1
            if not self._interested[job]:
                del self._locks[job], self._interested[job]
