"""The ledger: the state of every key. Times of day are aware datetimes in UTC.

More than 400 lines: one port, with the records that its calls take and give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol

from worker.unlinks.ports.enterprise_manager import Link, LinkedBackup, TaskTicket

if TYPE_CHECKING:
    from contracts.batches import BatchEnded
    from contracts.events import Outcome


class Stage(StrEnum):
    """How far an unlink is known to have come."""

    CLAIMED = "claimed"
    INTENDED = "intended"
    SUBMITTED = "submitted"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to one key, until another claim is given a higher token."""

    key: str
    token: int


@dataclass(frozen=True, slots=True)
class Intent:
    """What was seen before the DELETE. No other link is ever removed for this key."""

    job_id: str
    job_name: str | None
    link: Link
    linked_backups: tuple[LinkedBackup, ...] = ()


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """A request to cancel a run of a key: its DELETE is not sent, or its task is stopped.

    The ledger stores its own time as `requested_at`: retention counts from it. `run` is the run that is meant; without
    it, the one that is under way or comes next. `user_id` is the broker user who published the request.
    """

    key: str
    enterprise_manager: str
    requested_by: str | None
    reason: str | None
    requested_at: datetime
    run: int | None = None
    user_id: str | None = None

    @property
    def by(self) -> str | None:
        """Who asks: as the request says itself, or else as the broker verified it."""
        return self.requested_by or self.user_id


class CancelRequestedError(Exception):
    """The ledger knows of a request to cancel this run: nothing was written, and no DELETE may leave."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with a run that is not settled. `cancelled`: its cancellation was requested.

    `command` is the stored command, which claimed the key first: it is run, whichever delivery the worker has.
    `user_id` is the broker user who published it. `sender` is the one who published the command or the retry that began
    this run. `retried_by` asked for this run, `cancelled_by` asked to cancel it. `received_at` is when this run was
    asked for.

    `attempts`, `sends` and what follows from them are of this run. `intent` is of the key: no run removes another link
    than the one that an earlier run recorded. `may_act`: a DELETE of an earlier run may still take effect. `age` is the
    time since the run began, by the ledger's clock, in seconds; 0 for run 1. `since_sent` is the time since the DELETE,
    None if none was sent; `sent_at` is by the clock of the worker that sent it. `batched`: the key belongs to a batch.
    """

    lease: Lease
    stage: Stage
    attempts: int
    received_at: datetime
    intent: Intent | None = None
    sent_at: datetime | None = None
    sends: int = 0
    task: TaskTicket | None = None
    submitted_at: datetime | None = None
    cancelled: bool = False
    command: bytes = b""
    run: int = 1
    user_id: str | None = None
    sender: str | None = None
    retried_by: str | None = None
    cancelled_by: str | None = None
    may_act: bool = False
    age: float = 0.0
    since_sent: float | None = field(default=None, compare=False)
    batched: bool = False


@dataclass(frozen=True, slots=True)
class NewClaim:
    """What a claim writes: the key, the content's fingerprint, the command itself, and when it was received.

    `user_id` is the broker user who published the command, as the broker verified it; None if it did not.
    """

    key: str
    fingerprint: str
    enterprise_manager: str
    command: bytes
    received_at: datetime
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class KnownRun:
    """The last run of a key, as far as it decides whether a retry may start another one.

    `command`, `fingerprint` and `user_id` (the broker user who sent it) are of the stored command. `failure` is the
    event of a run that ended without success; another may then follow. `job_id` is of the recorded intent.
    """

    enterprise_manager: str
    run: int
    command: bytes
    fingerprint: str
    failure: bytes | None
    job_id: str | None
    under_way: bool = False
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """A request to run a key's stored command again, after `run` has ended without success.

    `permitted` is the fingerprint of the stored command that the policy permits the sender to run; None if no run may
    be started. `not_before`, `not_after` and `correlation_id`, if given, replace the stored ones. `user_id` is the
    broker user who published the request.
    """

    key: str
    enterprise_manager: str
    run: int
    permitted: str | None
    requested_by: str | None = None
    reason: str | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    correlation_id: str | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """This worker holds the key, which is new or taken over; `entry.stage` says how far it has come."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class AlreadySettled:
    """The key has ended; this is its terminal event. `batched`: the key belongs to a batch."""

    event: bytes
    batched: bool = False


@dataclass(frozen=True, slots=True)
class HeldElsewhere:
    """Another worker has the key, and its lease is alive.

    Attributes:
        seconds: how long it lasts if it is not renewed.
        until: its end by the ledger's clock, which moves with each renewal. None if waiting for it is useless.
    """

    seconds: float = 0.0
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The key is known with other content."""


@dataclass(frozen=True, slots=True)
class NoSuchRun:
    """The key is unknown, or it has no such run."""


@dataclass(frozen=True, slots=True)
class BatchKey:
    """The identity of a batch. `user_id` is the broker user who published its commands, verified by the broker."""

    enterprise_manager: str
    user_id: str | None
    id: str


@dataclass(frozen=True, slots=True)
class NewMember:
    """A key that a command names as one of `size` of a batch. `fingerprint`: of its content, None if unreadable."""

    batch: BatchKey
    size: int
    key: str
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class MemberEnd:
    """The latest end of a member of a batch: the outcome, and what else its event says. `ticket` is JSON."""

    key: str
    outcome: Outcome
    event_id: str
    ended_at: datetime
    ticket: str | None = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class EndedBatch:
    """A batch that has all of its members, of which each has ended; sorted by key."""

    batch: BatchKey
    size: int
    members: tuple[MemberEnd, ...]


ClaimResult = Claimed | AlreadySettled | HeldElsewhere | KeyReused
RetryResult = ClaimResult | NoSuchRun


@dataclass(frozen=True, slots=True)
class Intended:
    """The DELETE is about to be sent, and no other unlink of this job may be. Increments `sends`.

    If another unlink of the job is between its intent and its end, `record` returns False and stores only the intent,
    so that no other link is ever removed for the key.
    """

    call: ClassVar = "intend"
    intent: Intent
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The DELETE, the `send`th of the run, certainly did not leave. Decrements `sends`, if it was counted.

    The first one: back to `claimed`, and the job is free. The intent stays stored; `sent_at` is cleared. A later one:
    `intended`, because an earlier one may be carried out.
    """

    call: ClassVar = "withdraw"
    send: int


@dataclass(frozen=True, slots=True)
class SentAgain:
    """The same DELETE is about to be sent for the `send`th time. Increments `sends`, keeps the first `sent_at`.

    Back to `intended`: the task of the previous DELETE says nothing about this one.
    """

    call: ClassVar = "send_again"
    send: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """The task with which Enterprise Manager answered the DELETE."""

    call: ClassVar = "submitted"
    task: TaskTicket
    submitted_at: datetime


@dataclass(frozen=True, slots=True)
class Settled:
    """The end, with the bytes of its event. The job is free, and the lease over."""

    call: ClassVar = "settle"
    outcome: Outcome
    event: bytes
    finished_at: datetime


Change = Intended | Withdrawn | SentAgain | Submitted | Settled


class LeaseLostError(Exception):
    """Another worker has taken over the key. Nothing was written, and this worker stops working on it."""


class Ledger(Protocol):
    """The state of every key. Each write is durable when the call returns, and compares the fencing token.

    All calls wait through a database that is not available, with back-off; no write that returned is lost.
    """

    async def claim(self, claim: NewClaim) -> ClaimResult:
        """Claim a key: a new one, or one whose lease has expired, or one that this worker held before."""
        ...

    async def has_decided(self, key: str, fingerprint: str) -> bool:
        """Whether the key is known with this content and past its claim.

        It is past it if a link is recorded, if the key has ended, or if the stored command names a `not_before`.
        """
        ...

    async def last_run(self, key: str) -> KnownRun | None:
        """The last run of a key; None if the key is not known."""
        ...

    async def retry(self, retry: Retry) -> RetryResult:
        """Start the run that follows `retry.run`, if that is the last one and ended without success.

        Of several such requests, one starts a run. If a run is under way, it is claimed as by `claim`. If the last one
        has ended and this request cannot start another, the result is `AlreadySettled`. `HeldElsewhere` also if this
        request could start a run to which the policy was not applied. `KeyReused` if the key belongs to an unlink of
        another Enterprise Manager.
        """
        ...

    async def join(self, member: NewMember) -> int | None:
        """Let a key join a batch, before it is claimed. Idempotent.

        Return None if it is a member now. Return the size of the batch if that differs, or if the batch is complete.
        """
        ...

    async def count_rejected(self, member: NewMember, end: MemberEnd, *, given_up: bool = False) -> None:
        """Count a rejected command as an ended member, unless a command that was accepted made its key a member.

        Idempotent. It gives its place to a command that joins later. `given_up`: nothing more is done for the command,
        so it counts even if its key is under way.
        """
        ...

    async def end_members(self, key: str) -> None:
        """Record the end of a settled key in the batches that it joined since. `Settled` records it in the others."""
        ...

    async def ended_batches(self, key: str, compose: Callable[[EndedBatch], BatchEnded]) -> tuple[BatchEnded, ...]:
        """The events of the ended batches of a key: the stored ones; a new one is composed in the ledger's thread.

        Of the workers with which two members end in the same instant, at least one finds the batch ended.
        """
        ...

    async def cancelled_by(self, lease: Lease) -> str | None:
        """Who asked to cancel the run of this lease; None if there is no request, or it names no user."""
        ...

    async def record(self, lease: Lease, change: Change) -> bool:
        """Record a change. False only for an `Intended` whose job is busy.

        If the caller is cancelled, the change may yet be recorded. `Withdrawn`, `Submitted` and `Settled` certainly
        are, unless the lease is lost.

        Raises:
            LeaseLostError: the token is not the newest, or the key has ended.
            CancelRequestedError: in this transaction, the ledger finds a request to cancel, and the change is
                `Intended` or `SentAgain`.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Release an unsettled key, so that any worker may take it over at once. Does nothing if the lease is lost.

        It is released even if the caller is cancelled.
        """
        ...

    async def cancel(self, request: CancelRequest) -> AlreadySettled | KeyReused | NoSuchRun | KnownRun | None:
        """Store a request to cancel, also for a key or a next run that comes later. Idempotent.

        `AlreadySettled`, with the key's latest event, if the run that is meant has ended, or is never to come after a
        success; `NoSuchRun` if it is beyond the next one: then nothing is stored.
        `KeyReused` if the key belongs to an unlink of another Enterprise Manager. `KnownRun`: it is stored, and the run
        may wait for its `not_before`, held by no worker. `on_cancel` notifies the worker that holds the key.
        """
        ...

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        """Call `listener`, on the event loop, with each key of this worker whose cancellation was requested.

        At once if the request was made here, else with the next renewal of the leases. It may be called more than once.
        """
        ...

    def alive(self, lease: Lease) -> bool:
        """Whether the lease is certain not to have run out, by this worker's own monotonic clock. No I/O."""
        ...

    def seconds_left(self, lease: Lease) -> float:
        """For how many seconds, at least, the lease does not run out; 0 if it is not `alive`."""
        ...
