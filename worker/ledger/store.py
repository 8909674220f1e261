"""What is asked of the database, statement by statement; the same text for SQLite and PostgreSQL.

Each write is one statement that both compares and changes, so that it is right whatever other workers do at the same
time, and right again if it is repeated because the answer to a commit was lost:

- `claim` repeated takes its own row over (which counts one attempt more than there was);
- `intend`, `submitted`, `withdraw` and `settle` find what they wrote, and let it be;
- `send_again` counts one sending more than there was.

Only when a statement changed nothing is the row read, to find out why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, delete, exists, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from worker.ledger.errors import OutOfOrderError
from worker.ledger.records import MOST_STEPS, KeyHistory, Step
from worker.ledger.rows import entry_from, intent_columns, record_from, step_from
from worker.ledger.tables import EPOCH, Now, in_flight, steps, unlinks, unsettled
from worker.unlinks.ports import AlreadySettled, Claimed, HeldElsewhere, KeyReused, Lease, LeaseLostError, Stage

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, RowMapping

    from contracts.events import Outcome
    from worker.unlinks.ports import ClaimResult, Intent, NewClaim, TaskTicket

_MICROSECONDS: Final = 1_000_000
_DAY: Final = 24 * 60 * 60 * _MICROSECONDS

_NOBODY: Final[dict[str, Any]] = {"worker": None, "lease_until": EPOCH}
_NO_TASK: Final[dict[str, Any]] = {"task_id": None, "task_session": None, "submitted_at": None}

#: How many settled keys one transaction deletes.
PRUNED_AT_ONCE: Final = 500


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
        self._lease = round(lease_seconds * _MICROSECONDS)
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
        """Insert the row, or take it over if that is allowed: one statement, so that of two workers one gets it."""
        dialect = postgresql if self.connection.dialect.name == "postgresql" else sqlite
        ours = {"worker": self._worker, "lease_until": Now() + self._lease, "updated_at": Now()}
        new = dialect.insert(unlinks).values(
            key=claim.key,
            fingerprint=claim.fingerprint,
            enterprise_manager=claim.enterprise_manager,
            command=claim.command,
            received_at=claim.received_at,
            stage=Stage.CLAIMED.value,
            token=1,
            attempts=1,
            sends=0,
            **ours,
        )
        free = or_(unlinks.c.worker.is_(None), unlinks.c.worker == self._worker, unlinks.c.lease_until <= Now())
        statement = new.on_conflict_do_update(
            index_elements=[unlinks.c.key],
            set_={"token": unlinks.c.token + 1, "attempts": unlinks.c.attempts + 1, **ours},
            where=and_(unlinks.c.fingerprint == claim.fingerprint, unsettled, free),
        ).returning(*unlinks.c)
        return self.connection.execute(statement).mappings().one_or_none()

    def renew(self) -> list[Lease]:
        """Make every lease of this worker last from now on; says which ones there are."""
        statement = (
            update(unlinks)
            .where(unlinks.c.worker == self._worker, unsettled)
            .values(lease_until=Now() + self._lease)
            .returning(unlinks.c.key, unlinks.c.token)
        )
        return [Lease(key, token) for key, token in self.connection.execute(statement)]

    def end_leases(self) -> None:
        """End the leases that an earlier run under this name left: they would be renewed, and worked on by nobody."""
        earlier = and_(unlinks.c.worker == self._worker, unsettled)
        self.connection.execute(update(unlinks).where(earlier).values(lease_until=EPOCH))

    def release(self, lease: Lease) -> None:
        """Let the key go; nothing if it is not ours any more."""
        statement = update(unlinks).where(_ours(lease)).values(**_NOBODY, updated_at=Now())
        if self.connection.execute(statement).rowcount:
            self._note(lease, Step.RELEASED)

    def release_all(self) -> None:
        """Let every key of this worker go."""
        statement = (
            update(unlinks)
            .where(unlinks.c.worker == self._worker, unsettled)
            .values(**_NOBODY, updated_at=Now())
            .returning(unlinks.c.key, unlinks.c.token)
        )
        for key, token in self.connection.execute(statement).all():
            self._note(Lease(key, token), Step.RELEASED)

    # --- writing down -----------------------------------------------------------------------------------------------

    def intend(self, lease: Lease, intent: Intent, sent_at: datetime) -> bool:
        """Record what was seen and, unless the job is busy, that the DELETE is about to be sent."""
        seen = intent_columns(intent)
        allowed = and_(
            _ours(lease),
            unlinks.c.stage == Stage.CLAIMED.value,
            # Once a link was recorded for a key, no other is ever removed for it.
            or_(
                unlinks.c.link_id.is_(None),
                and_(unlinks.c.link_id == seen["link_id"], unlinks.c.job_id == seen["job_id"]),
            ),
        )
        go_ahead = {**seen, "stage": Stage.INTENDED.value, "sent_at": sent_at, "sends": unlinks.c.sends + 1}
        if self._update(and_(allowed, ~_job_is_busy(lease, intent)), go_ahead):
            self._note(lease, Step.INTENDED, intent.link.object_in_job_id)
            return True
        if self._update(allowed, seen):
            self._note(lease, Step.JOB_BUSY, intent.job_id)
            return False
        row = self._require(lease)
        if row["stage"] == Stage.INTENDED and row["sent_at"] == sent_at and row["link_id"] == seen["link_id"]:
            return True
        stage = Stage(row["stage"])
        raise OutOfOrderError(lease, stage, "an intent for another link" if stage is Stage.CLAIMED else "an intent")

    def withdraw(self, lease: Lease) -> None:
        """Take an intent back."""
        sent = and_(_ours(lease), in_flight())
        back = {"stage": Stage.CLAIMED.value, "sent_at": None, "sends": unlinks.c.sends - 1, **_NO_TASK}
        if self._update(sent, back):
            self._note(lease, Step.WITHDRAWN)
        else:
            self._require(lease)

    def send_again(self, lease: Lease) -> None:
        """Record that the DELETE is about to be sent once more. The task of the one before means nothing any more."""
        again = {"stage": Stage.INTENDED.value, "sends": unlinks.c.sends + 1, **_NO_TASK}
        if self._update(and_(_ours(lease), in_flight()), again):
            self._note(lease, Step.SENT_AGAIN)
        else:
            raise OutOfOrderError(lease, Stage(self._require(lease)["stage"]), "sending again")

    def submitted(self, lease: Lease, task: TaskTicket, submitted_at: datetime) -> None:
        """Record the task."""
        known = {
            "stage": Stage.SUBMITTED.value,
            "task_id": task.task_id,
            "task_session": task.session,
            "submitted_at": submitted_at,
        }
        if self._update(and_(_ours(lease), in_flight()), known):
            self._note(lease, Step.SUBMITTED, task.task_id)
        else:
            raise OutOfOrderError(lease, Stage(self._require(lease)["stage"]), "a task")

    def settle(self, lease: Lease, outcome: Outcome, event: bytes, finished_at: datetime) -> None:
        """Record the end."""
        end = {
            "stage": Stage.SETTLED.value,
            "outcome": outcome.value,
            "event": event,
            "finished_at": finished_at,
            **_NOBODY,
        }
        if self._update(_ours(lease), end):
            self._note(lease, Step.SETTLED, outcome.value)
            return
        row = self._row(lease.key)
        if row is None or row["token"] != lease.token or row["event"] is None or bytes(row["event"]) != event:
            raise LeaseLostError(_lost(lease))

    # --- for people -------------------------------------------------------------------------------------------------

    def history(self, key: str) -> KeyHistory | None:
        """All that is known of a key."""
        row = self._row(key)
        if row is None:
            return None
        newest = select(steps).where(steps.c.key == key).order_by(steps.c.id.desc()).limit(MOST_STEPS)
        recorded = [step_from(step) for step in self.connection.execute(newest).mappings()]
        return KeyHistory(record_from(row), tuple(reversed(recorded)))

    def prune(self, older_than_days: float) -> int:
        """Delete some of the keys that were settled longer ago; says how many."""
        old = (
            select(unlinks.c.key)
            .where(~unsettled, unlinks.c.finished_at < Now() - round(older_than_days * _DAY))
            .limit(PRUNED_AT_ONCE)
        )
        gone = self.connection.execute(delete(unlinks).where(unlinks.c.key.in_(old)).returning(unlinks.c.key))
        keys = gone.scalars().all()
        self.connection.execute(delete(steps).where(steps.c.key.in_(keys)))
        return len(keys)

    def write_steps(self) -> None:
        """Write down what was done here; the last thing before the commit."""
        if self._steps:
            self.connection.execute(insert(steps).values(at=Now()), self._steps)

    # --- how --------------------------------------------------------------------------------------------------------

    def _update(self, condition: ColumnElement[bool], values: dict[str, Any]) -> bool:
        statement = update(unlinks).where(condition).values(**values, updated_at=Now())
        return self.connection.execute(statement).rowcount == 1

    def _row(self, key: str) -> RowMapping | None:
        return self.connection.execute(select(unlinks).where(unlinks.c.key == key)).mappings().one_or_none()

    def _require(self, lease: Lease) -> RowMapping:
        """The row of a lease that is not lost."""
        row = self.connection.execute(select(unlinks).where(_ours(lease))).mappings().one_or_none()
        if row is None:
            raise LeaseLostError(_lost(lease))
        return row

    def _note(self, lease: Lease, step: Step, detail: str | None = None) -> None:
        self._steps.append(
            {
                "key": lease.key,
                "worker": self._worker,
                "token": lease.token,
                "step": step.value,
                "detail": detail,
            }
        )


def _ours(lease: Lease) -> ColumnElement[bool]:
    """The fence: nobody was given a higher token since, and the key has not ended."""
    return and_(unlinks.c.key == lease.key, unlinks.c.token == lease.token, unsettled)


def _job_is_busy(lease: Lease, intent: Intent) -> ColumnElement[bool]:
    """Another key's unlink of the job is under way. If one gets in between, the unique index says so."""
    other = unlinks.alias()
    return exists().where(
        other.c.enterprise_manager == unlinks.c.enterprise_manager,
        other.c.job_id == intent.job_id,
        in_flight(other),
        other.c.key != lease.key,
    )


def _lost(lease: Lease) -> str:
    return f"{lease.key} was taken over, or has ended; token {lease.token} is no longer the newest"
