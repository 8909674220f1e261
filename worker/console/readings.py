"""Reading the ledger and the broker for pages and API: in threads; requests at the same time share one reading."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

from contracts.events import RETRIED
from worker.broker.client import BrokerClient, BrokerClientError
from worker.broker.topology import DEAD
from worker.console.problems import Problem
from worker.ledger import (
    BatchPage,
    Criteria,
    Cursor,
    Inspection,
    InspectionError,
    KeyHistory,
    MemberCursor,
    Page,
    PauseChangedError,
    Record,
)
from worker.ledger.overview import Overview
from worker.ledger.step_feed import FedStep
from worker.settings import BrokerSettings, LedgerSettings
from worker.unlinks.ports.clock import Clock

K = TypeVar("K")
T = TypeVar("T")

#: The greatest age of the overview, in seconds; it is read no more often, however many pages are open.
OVERVIEW_SECONDS: Final = 2.0
QUEUES_SECONDS: Final = 5.0
#: The longest that a page waits for the broker, in seconds, and how old the counts may be that it then shows.
_MOST_WAIT_SECONDS: Final = 2.0
_MOST_AGE_SECONDS: Final = 30.0
#: The greatest age, in seconds, of what an open page reads repeatedly: one unlink, or one page of a batch.
HISTORY_SECONDS: Final = 1.0
_MOST_KEPT: Final = 500

#: How many readings of the ledger are made at once, each with a connection to the database and one of the threads that
#: logins and orders need, too; and how long a reading waits for its turn, in seconds.
_AT_ONCE: Final = 8
TURN_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Queues:
    """How many messages are on the queue of each Enterprise Manager, in the delay queues and in `unlink.dead`.

    None if that is not known.
    """

    waiting: dict[str, int]
    delayed: int | None
    dead: int | None
    problem: str | None = None


class Shared(Generic[T]):
    """A value that is read at most once in a period. The first request reads it, and the others share the result.

    Args:
        read: reads it.
        seconds: the period, from the end of a reading: one that takes longer is shared, too.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._reading: asyncio.Task[T] | None = None
        self._read_at = float("-inf")
        self._last: tuple[float, T] | None = None

    def forget(self) -> None:
        """Read it again at the next request, because it was changed."""
        self._reading = None

    @property
    def is_old(self) -> bool:
        """Whether the last value is read, and not fresh any more: nobody would be given it."""
        done = self._reading is not None and self._reading.done()
        return done and time.monotonic() - self._read_at >= self._seconds

    def last(self, seconds: float) -> T | None:
        """The last value that was read, if it is not older than this."""
        return None if self._last is None or time.monotonic() - self._last[0] > seconds else self._last[1]

    async def get(self) -> T:
        """The last value if it is fresh, else a new one."""
        fresh = time.monotonic() - self._read_at < self._seconds
        if self._reading is None or (self._reading.done() and not fresh):
            self._reading = asyncio.create_task(self._read_now())
        return await asyncio.shield(self._reading)

    async def _read_now(self) -> T:
        try:
            value = await self._read()
        finally:
            self._read_at = time.monotonic()
        self._last = self._read_at, value
        return value


class SharedByKey(Generic[K, T]):
    """A value for each key, each read at most once in a period, and kept no longer; of `_MOST_KEPT` keys at most."""

    def __init__(self, read: Callable[[K], Awaitable[T]], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._kept: dict[K, Shared[T]] = {}

    async def get(self, key: K) -> T:
        """The key's last value if it is fresh, else a new one."""
        shared = self._kept.pop(key, None) or Shared(partial(self._read, key), self._seconds)
        for oldest in list(self._kept):
            if len(self._kept) < _MOST_KEPT and not self._kept[oldest].is_old:
                break
            del self._kept[oldest]
        self._kept[key] = shared
        return await shared.get()


class Readings:
    """Reads the ledger and the broker.

    Args:
        ledger: the workers' ledger.
        broker: the workers' broker.
        clock: the time.
        configured: the Enterprise Managers that the console has an account on.

    Raises:
        Problem: in every method: the ledger cannot be read now, or is read by too many; 503.
    """

    def __init__(
        self, ledger: LedgerSettings, broker: BrokerSettings | None, clock: Clock, configured: Iterable[str] = ()
    ) -> None:
        self._inspection = Inspection(ledger, clock, pooled=True)
        self._broker = broker
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        # These two are one thread each, and need no turn: the readiness and every overview depend on them.
        self._overview = Shared(lambda: asyncio.to_thread(self._inspection.overview), OVERVIEW_SECONDS)
        self._queues = Shared(lambda: asyncio.to_thread(self._read_queues), QUEUES_SECONDS)
        self._histories = SharedByKey(self.history, HISTORY_SECONDS)
        self._batches = SharedByKey(self._read_batches, HISTORY_SECONDS)
        # Those that the ledger knows now; those whose queue is looked for; and those that have one.
        self._known: frozenset[str] = frozenset()
        self._looked_for = frozenset({"default", *configured})
        self._with_queue: frozenset[str] = frozenset()

    def close(self) -> None:
        """Close the connections to the ledger that no reading uses."""
        self._inspection.close()

    async def overview(self) -> Overview:
        """The overview, a few seconds old at most."""
        overview = await self._answered(self._overview.get())
        names = {name for worker in overview.workers for name in worker.enterprise_managers}
        paused = {each.enterprise_manager for each in overview.pauses}
        self._known = frozenset(names | set(overview.under_way) | paused)
        self._looked_for |= self._known
        return overview

    async def queues(self) -> Queues:
        """The messages that wait on the broker's queues. Never raises, and does not wait for a broker that hangs."""
        with suppress(Problem):
            await self.overview()  # whose queues there are
        try:
            return await asyncio.wait_for(self._queues.get(), _MOST_WAIT_SECONDS)
        except TimeoutError:
            last = self._queues.last(_MOST_AGE_SECONDS)
            return last or Queues({}, None, None, "the broker has not answered yet")

    @property
    def enterprise_managers(self) -> tuple[str, ...]:
        """Those that the ledger knows, and those whose workers have stopped and whose queue remains."""
        return tuple(sorted(self._known | (self._looked_for & self._with_queue)))

    async def find(self, criteria: Criteria, after: Cursor | None, limit: int) -> Page:
        """A page of the keys that meet the criteria."""
        return await self._read(lambda: self._inspection.find(criteria, after=after, limit=limit))

    async def history(self, key: str) -> KeyHistory | None:
        """Everything that is recorded about a key."""
        return await self._read(lambda: self._inspection.history(key))

    async def record(self, key: str) -> Record | None:
        """The last run of a key."""
        return await self._read(lambda: self._inspection.record(key))

    async def recent_history(self, key: str) -> KeyHistory | None:
        """The history of a key, a second old at most, for an open page that reads it repeatedly."""
        return await self._histories.get(key)

    async def batches(self, batch: str, after: MemberCursor | None, limit: int, *, expected: bool = False) -> BatchPage:
        """The batches of an ID, and a page of their members; a second old at most.

        Raises:
            Problem: also if there is no such batch, unless its first command is `expected` soon; 404.
        """
        page = await self._batches.get((batch, after, limit))
        if not page.batches and not expected:
            raise Problem(404, "No worker has received a command of this batch, or it was pruned.")
        return page

    async def failed_of(self, batch: str) -> Sequence[Record]:
        """The commands of the batches of an ID whose last run may be retried."""
        return await self._read(lambda: self._failed_of(batch))

    async def newest_step(self) -> int:
        """The ID of the newest recorded step."""
        return await self._read(self._inspection.newest_step)

    async def steps_after(self, step: int, most: int, key: str | None = None) -> Sequence[FedStep]:
        """The recorded steps that follow this one, of all keys or of one."""
        return await self._read(lambda: self._inspection.steps_after(step, most, key))

    async def steps_with(self, ids: Sequence[int]) -> Sequence[FedStep]:
        """Those of these recorded steps that there are."""
        return await self._read(lambda: self._inspection.steps_with(ids))

    async def pause(self, enterprise_manager: str, by: str, reason: str | None, seen: str | None = None) -> None:
        """Pause an Enterprise Manager.

        Raises:
            Problem: also if it was not paused at the time that was `seen`; empty: if it was paused; 409.
        """
        await self._change(lambda: self._inspection.pause(enterprise_manager, by, reason, seen))

    async def resume(self, enterprise_manager: str, seen: str | None = None) -> bool:
        """Resume an Enterprise Manager. Return whether it was paused. Raises as `pause` does."""
        return await self._change(lambda: self._inspection.resume(enterprise_manager, seen))

    async def _change(self, change: Callable[[], T]) -> T:
        try:
            return await self._read(change)
        except PauseChangedError as error:
            now = error.now
            said = "it has been resumed"
            if now is not None:
                by, at = now.paused_by or "an unnamed user", f"{now.paused_at:%Y-%m-%d %H:%M:%S} UTC"
                said = f"{by} has paused it at {at}" + (f": {now.reason}" if now.reason else "")
            detail = f"Nothing was changed: since your page was loaded, {said}. Load the Enterprise Managers again."
            raise Problem(409, detail) from None
        finally:
            self._overview.forget()

    def pages(self, criteria: Criteria) -> Iterator[Page]:
        """All keys that meet the criteria; to be read in a thread.

        Raises:
            InspectionError: the ledger went away.
        """
        return self._inspection.find_all(criteria)

    async def _read(self, read: Callable[[], T]) -> T:
        try:
            await asyncio.wait_for(self._at_once.acquire(), TURN_SECONDS)
        except TimeoutError:
            said = "The ledger is busy: it answers too slowly for all who read it now. Try again soon."
            raise Problem(503, said, headers={"Retry-After": "5"}) from None
        try:
            return await self._answered(asyncio.to_thread(read))
        finally:
            self._at_once.release()

    async def _answered(self, reading: Coroutine[Any, Any, T]) -> T:
        try:
            return await reading
        except InspectionError as error:
            raise _away(error) from error

    async def _read_batches(self, of: tuple[str, MemberCursor | None, int]) -> BatchPage:
        batch, after, limit = of
        return await self._read(lambda: self._inspection.batch_page(batch, after=after, limit=limit))

    def _failed_of(self, batch: str) -> Sequence[Record]:
        found: list[Record] = []
        after: MemberCursor | None = None
        while True:
            page = self._inspection.batch_page(batch, after=after)
            found += [each.record for each in page.members if each.record and each.record.outcome in RETRIED]
            if page.next is None:
                return found
            after = page.next

    def _read_queues(self) -> Queues:
        if self._broker is None:
            return Queues({}, None, None, "UNLINK_BROKER__URL is not set")
        try:
            with BrokerClient(self._broker) as client:
                counts = {name: client.waiting(name) for name in sorted(self._looked_for)}
                waiting = {name: count for name, count in counts.items() if count is not None}
                self._with_queue = frozenset(waiting)
                return Queues(waiting, client.delayed(), client.ready(DEAD))
        except BrokerClientError as error:
            return Queues({}, None, None, str(error))


def _away(error: InspectionError) -> Problem:
    return Problem(503, str(error), headers={"Retry-After": "5"})
