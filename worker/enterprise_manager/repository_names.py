"""The names of repositories by UID, for events: the list of a job's links has UIDs only.

All names are read together, at most once in a while, so that they cost no request for each unlink. They decide nothing:
a failure is not reported to `Availability`, and an unlink waits only a moment for them.
"""

from __future__ import annotations

import asyncio
import contextvars

from worker.enterprise_manager import paths
from worker.enterprise_manager.calls import MOST_PAGES, Calls
from worker.enterprise_manager.documents.records import MAX_NAME, read_paging, read_references
from worker.enterprise_manager.documents.tree import DocumentError, cleaned
from worker.enterprise_manager.names import PAGE_SIZE
from worker.unlinks.ports.clock import Clock

#: For how long, in seconds, the names are used before they are read again: a repository may be renamed.
FRESH_SECONDS = 600.0

#: The shortest time between the beginnings of two reads, in seconds, whatever UIDs are asked for.
BETWEEN_READS_SECONDS = 60.0

#: How long the callers wait for a read, in seconds, from its beginning.
MOST_WAIT_SECONDS = 2.0


class RepositoryNames:
    """The names of one Enterprise Manager's repositories."""

    def __init__(self, name: str, calls: Calls, clock: Clock) -> None:
        self._name = name
        self._calls = calls
        self._clock = clock
        self._names: dict[str, str] = {}
        self._read_at = float("-inf")
        self._began_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def of(self, uid: str) -> str | None:
        """The name of a repository; None if it is not known, or not known soon. Never raises."""
        known = self._known(uid)
        if known is not None:
            return known
        now = self._clock.monotonic()
        if self._reading is None and now - self._began_at >= BETWEEN_READS_SECONDS:
            self._began_at = now
            # The task gets its own context: its log lines must not have one unlink's fields.
            self._reading = asyncio.create_task(
                self._read(), name=f"read the names of repositories of {self._name}", context=contextvars.Context()
            )
        left = MOST_WAIT_SECONDS - (now - self._began_at)
        if self._reading is not None and left > 0:
            await asyncio.wait([self._reading], timeout=left)
        return self._known(uid)

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def _known(self, uid: str) -> str | None:
        fresh = self._clock.monotonic() - self._read_at < FRESH_SECONDS
        return self._names.get(uid) if fresh else None

    async def _read(self) -> None:
        try:
            names = await self._pages()
            if names:
                self._names, self._read_at = names, self._clock.monotonic()
        finally:
            # Not in a callback: a task that finishes before its turn would find this one and start none.
            self._reading = None

    async def _pages(self) -> dict[str, str]:
        """The names of all pages; what was read before a failure."""
        names: dict[str, str] = {}
        query = {"pageSize": str(PAGE_SIZE)}
        count = number = 1
        while number <= min(count, MOST_PAGES):
            page = await self._calls.get_once(
                paths.COLLECTIONS["Repository"], query | ({"page": str(number)} if number > 1 else {})
            )
            if page is None:
                break
            try:
                count = read_paging(page).pages
                names |= {each.id: cleaned(each.name, MAX_NAME) for each in read_references(page, "Repository")}
            except DocumentError:
                break
            number += 1
        return names
