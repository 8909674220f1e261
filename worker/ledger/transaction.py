"""What a worker does to the ledger in one transaction.

Each write is one statement that both compares and changes. It is therefore correct whatever other workers do at the
same time. It is also correct if it is repeated because the answer to a commit was lost:

- a repeated `claim` takes over its own row (and counts one attempt too many);
- a repeated `record` changes nothing;
- a repeated `retry` takes over the run that it started;
- a repeated request to cancel is stored once.

`claim` and `record` read the row only when a statement changed nothing, to find out why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from worker.ledger.cancelling import Cancelling
from worker.ledger.errors import OutOfOrderError, SchemaTooNewError
from worker.ledger.later_runs import LaterRuns
from worker.ledger.records import MOST_STEPS, KeyHistory, Pause, Step
from worker.ledger.retention import Retention
from worker.ledger.rows import cancellation_from, columns_of, intent_columns, record_from, step_from
from worker.ledger.schema import schema_problem
from worker.ledger.search import ROWS, Criteria, Cursor, Page, cancellations_of, matching
from worker.ledger.search_terms import content_of
from worker.ledger.search_walk import COMPLETED_AT, walk
from worker.ledger.statements import (
    COUNT_LONG_SETTLED,
    END_LEASES,
    KEYS_AT_ONCE,
    LEASES,
    LOCK,
    LONG_SETTLED,
    LONG_UNMET,
    NEWEST_STEPS,
    PAUSES,
    PRUNE,
    PRUNE_CANCELLATIONS,
    PRUNE_STEPS,
    PRUNE_TERMS,
    PRUNE_UNMET,
    RECORD,
    RELEASE,
    RELEASE_ALL,
    REMEMBER,
    RESUME,
    STEPS_AT_ONCE,
    pause,
    renew,
    take,
)
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    CancelRequestedError,
    Change,
    ClaimResult,
    Intended,
    KeyReused,
    Lease,
    LeaseLostError,
    NewClaim,
    SentAgain,
    Settled,
    Stage,
    Withdrawn,
)

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

_DAY: Final = 24 * 60 * 60 * 1_000_000


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a renewal found.

    Attributes:
        tokens: the token of each lease that was renewed, by key.
        cancelled: the keys among them whose cancellation was requested.
        locked: the token of each lease that is still this worker's, but could not be renewed: another transaction has
            locked its row.
    """

    tokens: Mapping[str, int]
    cancelled: tuple[str, ...]
    locked: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker reads from time to time.

    Attributes:
        paused: the Enterprise Managers that are paused.
        schema_problem: a newer version has changed the schema since this worker started, so that it must claim no more.
    """

    paused: frozenset[str]
    schema_problem: SchemaTooNewError | None = None


class Transaction(Cancelling, LaterRuns):
    """A transaction of one worker.

    Args:
        connection: in a transaction that the caller begins and ends.
        began: when that was, by `Clock.monotonic`; a lease claimed here lasts at least `lease_seconds` from then.
        worker: its name; no two workers that run at the same time share one.
        lease_seconds: how long a lease lasts that is not renewed.
        grace_seconds: how long other workers' leases are left to them after their end.
    """

    # --- locking ----------------------------------------------------------------------------------------------------

    def lock(self, keys: Sequence[str] = (), *, of_worker: bool) -> None:
        """Lock the rows that there are of these keys, and those of this worker, in the order of all workers.

        For writes that change rows in another order: two transactions would else wait for rows of each other, until
        PostgreSQL ends one of them a second later. On SQLite a transaction has the database to itself.
        """
        if self.connection.dialect.name == "postgresql":
            parameters = {"of_keys": keys, "of_worker": self._worker if of_worker else None}
            self.connection.execute(LOCK, parameters)

    # --- taking and keeping -----------------------------------------------------------------------------------------

    def claim(self, claim: NewClaim, trace_id: str | None = None) -> ClaimResult:
        """Take a key, or find out why not. `trace_id` is kept with the claim."""
        while True:
            row = self._take(claim)
            if row is not None:
                step = Step.CLAIMED if row["token"] == 1 else Step.TAKEN_OVER
                return self._claimed(row, step, row["stage"], trace_id)
            row = self._row(claim.key)
            if row is None:
                continue  # pruned between the two statements
            if row["fingerprint"] != claim.fingerprint:
                return KeyReused()
            if row["stage"] == Stage.SETTLED:
                return AlreadySettled(bytes(row["event"]), batched=bool(row["batched"]))
            return self._held_elsewhere(row)

    def _take(self, claim: NewClaim) -> RowMapping | None:
        parameters = {
            "key": claim.key,
            "fingerprint": claim.fingerprint,
            "enterprise_manager": claim.enterprise_manager,
            "command": claim.command,
            "received_at": claim.received_at,
            "user_id": claim.user_id,
            "worker": self._worker,
            "lease_microseconds": self._lease_microseconds,
            "grace_microseconds": self._grace_microseconds,
        }
        return self.connection.execute(take(self.connection.dialect.name), parameters).mappings().one_or_none()

    def renew(self) -> Renewed:
        """Make the leases of this worker last from now on; it waits for no lock.

        Without an order: it locks rows only while nothing else is done in the transaction, and never waits.
        """
        of_worker = {"of_worker": self._worker}
        statement = renew(self.connection.dialect.name)
        rows = self.connection.execute(statement, {**of_worker, "lease_microseconds": self._lease_microseconds}).all()
        tokens = {key: token for key, token, _ in rows}
        # On SQLite no row can be locked.
        has_locks = self.connection.dialect.name == "postgresql"
        ours = self.connection.execute(LEASES, of_worker).all() if has_locks else ()
        return Renewed(
            tokens=tokens,
            cancelled=tuple(key for key, _, cancelled in rows if cancelled),
            locked={key: token for key, token in ours if key not in tokens},
        )

    def surroundings(self) -> Surroundings:
        """What is paused, and whether this version may use the database."""
        return Surroundings(self.paused(), schema_problem(self.connection))

    def end_leases(self) -> None:
        """End the leases of an earlier run under this name: they would be renewed although no unlink uses them."""
        self.lock(of_worker=True)
        self.connection.execute(END_LEASES, {"of_worker": self._worker})

    def release(self, lease: Lease) -> None:
        """Release a key; do nothing if the lease is lost."""
        if self._update(RELEASE, lease):
            self._note(lease, Step.RELEASED)

    def release_all(self) -> None:
        """Release every key of this worker."""
        self.lock(of_worker=True)
        for key, token in self.connection.execute(RELEASE_ALL, {"of_worker": self._worker}).all():
            self._note(Lease(key, token), Step.RELEASED)

    def has_decided(self, key: str, fingerprint: str) -> bool:
        """Whether the key is known with this content and past its claim."""
        row = self._row(key)
        if row is None or row["fingerprint"] != fingerprint:
            return False
        if row["stage"] != Stage.CLAIMED or row["link_id"] is not None or row["run"] > 1:
            return True
        return content_of(row["command"]).get("not_before") is not None

    # --- recording --------------------------------------------------------------------------------------------------

    def record(self, lease: Lease, change: Change) -> bool:
        """Record a change and its row in the history; False for the intent of a busy job."""
        statement, step = RECORD[type(change)]
        columns, detail = columns_of(change)
        if self._update(statement, lease, **columns):
            self._note(lease, step, detail)
            self._terms.change(lease.key, change)
            if isinstance(change, Settled):
                self.end_members(lease.key)
            return True
        if isinstance(change, Intended) and self._update(REMEMBER, lease, **intent_columns(change.intent)):
            self._note(lease, Step.JOB_BUSY, change.intent.job_id)
            self._terms.change(lease.key, change)
            return False
        row = self._row(lease.key)
        if row is None or row["token"] != lease.token:
            raise LeaseLostError(_lost(lease))
        if not _is_recorded(change, row):
            raise _refusal(lease, change, row)
        return True

    # --- pausing ----------------------------------------------------------------------------------------------------

    def paused(self) -> frozenset[str]:
        """The Enterprise Managers that are paused."""
        return frozenset(pause.enterprise_manager for pause in self.pauses())

    def pauses(self) -> tuple[Pause, ...]:
        """The paused Enterprise Managers, with who paused each, and why."""
        return tuple(Pause(**row) for row in self.connection.execute(PAUSES).mappings())

    def pause(self, enterprise_manager: str, paused_by: str | None, reason: str | None) -> None:
        """Pause an Enterprise Manager. If it is paused already, the new user and reason replace the old ones."""
        columns = {"enterprise_manager": enterprise_manager, "paused_by": paused_by, "reason": reason}
        self.connection.execute(pause(self.connection.dialect.name), columns)

    def resume(self, enterprise_manager: str) -> bool:
        """Resume one; whether it was paused."""
        return self.connection.execute(RESUME, {"of_enterprise_manager": enterprise_manager}).rowcount == 1

    # --- for people -------------------------------------------------------------------------------------------------

    def history(self, key: str) -> KeyHistory | None:
        """All that is known of a key."""
        row = self._row(key)
        of_key = {"of_key": key}
        cancellations = [cancellation_from(each) for each in self._cancellations(key)]
        if row is None and not cancellations:
            return None
        newest = [step_from(step) for step in self.connection.execute(NEWEST_STEPS, of_key).mappings()]
        return KeyHistory(
            record=None if row is None else record_from(row, cancellations),
            steps=tuple(reversed(newest[:MOST_STEPS])),
            cancellations=tuple(cancellations),
            steps_complete=len(newest) <= MOST_STEPS,
        )

    def find(self, criteria: Criteria, after: Cursor | None, limit: int) -> Page:
        """A page of the keys that meet the criteria, newest first."""
        found = self.connection.execute(matching(criteria, after, limit + 1)).all()
        keys = [each.key for each in found[:limit]]
        rows = {row["key"]: row for row in self.connection.execute(ROWS, {"of_keys": keys}).mappings()}
        cancellations = cancellations_of(self.connection, keys)
        return Page(
            records=tuple(record_from(rows[key], cancellations.get(key, ())) for key in keys if key in rows),
            next=Cursor(found[limit - 1].received_at, keys[-1]) if len(found) > limit else None,
            complete=self.connection.scalar(COMPLETED_AT) is not None,
        )

    def count_long_settled(self, older_than_days: float, retention: Retention) -> int:
        """How many keys were settled longer ago."""
        oldest_kept = retention.oldest_kept(self.connection, round(older_than_days * _DAY))
        return self.connection.execute(COUNT_LONG_SETTLED, {"oldest_kept": oldest_kept}).scalar_one()

    def prune(self, older_than_days: float, retention: Retention) -> tuple[int, bool]:
        """Delete a bounded part of what ended longer ago: how many keys it deleted, and whether there may be more."""
        retention.mark(self.connection)
        age = {"oldest_kept": retention.oldest_kept(self.connection, round(older_than_days * _DAY))}
        settled = {"of_keys": self.connection.execute(LONG_SETTLED, age).scalars().all()}
        unmet = {"of_keys": self.connection.execute(LONG_UNMET, age).scalars().all()}
        self.lock(settled["of_keys"], of_worker=False)
        of_keys = {"of_keys": [*settled["of_keys"], *unmet["of_keys"]]}
        if self.connection.execute(PRUNE_STEPS, of_keys).rowcount == STEPS_AT_ONCE:
            return 0, True
        pruned = self.connection.execute(PRUNE, settled).rowcount
        self.connection.execute(PRUNE_TERMS, settled)
        self.connection.execute(PRUNE_CANCELLATIONS, settled)
        self.connection.execute(PRUNE_UNMET, {**unmet, **age})
        more_batches = self._prune_batches(age)
        return pruned, more_batches or KEYS_AT_ONCE in {len(settled["of_keys"]), len(unmet["of_keys"])}

    def walk(self) -> bool:
        """Find keys without search terms in a bounded part of all keys; whether there may be more at once."""
        return walk(self.connection, self._terms)


def _is_recorded(change: Change, row: RowMapping) -> bool:
    """Whether an earlier try recorded it, and the answer to its commit was lost."""
    match change:
        case Intended(intent, sent_at):
            found = (row["stage"], row["sent_at"], row["link_id"])
            return bool(found == (Stage.INTENDED, sent_at, intent.link.object_in_job_id))
        case Withdrawn(send):  # or it was never counted
            return bool(row["sends"] == send - 1 and row["stage"] != Stage.SETTLED)
        case SentAgain(send):
            return bool((row["stage"], row["sends"]) == (Stage.INTENDED, send))
        case Settled(_, event, _):
            return row["stage"] == Stage.SETTLED and bytes(row["event"]) == event
        case _:
            return False


def _refusal(lease: Lease, change: Change, row: RowMapping) -> Exception:
    """Why a change of the newest token was not recorded."""
    stage = Stage(row["stage"])
    if stage is Stage.SETTLED:
        return LeaseLostError(_lost(lease))
    sends = Intended if stage is Stage.CLAIMED else SentAgain
    if row["cancelled"] and isinstance(change, sends):
        return CancelRequestedError(f"the cancellation of {lease.key} was requested")
    another_link = stage is Stage.CLAIMED and isinstance(change, Intended)
    return OutOfOrderError(lease, stage, "intend of another link" if another_link else change.call)


def _lost(lease: Lease) -> str:
    return f"{lease.key} was taken over, or has ended; token {lease.token} is no longer the newest"
