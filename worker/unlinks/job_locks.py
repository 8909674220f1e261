"""One unlink per job at a time in this process: an edit of a job is read-modify-write in Enterprise Manager.

The ledger enforces this across workers; the locks of one process save queries to the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker.unlinks.waiting import Waiting


class JobLocks:
    """A lock for each job of each Enterprise Manager, given in the order of arrival."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._interested: dict[tuple[str, str], int] = {}

    @asynccontextmanager
    async def hold(self, enterprise_manager: str, job_id: str, waiting: Waiting) -> AsyncIterator[None]:
        """Hold the lock of a job. Waits for it as long as `waiting` allows."""
        job = (enterprise_manager, job_id)
        lock = self._locks.setdefault(job, asyncio.Lock())
        self._interested[job] = self._interested.get(job, 0) + 1
        try:
            await waiting.until(lock.acquire())
            try:
                yield
            finally:
                lock.release()
        finally:
            self._interested[job] -= 1
            if not self._interested[job]:
                del self._locks[job], self._interested[job]
