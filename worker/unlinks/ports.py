"""What the core needs of the outside: a clock, deliveries, an outbox, a ledger, an Enterprise Manager.

Every error that an Enterprise Manager port may raise is here too:

    EnterpriseManagerError
    +-- Unavailable      nothing was done, and nothing is known; try again when it is back
    +-- AnswerLost       a DELETE may have arrived; only the links can tell
    +-- LinkNotFound     the DELETE was answered with 404
    +-- TaskNotFound     this logon session knows no such task
    +-- Refused          a definite no, with the reason code that the event will carry

Times of day are aware datetimes in UTC. Durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from contracts.commands import JobReference, RepositoryReference
    from contracts.events import Event, Outcome, Reason, ReasonCode

# --- the clock and chance -------------------------------------------------------------------------------------------


class Clock(Protocol):
    """The only source of time and of chance."""

    def now(self) -> datetime:
        """The time of day, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed instant; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def jitter(self, seconds: float) -> float:
        """`seconds`, times a random factor between 0.5 and 1.5."""
        ...


# --- the broker -----------------------------------------------------------------------------------------------------


class Delivery(Protocol):
    """One delivery of one message, unacknowledged until this object is told otherwise."""

    @property
    def body(self) -> bytes:
        """The message."""
        ...

    @property
    def content_type(self) -> str | None:
        """The AMQP property of that name."""
        ...

    @property
    def correlation_id(self) -> str | None:
        """The AMQP property of that name."""
        ...

    @property
    def reply_to(self) -> str | None:
        """The AMQP property of that name, if the allowed patterns match it; else None."""
        ...

    @property
    def user_id(self) -> str | None:
        """The broker user who published the message, if it says so and the broker has verified it; else None.

        Of a copy that was delayed: the original's.
        """
        ...

    @property
    def headers(self) -> Mapping[str, object]:
        """The message's headers."""
        ...

    @property
    def enterprise_manager(self) -> str:
        """The Enterprise Manager on whose queue the message came."""
        ...

    @property
    def attempt(self) -> int:
        """1, and one more for each earlier attempt that failed (`Outbox.delay` with `failed`)."""
        ...

    @property
    def taken_at(self) -> float:
        """When it was delivered, by `Clock.monotonic`."""
        ...

    @property
    def live(self) -> bool:
        """Whether the channel that it came on is still open."""
        ...

    def acknowledge(self) -> None:
        """Tell the broker that it is done with. Does nothing if the channel that it came on has gone."""
        ...

    def requeue(self) -> None:
        """Give it back to its queue. Does nothing if the channel that it came on has gone."""
        ...


class Outbox(Protocol):
    """What leaves for the broker. Each call returns once the broker has confirmed, and waits through reconnections."""

    async def publish(self, event: Event | bytes, reply_to: Collection[str] = ()) -> None:
        """Publish an event to the events exchange; a stored one byte for byte. A terminal one also to `reply_to`."""
        ...

    async def delay(self, delivery: Delivery, seconds: float, *, failed: bool) -> None:
        """Put a copy of the message into the delay queue nearest to `seconds`; it comes back to its queue.

        `failed` counts the attempt against the message (`Delivery.attempt`). The caller then acknowledges.
        """
        ...

    async def dead_letter(self, delivery: Delivery, reason: Reason) -> None:
        """Put a copy of the message into `unlink.dead`, the reason in its headers. The caller then acknowledges."""
        ...


# --- Enterprise Manager ---------------------------------------------------------------------------------------------


class EnterpriseManagerError(Exception):
    """Enterprise Manager could not, or would not."""


class Unavailable(EnterpriseManagerError):  # noqa: N818 - the tree above reads as what happened
    """Nothing was done and nothing is known: unreachable, overloaded, or it refuses the logon. Try when it is back."""


class AnswerLost(EnterpriseManagerError):  # noqa: N818 - as above
    """A DELETE left, and no answer that can be read came back: it may have been carried out."""


class LinkNotFound(EnterpriseManagerError):  # noqa: N818 - as above
    """The DELETE was answered with 404: there is no such link, or no such job."""


class TaskNotFound(EnterpriseManagerError):  # noqa: N818 - as above
    """The present logon session knows no such task: it belongs to another session, or was forgotten."""


class Refused(EnterpriseManagerError):  # noqa: N818 - as above
    """A definite no. Nothing was done."""

    def __init__(self, code: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Job:
    """A job, by its bare lower-case UUID."""

    id: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Link:
    """A repository's link to a job. A repository that is unlinked and linked again has another `object_in_job_id`."""

    object_in_job_id: str
    repository_uid: str
    repository_name: str | None = None


@dataclass(frozen=True, slots=True)
class LinkedBackup:
    """A backup linked to a copy job, dropped by any edit of the job."""

    object_in_job_id: str
    uid: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class TaskTicket:
    """A task's ID together with the logon session that it means something in (a name made here, no secret)."""

    task_id: str
    session: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task as last seen. `finished` only if its state is `Finished`; `success` is None if it has no result (yet)."""

    ticket: TaskTicket
    operation: str | None
    finished: bool
    success: bool | None
    message: str | None


class EnterpriseManager(Protocol):
    """One Enterprise Manager.

    Every call may raise `Unavailable`, after a few short retries of its own where that is safe.

    IDs are bare lower-case UUIDs.
    """

    async def find_job(self, reference: JobReference) -> Job:
        """The one backup copy job that the reference names.

        Raises:
            Refused: job_not_found, job_ambiguous, not_a_copy_job, access_denied, enterprise_manager_error.
        """
        ...

    async def find_repository(self, reference: RepositoryReference) -> str:
        """The UID of the one repository that the reference names (`uid` as it is, `name` looked up; never `link_id`).

        Raises:
            Refused: repository_not_found, repository_ambiguous, access_denied, enterprise_manager_error.
        """
        ...

    async def links(self, job_id: str) -> Sequence[Link]:
        """The repositories linked to the job, as listed now: the list may lag behind a finished task.

        Raises:
            Refused: job_not_found, access_denied, enterprise_manager_error.
        """
        ...

    async def linked_backups(self, job_id: str) -> Sequence[LinkedBackup]:
        """The linked backups that any edit of the job drops.

        Raises:
            Refused: job_not_found, access_denied, enterprise_manager_error (also where the answer does not say).
        """
        ...

    async def delete_link(self, job_id: str, object_in_job_id: str) -> Task:
        """Send the DELETE, once. Repeated inside only where it is certain that it was not carried out.

        Raises:
            Unavailable: it was certainly not carried out.
            AnswerLost: it may have been.
            LinkNotFound: answered with 404.
            Refused: access_denied, enterprise_manager_error.
        """
        ...

    async def task(self, ticket: TaskTicket) -> Task:
        """Look at a task once.

        Raises:
            TaskNotFound: it is of another logon session, or forgotten.
            Refused: access_denied, enterprise_manager_error.
        """
        ...

    async def stop_task(self, ticket: TaskTicket) -> None:
        """Ask for the task to be stopped, through its Delete link. Whether it stops, the links decide.

        Raises:
            TaskNotFound: it is of another logon session, or forgotten.
            Refused: access_denied, enterprise_manager_error.
        """
        ...

    async def until_available(self) -> None:
        """Return when calls make sense again: at once, unless an earlier one raised `Unavailable`."""
        ...


# --- the ledger -----------------------------------------------------------------------------------------------------


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
