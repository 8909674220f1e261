"""The ledger: what is remembered of every key. Times of day are aware datetimes in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from contracts.events import Outcome
    from worker.unlinks.ports.enterprise_manager import Link, LinkedBackup, TaskTicket


class Stage(StrEnum):
    """How far an unlink is known to have come."""

    CLAIMED = "claimed"
    INTENDED = "intended"
    SUBMITTED = "submitted"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write about one key, until somebody else is given a higher token."""

    key: str
    token: int


@dataclass(frozen=True, slots=True)
class Intent:
    """What was seen when the unlink was decided on. No other link is ever removed for this key."""

    job_id: str
    job_name: str | None
    link: Link
    linked_backups: tuple[LinkedBackup, ...] = ()


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Somebody's wish that the unlink of a key be not sent, or be stopped if it was."""

    key: str
    enterprise_manager: str
    requested_by: str | None
    reason: str | None
    requested_at: datetime


class CancelRequestedError(Exception):
    """The ledger knows of a request to cancel this key: nothing was written, and no DELETE may leave."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the ledger remembers of a key that is not settled. `cancelled`: somebody asked for it to be cancelled."""

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


@dataclass(frozen=True, slots=True)
class NewClaim:
    """What a claim writes: the key, the content's fingerprint, the command itself, and when it was received."""

    key: str
    fingerprint: str
    enterprise_manager: str
    command: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Claimed:
    """The key is ours, new or taken over: `entry.stage` says how far it had come."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class AlreadySettled:
    """The key has ended; this is its terminal event."""

    event: bytes


@dataclass(frozen=True, slots=True)
class HeldElsewhere:
    """Another worker has the key, and its lease is alive."""


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The key is known with other content."""


ClaimResult = Claimed | AlreadySettled | HeldElsewhere | KeyReused


class LeaseLostError(Exception):
    """Another worker has taken the key over: nothing was written, and nothing more may be said or done here."""


class Ledger(Protocol):
    """The memory of every key. Each write is durable when the call returns, and compares the fencing token.

    All calls wait through a database that went away, with back-off; they never lose a write that they reported.
    Every write raises `LeaseLostError` if the token is not the newest.
    """

    async def claim(self, claim: NewClaim) -> ClaimResult:
        """Take a key: new, or over from a worker whose lease is over, or from an earlier run of this very worker."""
        ...

    async def has_decided(self, key: str, fingerprint: str) -> bool:
        """Whether the key is known with this content, and past its claim: a link was recorded, or it has ended."""
        ...

    async def intend(self, lease: Lease, intent: Intent, sent_at: datetime) -> bool:
        """Record that the DELETE is about to be sent, and that no other unlink of this job may be.

        False if another unlink of the job is between its intent and its end: then only what was seen is recorded, so
        that no other link can ever be taken for the one meant. Counts `sends` if true.

        Raises:
            CancelRequestedError: in the same instant, the ledger knows of a request to cancel.
        """
        ...

    async def withdraw(self, lease: Lease) -> None:
        """The DELETE certainly did not leave: back to `claimed`, what was seen still recorded, the job free again.

        Uncounts `sends`, and forgets `sent_at`.
        """
        ...

    async def send_again(self, lease: Lease) -> None:
        """Record that the same DELETE is about to be sent once more; counts `sends`, keeps the first `sent_at`.

        Raises:
            CancelRequestedError: in the same instant, the ledger knows of a request to cancel.
        """
        ...

    async def submitted(self, lease: Lease, task: TaskTicket, submitted_at: datetime) -> None:
        """Record the task that the DELETE was answered with."""
        ...

    async def settle(self, lease: Lease, outcome: Outcome, event: bytes, finished_at: datetime) -> None:
        """Record the end, with the bytes of its event. The job is free again, the lease over."""
        ...

    async def release(self, lease: Lease) -> None:
        """Let go of an unsettled key, so that anybody may take it over at once. Does nothing if the lease is lost."""
        ...

    async def cancel(self, request: CancelRequest) -> AlreadySettled | KeyReused | None:
        """Remember the wish, also for a key that never came yet. Repeating it does no harm.

        `AlreadySettled` if the key has ended: then nothing is remembered. `KeyReused` if the key belongs to another
        Enterprise Manager's unlink. Whoever has the key hears of it by `on_cancel`.
        """
        ...

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        """Call `listener`, on the event loop, with each key of this worker's that somebody asked to cancel.

        At once if it was asked here, else by the next renewal of the leases. It may be told more than once.
        """
        ...

    def alive(self, lease: Lease) -> bool:
        """Whether the lease is certain not to have run out, by this worker's own monotonic clock. No I/O."""
        ...
