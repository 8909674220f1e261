"""The ledger on a database: SQLite for the workers of one host, PostgreSQL for those of many.

More than 400 lines: each call of the port, with what a worker does about it beside the transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from worker.clock import boot_id
from worker.ledger.cancelling import Stored
from worker.ledger.database import problem_in, read_url
from worker.ledger.errors import LedgerClosedError, SchemaTooNewError
from worker.ledger.lease_clock import LeaseClock
from worker.ledger.leases import GRACE_SECONDS, LOOKS_IN_A_LEASE, RENEWALS_IN_A_LEASE, Leases
from worker.ledger.migrations import migrate
from worker.ledger.presence import WorkerState, leave, put
from worker.ledger.records import KeyHistory
from worker.ledger.retention import Retention
from worker.ledger.transaction import Renewed, Surroundings, Transaction
from worker.ledger.writer import BY_BATCH, BY_JOB, BY_KEY, FIRST, LAST, Writer, writer_on
from worker.settings import LedgerSettings
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    CancelRequest,
    Change,
    Claimed,
    ClaimResult,
    EndedBatch,
    HeldElsewhere,
    Intended,
    KeyReused,
    KnownRun,
    Lease,
    LeaseLostError,
    MemberEnd,
    NewClaim,
    NewMember,
    NoSuchRun,
    Retry,
    RetryResult,
    SentAgain,
    Settled,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from contracts.batches import BatchEnded

    MakeWriter = Callable[[Callable[[Connection, float], Transaction], Clock, Callable[[bool], None]], Writer]

_log = structlog.get_logger()

#: How long a worker that drains tries to release its leases, in seconds.
_RELEASE_SECONDS: Final = 10.0

T = TypeVar("T")


class SqlLedger:
    """The port `worker.unlinks.ports.ledger.Ledger`. Its calls wait for as long as the database is away.

    Once a newer version has changed the schema so that this one cannot work with it, nothing is read or written any
    more. The leases are given up: workers of the newer version take the keys over when the leases have run out, and
    decide by the links, as after a crash. Claims are answered `HeldElsewhere`; other calls raise `SchemaTooNewError`.

    Args:
        settings: where the database is, and how long a lease lasts.
        worker: this worker's name. Two that run at the same time must have different names: a worker that starts ends
            the leases of its name, as those of an earlier process.
        clock: for the time of day on SQLite, for pauses, and for `alive`.
        writer: makes the writer; by default, one with a thread and a connection to the database of `settings`.
        boot: the ID of this boot of the host; see `LeaseClock`.
        trace_id: gives the ID of the trace that the caller's log lines carry; it is kept with each claim.

    Raises:
        SettingsInvalidError: the URL cannot be read; or the SQLite file cannot be a ledger: its folder does not exist,
            it or its folder may not be written to, or it is something else.
    """

    def __init__(
        self,
        settings: LedgerSettings,
        worker: str,
        clock: Clock,
        writer: MakeWriter | None = None,
        boot: str | None = None,
        trace_id: Callable[[], str | None] = lambda: None,
    ) -> None:
        boot = boot or boot_id()
        self._lease_clock = LeaseClock(clock, boot)
        self._retention = Retention(clock, boot)
        make_writer = writer or partial(writer_on, read_url(settings.url), self._lease_clock)
        self._worker = worker
        self._clock = clock
        self._trace_id = trace_id
        self._lease_seconds = settings.lease_seconds
        self._leases = Leases(clock, settings.lease_seconds)
        self._listeners: list[Callable[[bool], None]] = []
        self._renewal_listeners: list[Callable[[bool], None]] = []
        self._call_listeners: list[Callable[[str, float], None]] = []
        self._cancel_listeners: list[Callable[[str], None]] = []
        self._endangered: frozenset[str] = frozenset()
        self._paused: frozenset[str] = frozenset()
        self._pause_listeners: list[Callable[[frozenset[str]], None]] = []
        self._up = False
        #: Set in the writer's thread, so that no later write of its queue is carried out.
        self._schema_problem: SchemaTooNewError | None = None
        self._said_too_new = False
        self._renewing: asyncio.Task[None] | None = None
        self._releasing: set[asyncio.Task[None]] = set()
        self._writer = make_writer(self._transaction, clock, self._set_up)

    # --- its life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the database, migrate its schema, end the leases of an earlier run, read what is paused, renew.

        Waits for a database that is away, with one line in the log.

        Raises:
            SchemaTooNewError: a newer version has changed the database in a way that this one cannot work with.
        """
        self._writer.start()
        try:
            await self._writer.write(lambda transaction: migrate(transaction.connection), order=(FIRST, ""))
            await self._writer.write(self._agree_on_clocks, order=(FIRST, ""))
            await self._writer.write(Transaction.end_leases, order=(FIRST, ""))
            self._set_paused(await self._writer.write(Transaction.paused, order=(FIRST, "")))
        except BaseException:
            await self._writer.stop()
            raise
        self._renewing = asyncio.create_task(self.keep_renewing(), name="ledger renewals")

    def _agree_on_clocks(self, transaction: Transaction) -> None:
        self._lease_clock.agree(transaction.connection)
        self._retention.mark(transaction.connection)

    async def close(self) -> None:
        """Finish the queued writes, if the database is available, and disconnect. Leases run out by themselves."""
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing
        await self._writer.stop()
        # The listeners are not notified: nothing went away that could come back.
        self._up = False

    @property
    def up(self) -> bool:
        """Whether the database answered the last time. False before the first answer, and after `close`."""
        return self._up

    def on_availability(self, listener: Callable[[bool], None]) -> None:
        """Call the listener on the event loop with each new value of `up`."""
        self._listeners.append(listener)

    def on_renewal(self, listener: Callable[[bool], None]) -> None:
        """Call the listener on the event loop after each renewal of the leases: true if it was written."""
        self._renewal_listeners.append(listener)

    def on_call(self, listener: Callable[[str, float], None]) -> None:
        """Call the listener on the event loop after each call of the port, with its name and its time in seconds."""
        self._call_listeners.append(listener)

    async def _call(
        self,
        call: str,
        key: str,
        carry_out: Callable[[Transaction], T],
        order: tuple[int, str] | None = None,
        *,
        reads: bool = False,
        kept: bool = False,
        landed: Callable[[T], None] | None = None,
    ) -> T:
        began = self._clock.monotonic()
        order = order or (BY_KEY, key)
        try:
            return await self._writer.write(
                self._if_usable(carry_out), order=order, key=key, reads=reads, kept=kept, landed=landed
            )
        finally:
            for listener in self._call_listeners:
                listener(call, self._clock.monotonic() - began)

    def _if_usable(self, carry_out: Callable[[Transaction], T]) -> Callable[[Transaction], T]:
        """`carry_out`, which raises `SchemaTooNewError` once the schema is too new, also if it is queued already."""

        def guarded(transaction: Transaction) -> T:
            if (problem := self._schema_problem) is not None:
                raise SchemaTooNewError(needed=problem.needed, known=problem.known)
            return carry_out(transaction)

        return guarded

    async def _of_worker(self, carry_out: Callable[[Transaction], T], otherwise: T) -> T:
        """Write what is of no single key. Return `otherwise` if the schema is too new, which the log has said."""
        try:
            return await self._writer.write(self._if_usable(carry_out), order=(LAST, ""))
        except SchemaTooNewError:
            return otherwise

    def _set_up(self, up: bool) -> None:  # noqa: FBT001 - the listeners' own form
        up = up and self._schema_problem is None
        if up is not self._up:
            self._up = up
            for listener in self._listeners:
                listener(up)

    def _transaction(self, connection: Connection, began: float) -> Transaction:
        grace = GRACE_SECONDS if self._writer.was_away(within=GRACE_SECONDS) else 0
        return Transaction(connection, began, self._worker, self._lease_seconds, grace)

    # --- leases -----------------------------------------------------------------------------------------------------

    async def claim(self, claim: NewClaim) -> ClaimResult:
        """Take a key. See the port.

        If the caller is cancelled meanwhile, or this fails after the claim, the key is released again: no unlink would
        use its lease.
        """
        trace_id = self._trace_id()
        return await self._take("claim", claim.key, lambda transaction: transaction.claim(claim, trace_id))

    async def retry(self, retry: Retry) -> RetryResult:
        """Start the next run of a key. See the port. As `claim` if the caller is cancelled, or this fails."""
        order, trace_id = (BY_BATCH, retry.key), self._trace_id()
        return await self._take("retry", retry.key, lambda transaction: transaction.retry(retry, trace_id), order)

    async def _take(
        self, call: str, key: str, take: Callable[[Transaction], T], order: tuple[int, str] | None = None
    ) -> T | HeldElsewhere:
        caller_gone = False
        had: Lease | None = None

        def landed(answer: tuple[T, float]) -> None:
            nonlocal had
            result, began = answer
            if isinstance(result, Claimed):
                had = result.entry.lease
                self._leases.had(had, began)
                if caller_gone:
                    self._release_later(had)

        try:
            result, _ = await self._call(
                call, key, lambda transaction: (take(transaction), transaction.began), order, landed=landed
            )
        except SchemaTooNewError:
            return HeldElsewhere()  # the command is for a worker of the newer version
        except BaseException:  # whatever it is, the caller does not get the lease
            caller_gone = True
            if had is not None:
                self._release_later(had)
            raise
        return result

    def _release_later(self, lease: Lease) -> None:
        releasing = asyncio.get_running_loop().create_task(self._release_unwaited(lease), name="ledger release")
        self._releasing.add(releasing)
        releasing.add_done_callback(self._releasing.discard)

    async def _release_unwaited(self, lease: Lease) -> None:
        try:
            await self.release(lease)
        except Exception as error:  # noqa: BLE001 - no caller waits for it; `_renewed` tries again
            _log.warning("ledger.release_failed", idempotency_key=lease.key, problem=problem_in(error))

    async def release(self, lease: Lease) -> None:
        """Release an unsettled key. See the port."""
        self._leases.end(lease)
        with suppress(SchemaTooNewError):
            await self._call("release", lease.key, lambda transaction: transaction.release(lease), kept=True)

    async def release_all(self) -> None:
        """At drain: end every unsettled lease of this worker, so that others continue without waiting.

        Does not wait for a database that is away: the leases then expire.
        """
        self._leases.end_all()
        if not self._up:
            return
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._of_worker(Transaction.release_all, None)
                await self._of_worker(lambda transaction: leave(transaction.connection, self._worker), None)
        except (TimeoutError, LedgerClosedError):
            _log.warning("ledger.leases_left_to_run_out", worker=self._worker, seconds=self._lease_seconds)

    def alive(self, lease: Lease) -> bool:
        """Whether the lease is certain not to have run out. See the port."""
        return self._leases.alive(lease)

    def seconds_left(self, lease: Lease) -> float:
        """For how many seconds the lease is certain not to run out. See the port."""
        return self._leases.seconds_left(lease)

    async def has_decided(self, key: str, fingerprint: str) -> bool:
        """Whether the key is past its claim with this content. See the port."""
        return await self._call(
            "has_decided", key, lambda transaction: transaction.has_decided(key, fingerprint), reads=True
        )

    async def last_run(self, key: str) -> KnownRun | None:
        """The last run of a key. See the port."""
        return await self._call("last_run", key, lambda transaction: transaction.last_run(key), reads=True)

    async def renew(self) -> None:
        """Make every lease of this worker last from now on."""
        with suppress(SchemaTooNewError):
            await self._writer.write(
                self._if_usable(lambda transaction: (transaction.renew(), transaction.began)),
                order=(FIRST, ""),
                landed=self._renewed,
            )

    async def look_around(self) -> None:
        """Read what is paused, and whether this version may still use the database."""
        await self._writer.write(self._look_around, order=(FIRST, ""), reads=True, landed=self._looked_around)

    def _look_around(self, transaction: Transaction) -> Surroundings:
        surroundings = transaction.surroundings()
        self._schema_problem = surroundings.schema_problem or self._schema_problem
        return surroundings

    async def keep_renewing(self) -> None:
        """Renew the leases in time, and look around at longer intervals. Done from `start` to `close`.

        Ends when the schema is too new: the leases then run out, and workers of the newer version go on.
        """
        interval = self._lease_seconds / RENEWALS_IN_A_LEASE
        looked = self._clock.monotonic()
        while self._schema_problem is None:
            began = self._clock.monotonic()
            try:
                if self._leases:
                    await self.renew()
                if began - looked >= self._lease_seconds / LOOKS_IN_A_LEASE:
                    looked = began
                    await self.look_around()
            except LedgerClosedError:
                return
            except Exception as error:  # noqa: BLE001 - a renewal that failed must not be the last one
                _log.error("ledger.renewal_failed", problem=problem_in(error))
                self._notify_renewed(well=False)
            await self._clock.sleep(max(began + interval - self._clock.monotonic(), 0))

    def _renewed(self, answer: tuple[Renewed, float]) -> None:
        renewed, began = answer
        endangered = self._leases.renewed(renewed.tokens, renewed.locked, began)
        for key in sorted(set(endangered) - self._endangered):
            _log.warning("ledger.lease_blocked", idempotency_key=key)
        self._endangered = frozenset(endangered)
        for lease in self._leases.unused(renewed.tokens, began):
            _log.warning("ledger.lease_unused", idempotency_key=lease.key)
            self._release_later(lease)
        for key in renewed.cancelled:
            self._notify_cancelled(key)
        self._notify_renewed(well=not endangered)

    def _looked_around(self, surroundings: Surroundings) -> None:
        self._set_paused(surroundings.paused)
        if surroundings.schema_problem is not None and not self._said_too_new:
            self._said_too_new = True
            _log.error("ledger.schema_too_new", problem=str(surroundings.schema_problem))
            self._leases.end_all()
            self._set_up(False)

    def _notify_renewed(self, *, well: bool) -> None:
        for listener in self._renewal_listeners:
            listener(well)

    # --- pausing ----------------------------------------------------------------------------------------------------

    def on_paused(self, listener: Callable[[frozenset[str]], None]) -> None:
        """Call the listener on the event loop with the paused Enterprise Managers, when they change.

        The first call is before `start` returns, if any are paused; later calls follow the looks of `keep_renewing`.
        """
        self._pause_listeners.append(listener)

    def _set_paused(self, paused: frozenset[str]) -> None:
        if paused != self._paused:
            self._paused = paused
            for listener in self._pause_listeners:
                listener(paused)

    # --- cancelling -------------------------------------------------------------------------------------------------

    async def cancel(self, request: CancelRequest) -> AlreadySettled | KeyReused | NoSuchRun | KnownRun | None:
        """Store a request to cancel. See the port.

        In two transactions: when the second one begins, every write that begins from then on sees the request.
        """
        stored = await self._call("cancel", request.key, lambda transaction: transaction.cancel(request))
        if not isinstance(stored, Stored):
            return stored
        run = stored.run
        answer = await self._call("cancel", request.key, lambda transaction: transaction.mark_cancelled(request, run))
        if (answer is None or isinstance(answer, KnownRun)) and stored.present:
            self._notify_cancelled(request.key)
        return answer

    async def cancelled_by(self, lease: Lease) -> str | None:
        """Who asked to cancel the run of this lease. See the port."""
        return await self._call(
            "cancelled_by", lease.key, lambda transaction: transaction.cancelled_by(lease), reads=True
        )

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        """Call the listener with each key of this worker whose cancellation was requested. See the port."""
        self._cancel_listeners.append(listener)

    def _notify_cancelled(self, key: str) -> None:
        if self._leases.holds(key):
            for listener in self._cancel_listeners:
                listener(key)

    # --- batches ----------------------------------------------------------------------------------------------------

    async def join(self, member: NewMember) -> int | None:
        """Let a key join a batch. See the port."""
        return await self._of_batch("join", member, lambda transaction: transaction.join(member))

    async def count_rejected(self, member: NewMember, end: MemberEnd, *, given_up: bool = False) -> None:
        """Count a rejected command as an ended member. See the port."""
        await self._of_batch(
            "count_rejected",
            member,
            lambda transaction: transaction.count_rejected(member, end, given_up=given_up),
        )

    async def _of_batch(self, call: str, member: NewMember, carry_out: Callable[[Transaction], T]) -> T:
        batch = member.batch
        place = f"{batch.enterprise_manager} {batch.user_id or ''} {batch.id} {member.key}"
        return await self._call(call, member.key, carry_out, (BY_BATCH, place))

    async def end_members(self, key: str) -> None:
        """Record the end of a settled key in the batches that it joined since. See the port."""
        await self._call("end_members", key, lambda transaction: transaction.end_members(key))

    async def ended_batches(self, key: str, compose: Callable[[EndedBatch], BatchEnded]) -> tuple[BatchEnded, ...]:
        """The events of the batches that a key belongs to, and that have ended. See the port."""
        return await self._call(
            "ended_batches", key, lambda transaction: transaction.ended_batches(key, compose), (BY_BATCH, key)
        )

    # --- recording --------------------------------------------------------------------------------------------------

    async def record(self, lease: Lease, change: Change) -> bool:
        """Record a change. See the port.

        If the caller is cancelled meanwhile, what has happened is recorded; what was about to happen may be.

        Raises:
            OutOfOrderError: the key's stage does not allow it, or an earlier intent names another link.
            SchemaTooNewError: a `LeaseLostError`: nothing is written into a schema that this version does not know.
        """
        order = (BY_JOB, f"{change.intent.job_id} {lease.key}") if isinstance(change, Intended) else None
        kept = not isinstance(change, (Intended, SentAgain))
        try:
            recorded = await self._call(
                change.call, lease.key, lambda transaction: transaction.record(lease, change), order, kept=kept
            )
        except LeaseLostError:
            self._leases.end(lease)
            raise
        if isinstance(change, Settled):
            self._leases.end(lease)
        return recorded

    # --- for people -------------------------------------------------------------------------------------------------

    async def prune(self, older_than_days: float) -> int:
        """Delete the keys that were settled longer ago, some at a time, so that no write waits long. Count them."""
        total, more = 0, True
        while more:
            pruned, more = await self._of_worker(
                lambda transaction: transaction.prune(older_than_days, self._retention), (0, False)
            )
            total += pruned
        return total

    async def report_status(self, state: WorkerState) -> None:
        """Write the status row of this worker."""
        await self._of_worker(lambda transaction: put(transaction.connection, state), None)

    async def walk(self) -> bool:
        """If it is time, make some older keys searchable. Return whether the next part may follow at once."""
        return await self._of_worker(Transaction.walk, otherwise=False)

    async def history(self, key: str) -> KeyHistory | None:
        """All that is known of a key; None if it is not known."""
        return await self._writer.write(lambda transaction: transaction.history(key), order=(LAST, ""), reads=True)
