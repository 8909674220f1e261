"""The ledger on a database: SQLite for the workers of one host, PostgreSQL for those of many."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from worker.ledger.database import open_engine, problem_in, read_url
from worker.ledger.errors import LedgerClosedError
from worker.ledger.leases import RENEWALS_IN_A_LEASE, Leases
from worker.ledger.migrations import migrate
from worker.ledger.statements import PRUNED_AT_ONCE
from worker.ledger.transaction import Transaction
from worker.ledger.writer import Writer
from worker.unlinks.ports.ledger import Claimed, LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from sqlalchemy import Connection
    from sqlalchemy.engine import URL

    from contracts.events import Outcome
    from worker.ledger.records import KeyHistory
    from worker.ledger.transaction import Renewed
    from worker.settings import LedgerSettings
    from worker.unlinks.ports.clock import Clock
    from worker.unlinks.ports.enterprise_manager import TaskTicket
    from worker.unlinks.ports.ledger import (
        AlreadySettled,
        CancelRequest,
        ClaimResult,
        Intent,
        KeyReused,
        Lease,
        NewClaim,
    )

    MakeWriter = Callable[[Callable[[Connection, float], Transaction], Clock, Callable[[bool], None]], Writer]

_log = structlog.get_logger()

#: The order of writes in a transaction. Renewals first: a lease is worth more than anything that waits. Intents last,
#: by job: only they wait for other workers' transactions on something that is not a key.
_FIRST: Final = 0
_BY_KEY: Final = 1
_BY_JOB: Final = 2
_LAST: Final = 3

#: How long a worker that drains tries to let its leases go, in seconds.
_RELEASE_SECONDS: Final = 10.0

T = TypeVar("T")


class SqlLedger:
    """The port `worker.unlinks.ports.ledger.Ledger`. Its calls wait for as long as the database is away.

    Args:
        settings: where the database is, and how long a lease lasts.
        worker: this worker's name. No two that run at the same time may share one: a worker that starts takes what
            its name held for its own, left by an earlier run.
        clock: for leases on SQLite, for pauses, and for `alive`.
        writer: makes the writer; by default, one with a thread and a connection to the database of `settings`.

    Raises:
        SettingsInvalidError: the URL cannot be read.
    """

    def __init__(self, settings: LedgerSettings, worker: str, clock: Clock, writer: MakeWriter | None = None) -> None:
        make_writer = writer or partial(_writer_on, read_url(settings.url))
        self._worker = worker
        self._clock = clock
        self._lease_seconds = settings.lease_seconds
        self._leases = Leases(clock, settings.lease_seconds)
        self._listeners: list[Callable[[bool], None]] = []
        self._renewal_listeners: list[Callable[[bool], None]] = []
        self._call_listeners: list[Callable[[str, float], None]] = []
        self._cancel_listeners: list[Callable[[str], None]] = []
        self._paused: frozenset[str] = frozenset()
        self._pause_listeners: list[Callable[[frozenset[str]], None]] = []
        self._up = False
        self._renewing: asyncio.Task[None] | None = None
        self._letting_go: set[asyncio.Task[None]] = set()
        self._writer = make_writer(self._transaction, clock, self._set_up)

    # --- its life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the database, bring its schema forward, end the leases of an earlier run, hear what is paused, renew.

        Waits for a database that is away, with one line in the log.

        Raises:
            SchemaTooNewError: a newer version has changed the database in a way that this one cannot work with.
        """
        self._writer.start()
        try:
            await self._writer.write(lambda transaction: migrate(transaction.connection), order=(_FIRST, ""))
            await self._writer.write(Transaction.end_leases, order=(_FIRST, ""))
            self._set_paused(await self._writer.write(Transaction.paused, order=(_FIRST, "")))
        except BaseException:
            await self._writer.stop()
            raise
        self._renewing = asyncio.create_task(self._keep_renewing(), name="ledger renewals")

    async def close(self) -> None:
        """Finish the writes that wait, if the database is there, and let go of it. Leases are left to run out."""
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing
        await self._writer.stop()
        # Not told to the listeners: nothing went away that could come back.
        self._up = False

    @property
    def up(self) -> bool:
        """Whether the database answered last time. False until it first has, and after `close`."""
        return self._up

    def on_availability(self, listener: Callable[[bool], None]) -> None:
        """Have the listener called on the event loop with each new value of `up`."""
        self._listeners.append(listener)

    def on_renewal(self, listener: Callable[[bool], None]) -> None:
        """Have the listener called on the event loop after each renewal of the leases: true if it was written."""
        self._renewal_listeners.append(listener)

    def on_call(self, listener: Callable[[str, float], None]) -> None:
        """Have the listener called on the event loop after each call of the port: its name, and how long it took."""
        self._call_listeners.append(listener)

    async def _timed(self, call: str, answer: Awaitable[T]) -> T:
        began = self._clock.monotonic()
        try:
            return await answer
        finally:
            for listener in self._call_listeners:
                listener(call, self._clock.monotonic() - began)

    def _set_up(self, up: bool) -> None:  # noqa: FBT001 - the listeners' own form
        if up is not self._up:
            self._up = up
            for listener in self._listeners:
                listener(up)

    def _transaction(self, connection: Connection, began: float) -> Transaction:
        return Transaction(connection, began, self._worker, self._lease_seconds)

    # --- leases -----------------------------------------------------------------------------------------------------

    async def claim(self, claim: NewClaim) -> ClaimResult:
        """Take a key. See the port.

        If the caller is cancelled meanwhile, the key is let go again: nobody would know that it is held here.
        """
        caller_gone = False
        had: Lease | None = None

        def take(transaction: Transaction) -> tuple[ClaimResult, float]:
            return transaction.claim(claim), transaction.began

        def landed(answer: tuple[ClaimResult, float]) -> None:
            nonlocal had
            result, began = answer
            if isinstance(result, Claimed):
                had = result.entry.lease
                self._leases.had(had, began)
                if caller_gone:
                    self._let_go_later(had)

        try:
            written = self._writer.write(take, order=(_BY_KEY, claim.key), key=claim.key, landed=landed)
            result, _ = await self._timed("claim", written)
        except asyncio.CancelledError:
            caller_gone = True
            if had is not None:
                self._let_go_later(had)
            raise
        return result

    def _let_go_later(self, lease: Lease) -> None:
        letting_go = asyncio.get_running_loop().create_task(self._let_go(lease), name="ledger release")
        self._letting_go.add(letting_go)
        letting_go.add_done_callback(self._letting_go.discard)

    async def _let_go(self, lease: Lease) -> None:
        try:
            await self.release(lease)
        except Exception as error:  # noqa: BLE001 - nobody waits for it; the lease runs out once the worker ends
            _log.warning("ledger.release_failed", idempotency_key=lease.key, problem=problem_in(error))

    async def release(self, lease: Lease) -> None:
        """Let go of an unsettled key. See the port."""
        self._leases.let_go(lease)
        release = self._writer.write(lambda transaction: transaction.release(lease), order=_order(lease), key=lease.key)
        await self._timed("release", release)

    async def release_all(self) -> None:
        """At drain: every unsettled lease of this worker is over at once, so that others go on without waiting.

        Does not wait for a database that is away: the leases then run out by themselves.
        """
        self._leases.let_all_go()
        if not self._up:
            return
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._writer.write(Transaction.release_all, order=(_LAST, ""))
        except (TimeoutError, LedgerClosedError):
            _log.warning("ledger.leases_left_to_run_out", worker=self._worker, seconds=self._lease_seconds)

    def alive(self, lease: Lease) -> bool:
        """Whether the lease is certain not to have run out. See the port."""
        return self._leases.alive(lease)

    async def has_decided(self, key: str, fingerprint: str) -> bool:
        """Whether the fate of this very command is decided. See the port."""
        read = self._writer.write(
            lambda transaction: transaction.has_decided(key, fingerprint), order=(_BY_KEY, key), key=key
        )
        return await self._timed("has_decided", read)

    async def renew(self) -> None:
        """Make every lease of this worker last from now on. Done at intervals from `start` to `close`."""
        await self._writer.write(
            lambda transaction: (transaction.renew(), transaction.began), order=(_FIRST, ""), landed=self._renewed
        )

    async def _keep_renewing(self) -> None:
        while True:
            await self._clock.sleep(self._lease_seconds / RENEWALS_IN_A_LEASE)
            try:
                await self.renew()
            except LedgerClosedError:
                return
            except Exception as error:  # noqa: BLE001 - a renewal that failed must not be the last one
                _log.error("ledger.renewal_failed", problem=problem_in(error))
                self._tell_renewed(well=False)

    def _renewed(self, answer: tuple[Renewed, float]) -> None:
        renewed, began = answer
        self._leases.renewed(renewed.leases, began)
        for lease in renewed.cancelled:
            self._tell_cancelled(lease.key)
        self._set_paused(renewed.paused)
        self._tell_renewed(well=True)

    def _tell_renewed(self, *, well: bool) -> None:
        for listener in self._renewal_listeners:
            listener(well)

    # --- pausing ----------------------------------------------------------------------------------------------------

    def on_paused(self, listener: Callable[[frozenset[str]], None]) -> None:
        """Have the listener called on the event loop with the Enterprise Managers that are paused, when they change.

        For the first time before `start` returns, if there are any; from then on with the renewal of the leases.
        """
        self._pause_listeners.append(listener)

    def _set_paused(self, paused: frozenset[str]) -> None:
        if paused != self._paused:
            self._paused = paused
            for listener in self._pause_listeners:
                listener(paused)

    # --- cancelling -------------------------------------------------------------------------------------------------

    async def cancel(self, request: CancelRequest) -> AlreadySettled | KeyReused | None:
        """Remember somebody's wish. See the port.

        In two transactions: when the second one begins, every write that begins from then on sees the request.
        """
        key, order = request.key, (_BY_KEY, request.key)
        write = self._writer.write(lambda transaction: transaction.cancel(request), order=order, key=key)
        answer = await self._timed("cancel", write)
        if answer is None:
            write = self._writer.write(lambda transaction: transaction.mark_cancelled(request), order=order, key=key)
            answer = await self._timed("cancel", write)
        if answer is None:
            self._tell_cancelled(key)
        return answer

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        """Have the listener told of this worker's keys that somebody asked to cancel. See the port."""
        self._cancel_listeners.append(listener)

    def _tell_cancelled(self, key: str) -> None:
        if self._leases.holds(key):
            for listener in self._cancel_listeners:
                listener(key)

    # --- writing down -----------------------------------------------------------------------------------------------

    async def intend(self, lease: Lease, intent: Intent, sent_at: datetime) -> bool:
        """Record that the DELETE is about to be sent. See the port.

        Raises:
            LeaseLostError: as every write.
            CancelRequestedError: as the port says.
            OutOfOrderError: it was sent already, or another link was recorded for the key.
        """
        return await self._write(
            "intend",
            lease,
            lambda transaction: transaction.intend(lease, intent, sent_at),
            order=(_BY_JOB, f"{intent.job_id} {lease.key}"),
        )

    async def withdraw(self, lease: Lease) -> None:
        """The DELETE certainly did not leave. See the port."""
        await self._write("withdraw", lease, lambda transaction: transaction.withdraw(lease))

    async def send_again(self, lease: Lease) -> None:
        """Record that the same DELETE is about to be sent once more. See the port.

        Back to `intended`: the task of the DELETE before this one says nothing about this one.

        Raises:
            LeaseLostError: as every write.
            CancelRequestedError: as the port says.
            OutOfOrderError: it was never sent.
        """
        await self._write("send_again", lease, lambda transaction: transaction.send_again(lease))

    async def submitted(self, lease: Lease, task: TaskTicket, submitted_at: datetime) -> None:
        """Record the task. See the port.

        Raises:
            LeaseLostError: as every write.
            OutOfOrderError: there is no intent.
        """
        await self._write("submitted", lease, lambda transaction: transaction.submitted(lease, task, submitted_at))

    async def settle(self, lease: Lease, outcome: Outcome, event: bytes, finished_at: datetime) -> None:
        """Record the end. See the port."""
        await self._write("settle", lease, lambda transaction: transaction.settle(lease, outcome, event, finished_at))
        self._leases.let_go(lease)

    async def _write(
        self, call: str, lease: Lease, carry_out: Callable[[Transaction], T], order: tuple[int, str] | None = None
    ) -> T:
        try:
            write = self._writer.write(carry_out, order=order or _order(lease), key=lease.key)
            return await self._timed(call, write)
        except LeaseLostError:
            self._leases.let_go(lease)
            raise

    # --- for people -------------------------------------------------------------------------------------------------

    async def prune(self, older_than_days: float) -> int:
        """Delete the keys that were settled longer ago, some at a time, so that nobody waits long; says how many."""
        total = 0
        while pruned := await self._writer.write(
            lambda transaction: transaction.prune(older_than_days), order=(_LAST, "")
        ):
            total += pruned
            if pruned < PRUNED_AT_ONCE:
                break
        return total

    async def history(self, key: str) -> KeyHistory | None:
        """All that is known of a key; None if it is not known."""
        return await self._writer.write(lambda transaction: transaction.history(key), order=(_LAST, ""))


def _writer_on(
    url: URL, transaction: Callable[[Connection, float], Transaction], clock: Clock, available: Callable[[bool], None]
) -> Writer:
    return Writer(open_engine(url, clock), transaction, clock, available, f"{url.host or ''}/{url.database}")


def _order(lease: Lease) -> tuple[int, str]:
    return (_BY_KEY, lease.key)
