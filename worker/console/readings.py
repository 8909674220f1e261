"""Reading the ledger and the broker for pages and API: in threads; requests at the same time share one reading."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from worker.broker.client import BrokerClient, BrokerClientError
from worker.broker.topology import DEAD
from worker.console.problems import Problem
from worker.ledger import Criteria, Cursor, Inspection, InspectionError, KeyHistory, Page
from worker.ledger.overview import Overview
from worker.settings import BrokerSettings, LedgerSettings
from worker.unlinks.ports.clock import Clock

T = TypeVar("T")

#: The greatest age of the overview, in seconds; it is read no more often, however many pages are open.
OVERVIEW_SECONDS: Final = 2.0
QUEUES_SECONDS: Final = 5.0

#: How many pages of lists are read at once, each with a connection to the database.
_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Queues:
    """How many messages wait: for each Enterprise Manager, and in `unlink.dead`; None if that is not known."""

    waiting: dict[str, int]
    dead: int | None
    problem: str | None = None


class Shared(Generic[T]):
    """A value that is read at most once in a period. The first request reads it, and the others share the result."""

    def __init__(self, read: Callable[[], T], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._reading: asyncio.Task[T] | None = None
        self._read_at = float("-inf")

    def forget(self) -> None:
        """Read it again at the next request, because it was changed."""
        self._reading = None

    async def get(self) -> T:
        """The last value if it is fresh, else a new one."""
        fresh = time.monotonic() - self._read_at < self._seconds
        if self._reading is None or (self._reading.done() and not fresh):
            self._read_at = time.monotonic()
            self._reading = asyncio.create_task(asyncio.to_thread(self._read))
        return await asyncio.shield(self._reading)


class Readings:
    """Reads the ledger and the broker.

    Raises:
        Problem: in every method: the ledger cannot be read now; 503.
    """

    def __init__(self, ledger: LedgerSettings, broker: BrokerSettings | None, clock: Clock) -> None:
        self._inspection = Inspection(ledger, clock, pooled=True)
        self._broker = broker
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._overview = Shared(self._inspection.overview, OVERVIEW_SECONDS)
        self._queues = Shared(self._read_queues, QUEUES_SECONDS)
        self._names: tuple[str, ...] = ()

    async def overview(self) -> Overview:
        """The overview, a few seconds old at most."""
        try:
            overview = await self._overview.get()
        except InspectionError as error:
            raise _away(error) from error
        names = {name for worker in overview.workers for name in worker.enterprise_managers}
        self._names = tuple(
            sorted(names | set(overview.under_way) | {each.enterprise_manager for each in overview.pauses})
        )
        return overview

    async def queues(self) -> Queues:
        """The messages that wait on the broker's queues. Never raises."""
        return await self._queues.get()

    @property
    def enterprise_managers(self) -> tuple[str, ...]:
        """The names in the last overview."""
        return self._names

    async def find(self, criteria: Criteria, after: Cursor | None, limit: int) -> Page:
        """A page of the keys that meet the criteria."""
        return await self._read(lambda: self._inspection.find(criteria, after=after, limit=limit))

    async def history(self, key: str) -> KeyHistory | None:
        """Everything that is recorded about a key."""
        return await self._read(lambda: self._inspection.history(key))

    async def pause(self, enterprise_manager: str, by: str, reason: str | None) -> None:
        """Pause an Enterprise Manager."""
        await self._read(lambda: self._inspection.pause(enterprise_manager, by, reason))
        self._overview.forget()

    async def resume(self, enterprise_manager: str) -> bool:
        """Resume an Enterprise Manager. Return whether it was paused."""
        was_paused = await self._read(lambda: self._inspection.resume(enterprise_manager))
        self._overview.forget()
        return was_paused

    def pages(self, criteria: Criteria) -> Iterator[Page]:
        """All keys that meet the criteria; to be read in a thread.

        Raises:
            InspectionError: the ledger went away.
        """
        return self._inspection.find_all(criteria)

    async def _read(self, read: Callable[[], T]) -> T:
        async with self._at_once:
            try:
                return await asyncio.to_thread(read)
            except InspectionError as error:
                raise _away(error) from error

    def _read_queues(self) -> Queues:
        if self._broker is None:
            return Queues({}, None, "UNLINK_BROKER__URL is not set: how many commands wait is not known")
        try:
            with BrokerClient(self._broker) as client:
                waiting = {name: count for name in self._names if (count := client.waiting(name)) is not None}
                return Queues(waiting, client.count(DEAD))
        except BrokerClientError as error:
            return Queues({}, None, str(error))


def _away(error: InspectionError) -> Problem:
    return Problem(503, str(error), headers={"Retry-After": "5"})
