"""The ledger's thread. It commits all queued writes in one transaction.

The thread takes the queued writes, carries them out in one transaction, commits, and notifies the callers. Meanwhile
the next writes are queued. One commit, the expensive part, thus serves one write when the worker is idle, and hundreds
under load.

A write that finds its lease lost does not disturb the others. If the database does not carry out a transaction, the
write at whose statement it failed is set apart: the others are committed without it, and it is tried again alone. If it
failed at no write's own statement (a lock, the history, the commit), each of its writes is set apart. Writes that are
set apart take turns with the queue, so that one of them costs the others no more than the time of its own tries.
Renewals are taken before both: each waits for one transaction at most, whatever fails, and no transaction begins more
writes when it has lasted for a second. A write fails if it is at fault, or if the database commits others before each
of its tries, but not it. If the database is away, or commits nothing, all writes wait until it is back: each is written
so that it may be repeated after a commit whose answer was lost.

More than 400 lines: which writes share a transaction, and which are set apart after a failure, is one piece of state.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import structlog

from worker.ledger.database import URL_VARIABLE, Trouble, file_problem, open_engine, problem_in, trouble_of
from worker.ledger.errors import LedgerClosedError, LedgerError
from worker.ledger.lease_clock import LeaseClock
from worker.ledger.transaction import Transaction
from worker.settings import SettingsInvalidError
from worker.unlinks.back_off import BackOff
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.ledger import CancelRequestedError, LeaseLostError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import URL

_log = structlog.get_logger()

#: The order of writes in a transaction. Intents last, by job, and then what may lock a batch: only they wait for other
#: workers' transactions on what is no key. `FIRST` is taken before all that waits, set apart or not: renewals, because
#: a lease is worth more than anything else.
FIRST: Final = 0
BY_KEY: Final = 1
BY_JOB: Final = 2
BY_BATCH: Final = 3
LAST: Final = 4

#: More than so many writes are not put into one transaction: its locks are held until it ends.
MOST_AT_ONCE: Final = 500

#: A transaction that has lasted for so many seconds begins no more writes: renewals wait for its end.
_MOST_SECONDS: Final = 1.0

#: The first and the longest pause between tries while the database is away, in seconds, before jitter, and by which
#: factor each is longer: after ten seconds they are 0.2 s, because a lease lasts hardly longer than that.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0
_PAUSE_FACTOR: Final = 1.01

#: How often a write may find that another transaction was first; each time, its next try sees more.
_MOST_RACES: Final = 20

#: How often the database may not carry out a write, with commits of others in between, before the write fails. If so
#: many transactions in a row are not carried out, whichever writes are in them, the database counts as away.
_MOST_TRIES: Final = 3

#: What one write may raise without disturbing those that share its transaction.
REFUSALS: Final = (LedgerError, LeaseLostError, CancelRequestedError)

#: How long `stop` waits for the thread, in seconds: longer than a server may take to answer.
STOP_SECONDS: Final = 20.0

T = TypeVar("T")


@dataclass(slots=True)
class Write(Generic[T]):
    """One thing to do in a transaction.

    Args:
        carry_out: what to do. Raises one of `REFUSALS` only before it has changed anything.
        order: where in a transaction it belongs. All workers take rows in one order, so that none wait for each other.
        key: the key that it is about. A transaction holds one write for a key, so that ordering them changes nothing.
            None: it may change every row of this worker.
        reads: whether it changes nothing: a database that only reads is not available.
        kept: whether it is carried out even if its caller is gone before it was tried.
        landed: called on the event loop with the result, before the caller continues, and even if the caller is gone.
    """

    carry_out: Callable[[Transaction], T]
    order: tuple[int, str]
    key: str | None
    landed: Callable[[T], None] | None
    future: asyncio.Future[T]
    reads: bool = False
    kept: bool = False
    begun: bool = False
    races: int = 0
    failures: int = 0
    commits_before: int = -1
    cut_off: bool = False
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class _Landing:
    write: Write[Any]
    result: Any = None
    error: BaseException | None = None

    def deliver(self) -> None:
        """Answer the caller. What `landed` raises goes to the caller; the other writes are answered as usual."""
        error = self.error
        if error is None and self.write.landed is not None:
            try:
                self.write.landed(self.result)
            except Exception as raised:  # noqa: BLE001 - whatever it is, it is the caller's
                error = raised
        future = self.write.future
        if future.done():
            return
        if error is None:
            future.set_result(self.result)
        else:
            future.set_exception(error)


class Writer:
    """One thread with one connection.

    Args:
        engine: opens the connection.
        transaction: what a write is given, made of a connection and of when its transaction began.
        clock: for pauses and for when transactions began.
        available: notified on the event loop when the database is there again, or away.
        database: what the log calls the database; holds no password.
    """

    def __init__(
        self,
        engine: Engine,
        transaction: Callable[[Connection, float], Transaction],
        clock: Clock,
        available: Callable[[bool], None],
        database: str,
    ) -> None:
        self._engine = engine
        self._transaction = transaction
        self._clock = clock
        self._available = available
        self._log = _log.bind(database=database)
        self._first: deque[Write[Any]] = deque()
        self._queue: deque[Write[Any]] = deque()
        self._apart: deque[Write[Any]] = deque()
        self._turn_of_apart = False
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._connection: Connection | None = None
        self._begun = False
        self._carried_out: Write[Any] | None = None
        self._commits = 0
        self._failures = 0
        self._back_off = BackOff(clock, _FIRST_PAUSE, _LONGEST_PAUSE, factor=_PAUSE_FACTOR)
        self._away_since: float | None = None
        self._back_at: float | None = None
        self._notified: bool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()

    # --- on the event loop ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread. Writes queued before wait for it."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    async def write(
        self,
        carry_out: Callable[[Transaction], T],
        *,
        order: tuple[int, str],
        key: str | None = None,
        reads: bool = False,
        kept: bool = False,
        landed: Callable[[T], None] | None = None,
    ) -> T:
        """Queue a write, and return when it is committed.

        If the caller is cancelled, a write that was not tried yet is dropped, unless it is `kept`; others may be
        carried out.

        Raises:
            LedgerClosedError: the ledger was closed before.
            LedgerError, LeaseLostError, CancelRequestedError: raised by `carry_out`.
            sqlalchemy.exc.SQLAlchemyError: the database refuses it, and will refuse it again; or it carried out others,
                and several times not this one.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        write = Write(carry_out, order, key, landed, future, reads, kept)
        with self._changed:
            if self._closing.is_set():
                raise LedgerClosedError
            (self._first if _is_first(write) else self._queue).append(write)
            self._changed.notify()
        return await future

    async def stop(self) -> None:
        """Finish what can be finished, and end. Writes that wait for the database raise `LedgerClosedError`."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        if self._thread is not None:
            # Not joined: that would take another thread, which a host may not have to spare.
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._ended.wait()
            except TimeoutError:
                self._log.warning("ledger.thread_left", seconds=STOP_SECONDS)

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            self._commit(batch)
        self._hang_up()
        left = (*self._first, *self._apart, *self._queue)
        self._deliver(_Landing(write, error=LedgerClosedError()) for write in left)
        self._on_loop(self._ended.set)

    def _take(self) -> list[Write[Any]] | None:
        """The next writes to commit together, in order; None when there is no more to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._waits or self._closing.is_set())
            if self._closing.is_set() and (self._away_since is not None or not self._waits):
                return None
            if self._first:
                batch = [self._first.popleft()]
            else:
                self._turn_of_apart = bool(self._apart) and not (self._queue and self._turn_of_apart)
                batch = [self._apart.popleft()] if self._turn_of_apart else self._take_together()
        return sorted((write for write in batch if not _is_given_up(write)), key=lambda write: write.order)

    @property
    def _waits(self) -> bool:
        """Whether there is a write to carry out."""
        return bool(self._first or self._queue or self._apart)

    def _take_together(self) -> list[Write[Any]]:
        """The next writes of the queue. Those of one key stay in their order, also behind one that was set apart.

        A write of no key has a transaction of its own, so that no lock for which another one waits holds it up.
        """
        batch: list[Write[Any]] = []
        later: list[Write[Any]] = []
        keys = {write.key for write in self._apart if write.key is not None}
        while self._queue and len(batch) < MOST_AT_ONCE:
            if self._queue[0].key is None and batch:
                break
            write = self._queue.popleft()
            if _is_given_up(write):
                continue
            if write.key is None:
                batch.append(write)
                break
            (later if write.key in keys else batch).append(write)
            if write.key is not None:
                keys.add(write.key)
        self._queue.extendleft(reversed(later))
        return batch

    def _commit(self, batch: Sequence[Write[Any]]) -> None:
        if not batch:
            return
        try:
            landings = self._transact(batch)
        except Exception as error:  # noqa: BLE001 - after any error the callers are answered, and the thread continues
            self._hang_up()
            self._recover(batch, error)
        else:
            self._has_committed(batch[: len(landings)])
            self._give_back(batch[len(landings) :])
            self._deliver(landings)

    def was_away(self, *, within: float) -> bool:
        """Whether the database was away within so many seconds before now, or still is as far as is known."""
        if self._away_since is not None:
            return True
        return self._back_at is not None and self._clock.monotonic() < self._back_at + within

    def _transact(self, batch: Sequence[Write[Any]]) -> list[_Landing]:
        """Commit the writes, or, if they take long, the first of them."""
        began = self._clock.monotonic()
        self._begun, self._carried_out = False, None
        if self._connection is None:
            self._connection = self._engine.connect()
        with self._connection.begin():
            self._begun = True
            transaction = self._transaction(self._connection, began)
            _lock_rows(batch, transaction)
            landings = [self._carry_out(batch[0], transaction)]
            for write in batch[1:]:
                if self._clock.monotonic() >= began + _MOST_SECONDS:
                    break
                landings.append(self._carry_out(write, transaction))
            self._carried_out = None
            transaction.finish()
        return landings

    def _carry_out(self, write: Write[Any], transaction: Transaction) -> _Landing:
        self._carried_out = write
        write.begun = True
        try:
            return _Landing(write, result=write.carry_out(transaction))
        except REFUSALS as error:
            return _Landing(write, error=error)

    def _recover(self, batch: Sequence[Write[Any]], error: Exception) -> None:
        trouble = trouble_of(error)
        at_fault = self._carried_out or (batch[0] if len(batch) == 1 else None)
        if not self._begun:
            self._refuse_or_wait(batch, trouble, error)
        elif at_fault is None:
            self._divide(batch, trouble, error)
        else:
            self._give_back([write for write in batch if write is not at_fault])
            self._judge(at_fault, trouble, error, alone=len(batch) == 1)

    def _refuse_or_wait(self, batch: Sequence[Write[Any]], trouble: Trouble, error: Exception) -> None:
        """No transaction has begun, so no write is at fault."""
        if trouble is Trouble.FAULT:
            self._deliver(_Landing(write, error=error) for write in batch)
        else:
            self._give_back(batch)
            self._wait_out(error)

    def _divide(self, batch: Sequence[Write[Any]], trouble: Trouble, error: Exception) -> None:
        """Find the write at fault: try each alone. A connection that was lost once may have been lost by chance."""
        by_chance = trouble is Trouble.AWAY and not any(write.cut_off for write in batch)
        if by_chance:
            for write in batch:
                write.cut_off = True
            self._give_back(batch)
        else:
            self._set_apart(batch)
        self._pause_if_away(trouble, error)

    def _judge(self, write: Write[Any], trouble: Trouble, error: Exception, *, alone: bool) -> None:
        """Try the write at fault again alone, unless it can only fail."""
        write.races += trouble is Trouble.RACED
        may_be_the_cause = trouble in {Trouble.AWAY, Trouble.SUSPECT}
        if may_be_the_cause and write.commits_before != self._commits:
            write.commits_before = self._commits
            write.failures += 1
        if (
            (alone and trouble is Trouble.FAULT)
            or (alone and write.races >= _MOST_RACES)
            or (may_be_the_cause and write.failures >= _MOST_TRIES)
        ):
            self._deliver([_Landing(write, error=error)])
        else:
            if trouble is Trouble.SUSPECT or (alone and trouble in {Trouble.CONTENDED, Trouble.RACED}):
                self._log_once_blocked(write, error)
            self._set_apart([write])
        self._pause_if_away(trouble, error)

    def _pause_if_away(self, trouble: Trouble, error: Exception) -> None:
        self._failures += trouble is Trouble.SUSPECT
        if trouble is Trouble.AWAY or self._failures >= _MOST_TRIES:
            self._wait_out(error)

    def _set_apart(self, writes: Iterable[Write[Any]]) -> None:
        with self._changed:
            for write in writes:
                if _is_first(write):
                    self._apart.appendleft(write)
                else:
                    self._apart.append(write)

    def _give_back(self, batch: Sequence[Write[Any]]) -> None:
        with self._changed:
            for write in reversed(batch):
                (self._first if _is_first(write) else self._queue).appendleft(write)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # Both may fail on a connection that is broken already; there is nothing to lose.
        with suppress(Exception):
            connection.invalidate()
        with suppress(Exception):
            connection.close()

    def _wait_out(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since = self._clock.monotonic()
            self._log.warning("ledger.database_lost", problem=problem_in(error))
            self._notify(available=False)
        self._closing.wait(self._back_off.pause())

    def _has_committed(self, batch: Sequence[Write[Any]]) -> None:
        if all(write.reads for write in batch) and any(write.failures for write in self._apart):
            return  # it says nothing about what fails
        self._commits += 1
        self._failures = 0
        self._is_back()

    def _is_back(self) -> None:
        if self._away_since is not None:
            seconds = round(self._clock.monotonic() - self._away_since, 3)
            self._log.info("ledger.database_back", seconds=seconds)
            self._away_since = None
            self._back_at = self._clock.monotonic()
            self._back_off.reset()
        self._notify(available=True)

    def _notify(self, *, available: bool) -> None:
        if self._notified is not available:
            self._notified = available
            self._on_loop(lambda: self._available(available))

    def _log_once_blocked(self, write: Write[Any], error: Exception) -> None:
        if not write.blocked:
            write.blocked = True
            self._log.warning("ledger.write_blocked", idempotency_key=write.key, problem=problem_in(error))

    def _deliver(self, landings: Iterable[_Landing]) -> None:
        landed = list(landings)

        def deliver() -> None:
            for landing in landed:
                landing.deliver()

        self._on_loop(deliver)

    def _on_loop(self, callback: Callable[[], None]) -> None:
        if self._loop is not None:
            # RuntimeError: the loop is closed, and no caller waits any more.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(callback)


def _lock_rows(batch: Sequence[Write[Any]], transaction: Transaction) -> None:
    """Lock the rows in the order of keys, where the writes do not take them, and nothing else, in that order."""
    keys = [write.key for write in batch if write.key is not None]
    waits_between = len(keys) > 1 and any(write.order[0] in {BY_JOB, BY_BATCH} for write in batch)
    if waits_between or keys != sorted(keys):
        transaction.lock(keys, of_worker=False)


def _is_first(write: Write[Any]) -> bool:
    return write.order[0] == FIRST


def _is_given_up(write: Write[Any]) -> bool:
    """Whether its caller is gone, it was never tried, and it need not be."""
    return write.future.cancelled() and not (write.begun or write.kept)


def writer_on(
    url: URL,
    lease_clock: LeaseClock,
    transaction: Callable[[Connection, float], Transaction],
    clock: Clock,
    available: Callable[[bool], None],
) -> Writer:
    """A writer with a thread and a connection of its own.

    Raises:
        SettingsInvalidError: the SQLite file cannot be a ledger: its folder does not exist, it or its folder may not be
            written to, or it is something else.
    """
    if (problem := file_problem(url)) is not None:
        raise SettingsInvalidError(f"{URL_VARIABLE}: {problem}")
    engine = open_engine(url, clock, lease_now=lease_clock.now)
    return Writer(engine, transaction, clock, available, f"{url.host or ''}/{url.database}")
