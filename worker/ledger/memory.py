"""The ledger in memory: the same rules, for simulations under a virtual clock.

No threads and no I/O, and nothing is left to chance: a call is carried out at once, in one piece, unless the database
was told to be away. Several workers share one `InMemoryDatabase`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from worker.ledger.errors import OutOfOrderError
from worker.ledger.leases import RENEWALS_IN_A_LEASE, Leases
from worker.ledger.records import MOST_STEPS, KeyHistory, Record, RecordedStep, Step
from worker.ledger.rows import who_and_why
from worker.ledger.tables import EPOCH
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    CancelRequestedError,
    Claimed,
    Entry,
    HeldElsewhere,
    KeyReused,
    Lease,
    LeaseLostError,
    Stage,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from contracts.events import Outcome
    from worker.unlinks.ports.clock import Clock
    from worker.unlinks.ports.enterprise_manager import TaskTicket
    from worker.unlinks.ports.ledger import CancelRequest, ClaimResult, Intent, NewClaim

_IN_FLIGHT = frozenset({Stage.INTENDED, Stage.SUBMITTED})


@dataclass(slots=True)
class InMemoryDatabase:
    """What the workers share.

    Args:
        clock: what leases are measured by, as by PostgreSQL's own clock; without it, by each worker's, as on SQLite.
    """

    clock: Clock | None = None
    records: dict[str, Record] = field(default_factory=dict)
    steps: dict[str, list[RecordedStep]] = field(default_factory=dict)
    cancellations: dict[tuple[str, str], CancelRequest] = field(default_factory=dict)
    _away: asyncio.Event | None = None
    _listeners: list[Callable[[bool], None]] = field(default_factory=list)

    @property
    def up(self) -> bool:
        """Whether it answers."""
        return self._away is None

    def go_away(self) -> None:
        """From now on every call waits."""
        if self._away is None:
            self._away = asyncio.Event()
            self._tell()

    def come_back(self) -> None:
        """Let those go on who wait."""
        if self._away is not None:
            away, self._away = self._away, None
            away.set()
            self._tell()

    def on_availability(self, listener: Callable[[bool], None]) -> None:
        """Have the listener called with each new value of `up`."""
        self._listeners.append(listener)

    async def reached(self) -> None:
        """Return once it answers."""
        while self._away is not None:
            await self._away.wait()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(self.up)

    def as_seen_now(self, record: Record) -> Record:
        """The record, with whether somebody asked to cancel its unlink."""
        cancelled = (record.entry.lease.key, record.enterprise_manager) in self.cancellations
        return replace(record, entry=replace(record.entry, cancelled=cancelled))

    def job_is_busy(self, key: str, enterprise_manager: str, job_id: str) -> bool:
        """Whether another key's unlink of the job is between its intent and its end."""
        return any(
            record.entry.stage in _IN_FLIGHT
            and record.enterprise_manager == enterprise_manager
            and record.entry.intent is not None
            and record.entry.intent.job_id == job_id
            for other, record in self.records.items()
            if other != key
        )


class InMemoryLedger:
    """The port `worker.unlinks.ports.ledger.Ledger`, and the rest of what `SqlLedger` offers.

    Args:
        database: shared by all workers.
        worker: this worker's name.
        clock: for renewals, for `alive`, and for leases if the database has no clock of its own.
        lease_seconds: how long a lease lasts that is not renewed.
    """

    def __init__(self, database: InMemoryDatabase, worker: str, clock: Clock, lease_seconds: float) -> None:
        self._database = database
        self._worker = worker
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._leases = Leases(clock, lease_seconds)
        self._cancel_listeners: list[Callable[[str], None]] = []
        self._renewing: asyncio.Task[None] | None = None

    # --- its life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """End the leases of an earlier run of this worker, and start renewing."""
        await self._database.reached()
        for record in self._unsettled_of_this_worker():
            self._database.records[record.entry.lease.key] = replace(record, lease_until=EPOCH)
        self._renewing = asyncio.create_task(self._keep_renewing(), name="ledger renewals")

    async def close(self) -> None:
        """Stop renewing. Leases are left to run out."""
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing

    @property
    def up(self) -> bool:
        """Whether the database answers."""
        return self._database.up

    def on_availability(self, listener: Callable[[bool], None]) -> None:
        """Have the listener called with each new value of `up`."""
        self._database.on_availability(listener)

    # --- leases -----------------------------------------------------------------------------------------------------

    async def claim(self, claim: NewClaim) -> ClaimResult:
        """Take a key. See the port."""
        await self._database.reached()
        record = self._database.records.get(claim.key)
        if record is None:
            entry = Entry(Lease(claim.key, 1), Stage.CLAIMED, attempts=1, received_at=claim.received_at)
            return self._had(Record(entry, claim.fingerprint, claim.enterprise_manager, claim.command, *self._until()))
        if record.fingerprint != claim.fingerprint:
            return KeyReused()
        if record.event is not None:
            return AlreadySettled(record.event)
        if record.worker not in {None, self._worker} and record.lease_until > self._now():
            return HeldElsewhere()
        worker, lease_until, updated_at = self._until()
        entry = replace(
            record.entry,
            lease=Lease(claim.key, record.entry.lease.token + 1),
            attempts=record.entry.attempts + 1,
        )
        return self._had(replace(record, entry=entry, worker=worker, lease_until=lease_until, updated_at=updated_at))

    def _had(self, record: Record) -> Claimed:
        record = self._database.as_seen_now(record)
        entry = record.entry
        self._database.records[entry.lease.key] = record
        self._note(entry.lease, Step.CLAIMED if entry.lease.token == 1 else Step.TAKEN_OVER, entry.stage.value)
        self._leases.had(entry.lease, self._clock.monotonic())
        return Claimed(entry)

    async def renew(self) -> None:
        """Make every lease of this worker last from now on. `start` does so at intervals."""
        await self._database.reached()
        records = self._unsettled_of_this_worker()
        for record in records:
            self._database.records[record.entry.lease.key] = replace(record, lease_until=self._until()[1])
        self._leases.renewed([record.entry.lease for record in records], self._clock.monotonic())
        for record in records:
            if self._database.as_seen_now(record).entry.cancelled:
                self._tell_cancelled(record.entry.lease.key)

    async def release(self, lease: Lease) -> None:
        """Let go of an unsettled key. See the port."""
        self._leases.let_go(lease)
        await self._database.reached()
        with suppress(LeaseLostError):
            self._release(self._require(lease))

    async def release_all(self) -> None:
        """Let go of every key of this worker."""
        self._leases.let_all_go()
        await self._database.reached()
        for record in self._unsettled_of_this_worker():
            self._release(record)

    def _release(self, record: Record) -> None:
        lease = record.entry.lease
        self._database.records[lease.key] = replace(record, worker=None, lease_until=EPOCH, updated_at=self._now())
        self._note(lease, Step.RELEASED)

    def alive(self, lease: Lease) -> bool:
        """Whether the lease is certain not to have run out. See the port."""
        return self._leases.alive(lease)

    async def has_decided(self, key: str, fingerprint: str) -> bool:
        """Whether the fate of this very command is decided. See the port."""
        await self._database.reached()
        record = self._database.records.get(key)
        if record is None or record.fingerprint != fingerprint:
            return False
        return record.entry.stage is not Stage.CLAIMED or record.entry.intent is not None

    async def _keep_renewing(self) -> None:
        while True:
            await self._clock.sleep(self._lease_seconds / RENEWALS_IN_A_LEASE)
            await self.renew()

    # --- cancelling -------------------------------------------------------------------------------------------------

    async def cancel(self, request: CancelRequest) -> AlreadySettled | KeyReused | None:
        """Remember somebody's wish. See the port."""
        await self._database.reached()
        record = self._database.records.get(request.key)
        if record is not None and record.enterprise_manager != request.enterprise_manager:
            return KeyReused()
        if record is not None and record.event is not None:
            return AlreadySettled(record.event)
        named = (request.key, request.enterprise_manager)
        if named not in self._database.cancellations:
            self._database.cancellations[named] = request
            self._note(Lease(request.key, 0), Step.CANCEL_REQUESTED, who_and_why(request))
        self._tell_cancelled(request.key)
        return None

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        """Have the listener told of this worker's keys that somebody asked to cancel. See the port."""
        self._cancel_listeners.append(listener)

    def _tell_cancelled(self, key: str) -> None:
        if self._leases.holds(key):
            for listener in self._cancel_listeners:
                listener(key)

    # --- writing down -----------------------------------------------------------------------------------------------

    async def intend(self, lease: Lease, intent: Intent, sent_at: datetime) -> bool:
        """Record that the DELETE is about to be sent. See the port, and `SqlLedger.intend`."""
        record = await self._reach(lease)
        entry = record.entry
        same_link = entry.intent is None or _link_of(entry.intent) == _link_of(intent)
        if entry.stage is Stage.INTENDED and entry.sent_at == sent_at and same_link:
            return True
        if entry.stage is Stage.CLAIMED and entry.cancelled:
            raise CancelRequestedError(_unwanted(lease))
        if entry.stage is not Stage.CLAIMED or not same_link:
            claimed = entry.stage is Stage.CLAIMED
            raise OutOfOrderError(lease, entry.stage, "an intent for another link" if claimed else "an intent")
        if self._database.job_is_busy(lease.key, record.enterprise_manager, intent.job_id):
            self._write(record, replace(entry, intent=intent), Step.JOB_BUSY, intent.job_id)
            return False
        intended = replace(entry, intent=intent, stage=Stage.INTENDED, sent_at=sent_at, sends=entry.sends + 1)
        self._write(record, intended, Step.INTENDED, intent.link.object_in_job_id)
        return True

    async def withdraw(self, lease: Lease) -> None:
        """The DELETE certainly did not leave. See the port."""
        record = await self._reach(lease)
        entry = record.entry
        if entry.stage in _IN_FLIGHT:
            back = replace(
                entry, stage=Stage.CLAIMED, sent_at=None, sends=entry.sends - 1, task=None, submitted_at=None
            )
            self._write(record, back, Step.WITHDRAWN)

    async def send_again(self, lease: Lease) -> None:
        """Record that the same DELETE is about to be sent once more. See the port, and `SqlLedger.send_again`."""
        record = await self._reach(lease)
        entry = record.entry
        if entry.stage not in _IN_FLIGHT:
            raise OutOfOrderError(lease, entry.stage, "sending again")
        if entry.cancelled:
            raise CancelRequestedError(_unwanted(lease))
        again = replace(entry, stage=Stage.INTENDED, sends=entry.sends + 1, task=None, submitted_at=None)
        self._write(record, again, Step.SENT_AGAIN)

    async def submitted(self, lease: Lease, task: TaskTicket, submitted_at: datetime) -> None:
        """Record the task. See the port, and `SqlLedger.submitted`."""
        record = await self._reach(lease)
        if record.entry.stage not in _IN_FLIGHT:
            raise OutOfOrderError(lease, record.entry.stage, "a task")
        known = replace(record.entry, stage=Stage.SUBMITTED, task=task, submitted_at=submitted_at)
        self._write(record, known, Step.SUBMITTED, task.task_id)

    async def settle(self, lease: Lease, outcome: Outcome, event: bytes, finished_at: datetime) -> None:
        """Record the end. See the port."""
        await self._database.reached()
        known = self._database.records.get(lease.key)
        if known is not None and known.entry.lease == lease and known.event == event:
            return
        record = replace(
            self._require(lease),
            outcome=outcome,
            event=event,
            finished_at=finished_at,
            worker=None,
            lease_until=EPOCH,
        )
        self._write(record, replace(record.entry, stage=Stage.SETTLED), Step.SETTLED, outcome.value)
        self._leases.let_go(lease)

    # --- for people -------------------------------------------------------------------------------------------------

    async def prune(self, older_than_days: float) -> int:
        """Delete the keys that were settled longer ago; says how many."""
        await self._database.reached()
        oldest = self._now() - timedelta(days=older_than_days)
        old = [
            key
            for key, record in self._database.records.items()
            if record.finished_at is not None and record.finished_at < oldest
        ]
        for key in old:
            del self._database.records[key]
            self._database.steps.pop(key, None)
        for named, request in list(self._database.cancellations.items()):
            if request.key in old or (request.key not in self._database.records and request.requested_at < oldest):
                del self._database.cancellations[named]
                self._database.steps.pop(request.key, None)
        return len(old)

    async def history(self, key: str) -> KeyHistory | None:
        """All that is known of a key; None if it is not known."""
        await self._database.reached()
        record = self._database.records.get(key)
        cancellations = tuple(each for each in self._database.cancellations.values() if each.key == key)
        if record is None and not cancellations:
            return None
        return KeyHistory(
            record=None if record is None else self._database.as_seen_now(record),
            steps=tuple(self._database.steps.get(key, ())[-MOST_STEPS:]),
            cancellations=cancellations,
        )

    # --- how --------------------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return (self._database.clock or self._clock).now()

    def _until(self) -> tuple[str, datetime, datetime]:
        now = self._now()
        return self._worker, now + timedelta(seconds=self._lease_seconds), now

    def _unsettled_of_this_worker(self) -> list[Record]:
        return [
            record
            for record in self._database.records.values()
            if record.worker == self._worker and record.entry.stage is not Stage.SETTLED
        ]

    async def _reach(self, lease: Lease) -> Record:
        await self._database.reached()
        return self._require(lease)

    def _require(self, lease: Lease) -> Record:
        """The record of a lease that is not lost."""
        record = self._database.records.get(lease.key)
        if record is None or record.entry.lease != lease or record.entry.stage is Stage.SETTLED:
            self._leases.let_go(lease)
            raise LeaseLostError(f"{lease.key} was taken over, or has ended; token {lease.token} is not the newest")
        return self._database.as_seen_now(record)

    def _write(self, record: Record, entry: Entry, step: Step, detail: str | None = None) -> None:
        self._database.records[entry.lease.key] = replace(record, entry=entry, updated_at=self._now())
        self._note(entry.lease, step, detail)

    def _note(self, lease: Lease, step: Step, detail: str | None = None) -> None:
        recorded = RecordedStep(self._now(), self._worker, lease.token, step, detail)
        self._database.steps.setdefault(lease.key, []).append(recorded)


def _link_of(intent: Intent) -> tuple[str, str]:
    return intent.job_id, intent.link.object_in_job_id


def _unwanted(lease: Lease) -> str:
    return f"somebody asked to cancel {lease.key}"
