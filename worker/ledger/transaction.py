"""What a worker does to the ledger in one transaction.

Each write is one statement that both compares and changes, so that it is right whatever other workers do at the same
time, and right again if it is repeated because the answer to a commit was lost:

- `claim` repeated takes its own row over (which counts one attempt more than there was);
- `intend`, `submitted`, `withdraw` and `settle` find what they wrote, and let it be;
- `send_again` counts one sending more than there was;
- a request to cancel is remembered once.

Only when a statement changed nothing is the row read, to find out why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from worker.ledger.errors import OutOfOrderError
from worker.ledger.records import KeyHistory, Pause, Step
from worker.ledger.rows import cancellation_from, entry_from, intent_columns, record_from, step_from, who_and_why
from worker.ledger.statements import (
    CANCELLATIONS,
    COUNT_LONG_SETTLED,
    END_LEASES,
    INTEND,
    MARK_CANCELLED,
    NEWEST_STEPS,
    NOTE,
    OUR_ROW,
    PAUSE,
    PAUSES,
    PRUNE,
    PRUNE_CANCELLATIONS,
    PRUNE_STEPS,
    PRUNE_UNMET_CANCELLATIONS,
    RELEASE,
    RELEASE_ALL,
    REMEMBER,
    REMEMBER_CANCELLATION,
    RENEW,
    RESUME,
    ROW,
    SEND_AGAIN,
    SETTLE,
    SUBMITTED,
    TAKE,
    WITHDRAW,
)
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    CancelRequestedError,
    Claimed,
    HeldElsewhere,
    KeyReused,
    Lease,
    LeaseLostError,
    Stage,
)

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection, RowMapping, Update

    from contracts.events import Outcome
    from worker.unlinks.ports.enterprise_manager import TaskTicket
    from worker.unlinks.ports.ledger import CancelRequest, ClaimResult, Intent, NewClaim

_MICROSECONDS: Final = 1_000_000
_DAY: Final = 24 * 60 * 60 * _MICROSECONDS


@dataclass(frozen=True, slots=True)
class Renewed:
    """The leases that were renewed, those among them that somebody asked to cancel, and what is paused."""

    leases: tuple[Lease, ...]
    cancelled: tuple[Lease, ...]
    paused: frozenset[str]


class Transaction:
    """A transaction of one worker.

    Args:
        connection: in a transaction that the caller begins and ends.
        began: when that was, by `Clock.monotonic`; a lease had here lasts at least `lease_seconds` from then.
        worker: its name; no two workers that run at the same time share one.
        lease_seconds: how long a lease lasts that is not renewed.
    """

    def __init__(self, connection: Connection, began: float, worker: str, lease_seconds: float) -> None:
        self.connection = connection
        self.began = began
        self._worker = worker
        self._lease_microseconds = round(lease_seconds * _MICROSECONDS)
        self._steps: list[dict[str, Any]] = []

    # --- taking and keeping -----------------------------------------------------------------------------------------

    def claim(self, claim: NewClaim) -> ClaimResult:
        """Take a key, or find out why not."""
        while True:
            row = self._take(claim)
            if row is not None:
                entry = entry_from(row)
                step = Step.CLAIMED if entry.lease.token == 1 else Step.TAKEN_OVER
                self._note(entry.lease, step, entry.stage.value)
                return Claimed(entry)
            row = self._row(claim.key)
            if row is None:
                continue  # pruned between the two statements
            if row["fingerprint"] != claim.fingerprint:
                return KeyReused()
            if row["stage"] == Stage.SETTLED:
                return AlreadySettled(bytes(row["event"]))
            return HeldElsewhere()

    def _take(self, claim: NewClaim) -> RowMapping | None:
        parameters = {
            "key": claim.key,
            "fingerprint": claim.fingerprint,
            "enterprise_manager": claim.enterprise_manager,
            "command": claim.command,
            "received_at": claim.received_at,
            "worker": self._worker,
            "lease_microseconds": self._lease_microseconds,
        }
        return self.connection.execute(TAKE[self.connection.dialect.name], parameters).mappings().one_or_none()

    def renew(self) -> Renewed:
        """Make every lease of this worker last from now on."""
        parameters = {"of_worker": self._worker, "lease_microseconds": self._lease_microseconds}
        rows = self.connection.execute(RENEW, parameters).all()
        return Renewed(
            leases=tuple(Lease(key, token) for key, token, _ in rows),
            cancelled=tuple(Lease(key, token) for key, token, cancelled in rows if cancelled),
            paused=self.paused(),
        )

    def end_leases(self) -> None:
        """End the leases that an earlier run under this name left: they would be renewed, and worked on by nobody."""
        self.connection.execute(END_LEASES, {"of_worker": self._worker})

    def release(self, lease: Lease) -> None:
        """Let the key go; nothing if it is not ours any more."""
        if self._update(RELEASE, lease):
            self._note(lease, Step.RELEASED)

    def release_all(self) -> None:
        """Let every key of this worker go."""
        for key, token in self.connection.execute(RELEASE_ALL, {"of_worker": self._worker}).all():
            self._note(Lease(key, token), Step.RELEASED)

    def has_decided(self, key: str, fingerprint: str) -> bool:
        """Whether the key is known with this content, and a link was recorded for it, or it has ended."""
        row = self._row(key)
        if row is None or row["fingerprint"] != fingerprint:
            return False
        return row["stage"] != Stage.CLAIMED or row["link_id"] is not None

    # --- writing down -----------------------------------------------------------------------------------------------

    def intend(self, lease: Lease, intent: Intent, sent_at: datetime) -> bool:
        """Record what was seen and, unless the job is busy, that the DELETE is about to be sent."""
        seen = intent_columns(intent)
        named = {"seen_link_id": seen["link_id"], "seen_job_id": seen["job_id"]}
        if self._update(INTEND, lease, **named, **seen, sent_at=sent_at):
            self._note(lease, Step.INTENDED, intent.link.object_in_job_id)
            return True
        if self._update(REMEMBER, lease, **named, **seen):
            self._note(lease, Step.JOB_BUSY, intent.job_id)
            return False
        row = self._require(lease)
        if row["stage"] == Stage.INTENDED and row["sent_at"] == sent_at and row["link_id"] == seen["link_id"]:
            return True
        stage = Stage(row["stage"])
        if stage is Stage.CLAIMED and row["cancelled"]:
            raise CancelRequestedError(_unwanted(lease))
        raise OutOfOrderError(lease, stage, "an intent for another link" if stage is Stage.CLAIMED else "an intent")

    def withdraw(self, lease: Lease) -> None:
        """Take an intent back."""
        if self._update(WITHDRAW, lease):
            self._note(lease, Step.WITHDRAWN)
        else:
            self._require(lease)

    def send_again(self, lease: Lease) -> None:
        """Record that the DELETE is about to be sent once more. The task of the one before means nothing any more."""
        if not self._update(SEND_AGAIN, lease):
            row = self._require(lease)
            if row["cancelled"] and row["stage"] != Stage.CLAIMED:
                raise CancelRequestedError(_unwanted(lease))
            raise OutOfOrderError(lease, Stage(row["stage"]), "sending again")
        self._note(lease, Step.SENT_AGAIN)

    def submitted(self, lease: Lease, task: TaskTicket, submitted_at: datetime) -> None:
        """Record the task."""
        known = {"task_id": task.task_id, "task_session": task.session, "submitted_at": submitted_at}
        if not self._update(SUBMITTED, lease, **known):
            raise OutOfOrderError(lease, Stage(self._require(lease)["stage"]), "a task")
        self._note(lease, Step.SUBMITTED, task.task_id)

    def settle(self, lease: Lease, outcome: Outcome, event: bytes, finished_at: datetime) -> None:
        """Record the end."""
        if self._update(SETTLE, lease, outcome=outcome.value, event=event, finished_at=finished_at):
            self._note(lease, Step.SETTLED, outcome.value)
            return
        row = self._row(lease.key)
        if row is None or row["token"] != lease.token or row["event"] is None or bytes(row["event"]) != event:
            raise LeaseLostError(_lost(lease))

    # --- cancelling -------------------------------------------------------------------------------------------------

    def cancel(self, request: CancelRequest) -> AlreadySettled | KeyReused | None:
        """Remember a request. To be followed by `mark_cancelled`, in a transaction that begins after the commit."""
        answer = self._beyond_cancelling(request)
        if answer is None:
            columns = {
                "key": request.key,
                "enterprise_manager": request.enterprise_manager,
                "requested_by": request.requested_by,
                "reason": request.reason,
                "requested_at": request.requested_at,
            }
            remember = REMEMBER_CANCELLATION[self.connection.dialect.name]
            if self.connection.execute(remember, columns).one_or_none() is not None:
                self._note(Lease(request.key, 0), Step.CANCEL_REQUESTED, who_and_why(request))
        return answer

    def mark_cancelled(self, request: CancelRequest) -> AlreadySettled | KeyReused | None:
        """Wait for a write about the key that may have begun before the request was committed, or forestall it."""
        key = {"of_key": request.key, "of_enterprise_manager": request.enterprise_manager}
        if self.connection.execute(MARK_CANCELLED, key).rowcount == 1:
            return None
        return self._beyond_cancelling(request)

    def _beyond_cancelling(self, request: CancelRequest) -> AlreadySettled | KeyReused | None:
        row = self._row(request.key)
        if row is None:
            return None
        if row["enterprise_manager"] != request.enterprise_manager:
            return KeyReused()
        return AlreadySettled(bytes(row["event"])) if row["stage"] == Stage.SETTLED else None

    # --- pausing ----------------------------------------------------------------------------------------------------

    def paused(self) -> frozenset[str]:
        """The Enterprise Managers that are paused."""
        return frozenset(pause.enterprise_manager for pause in self.pauses())

    def pauses(self) -> tuple[Pause, ...]:
        """The same, with who paused them, and why."""
        return tuple(Pause(**row) for row in self.connection.execute(PAUSES).mappings())

    def pause(self, enterprise_manager: str, paused_by: str | None, reason: str | None) -> None:
        """Pause one. Done twice, the second is remembered."""
        pause = {"enterprise_manager": enterprise_manager, "paused_by": paused_by, "reason": reason}
        self.connection.execute(PAUSE[self.connection.dialect.name], pause)

    def resume(self, enterprise_manager: str) -> bool:
        """Resume one; whether it was paused."""
        return self.connection.execute(RESUME, {"of_enterprise_manager": enterprise_manager}).rowcount == 1

    # --- for people -------------------------------------------------------------------------------------------------

    def history(self, key: str) -> KeyHistory | None:
        """All that is known of a key."""
        row = self._row(key)
        of_key = {"of_key": key}
        cancellations = [cancellation_from(each) for each in self.connection.execute(CANCELLATIONS, of_key).mappings()]
        if row is None and not cancellations:
            return None
        newest = [step_from(step) for step in self.connection.execute(NEWEST_STEPS, of_key).mappings()]
        return KeyHistory(
            record=None if row is None else record_from(row),
            steps=tuple(reversed(newest)),
            cancellations=tuple(cancellations),
        )

    def count_long_settled(self, older_than_days: float) -> int:
        """How many keys were settled longer ago."""
        age = round(older_than_days * _DAY)
        return self.connection.execute(COUNT_LONG_SETTLED, {"age_microseconds": age}).scalar_one()

    def prune(self, older_than_days: float) -> int:
        """Delete some of the keys that were settled longer ago, and requests to cancel what never came; counts keys."""
        age = {"age_microseconds": round(older_than_days * _DAY)}
        settled = self.connection.execute(PRUNE, age).scalars().all()
        self.connection.execute(PRUNE_CANCELLATIONS, {"of_keys": settled})
        unmet = self.connection.execute(PRUNE_UNMET_CANCELLATIONS, age).scalars().all()
        self.connection.execute(PRUNE_STEPS, {"of_keys": [*settled, *unmet]})
        return len(settled)

    def write_steps(self) -> None:
        """Write down what was done here; the last thing before the commit."""
        if self._steps:
            self.connection.execute(NOTE, self._steps)

    # --- how --------------------------------------------------------------------------------------------------------

    def _update(self, statement: Update, lease: Lease, **parameters: Any) -> bool:
        fence = {"of_key": lease.key, "of_token": lease.token}
        return self.connection.execute(statement, {**fence, **parameters}).rowcount == 1

    def _row(self, key: str) -> RowMapping | None:
        return self.connection.execute(ROW, {"of_key": key}).mappings().one_or_none()

    def _require(self, lease: Lease) -> RowMapping:
        """The row of a lease that is not lost."""
        fence = {"of_key": lease.key, "of_token": lease.token}
        row = self.connection.execute(OUR_ROW, fence).mappings().one_or_none()
        if row is None:
            raise LeaseLostError(_lost(lease))
        return row

    def _note(self, lease: Lease, step: Step, detail: str | None = None) -> None:
        self._steps.append(
            {"key": lease.key, "worker": self._worker, "token": lease.token, "step": step.value, "detail": detail}
        )


def _lost(lease: Lease) -> str:
    return f"{lease.key} was taken over, or has ended; token {lease.token} is no longer the newest"


def _unwanted(lease: Lease) -> str:
    return f"somebody asked to cancel {lease.key}"
