"""Requests to cancel a run of a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.ledger.key_rows import KeyRows
from worker.ledger.records import Step
from worker.ledger.rows import cancellation_from, known_run_from, who_and_why
from worker.ledger.search_terms import content_of
from worker.ledger.statements import CANCELLATIONS, MARK_CANCELLED, remember_cancellation
from worker.unlinks.ports.ledger import AlreadySettled, CancelRequest, KeyReused, KnownRun, Lease, NoSuchRun, Stage

if TYPE_CHECKING:
    from sqlalchemy import RowMapping


@dataclass(frozen=True, slots=True)
class Stored:
    """The request is stored, for this run. `present`: it is the key's last run, and has not ended."""

    run: int
    present: bool


class Cancelling(KeyRows):
    """The part of a transaction that writes requests to cancel."""

    def cancel(self, request: CancelRequest) -> AlreadySettled | KeyReused | NoSuchRun | Stored:
        """Store a request. Call `mark_cancelled` afterwards, in a transaction that begins after the commit."""
        row = self._row(request.key)
        run = request.run or (1 if row is None else row["run"])
        answer = _beyond_cancelling(row, request, run)
        if answer is not None:
            return answer
        columns = {
            "key": request.key,
            "enterprise_manager": request.enterprise_manager,
            "run": run,
            "requested_by": request.requested_by,
            "user_id": request.user_id,
            "reason": request.reason,
        }
        remember = remember_cancellation(self.connection.dialect.name)
        if self.connection.execute(remember, columns).one_or_none() is not None:
            self._note(
                Lease(request.key, 0),
                Step.CANCEL_REQUESTED,
                who_and_why(request.requested_by, request.user_id, request.reason),
            )
        return Stored(run, present=row is not None and run == row["run"])

    def mark_cancelled(
        self, request: CancelRequest, run: int
    ) -> AlreadySettled | KeyReused | NoSuchRun | KnownRun | None:
        """Mark the row. A write that began before the commit of the request is either first or sees the mark.

        Return the run that is meant, if it may wait for its `not_before`.
        """
        named = {"of_key": request.key, "of_enterprise_manager": request.enterprise_manager, "of_run": run}
        marked = self.connection.execute(MARK_CANCELLED, named).rowcount == 1
        row = self._row(request.key)
        if not marked and (answer := _beyond_cancelling(row, request, run)) is not None:
            return answer
        return _may_wait(row, run)

    def cancelled_by(self, lease: Lease) -> str | None:
        """Who asked to cancel the run of this lease."""
        row = self._row(lease.key)
        requests = [cancellation_from(each) for each in self._cancellations(lease.key)]
        asked = (
            request.by
            for request in requests
            if row is not None and (request.enterprise_manager, request.run) == (row["enterprise_manager"], row["run"])
        )
        return next(asked, None)

    def _cancellations(self, key: str) -> list[RowMapping]:
        return list(self.connection.execute(CANCELLATIONS, {"of_key": key}).mappings())


def _may_wait(row: RowMapping | None, run: int) -> KnownRun | None:
    """The run, if it has not been looked at, and its command names a `not_before`."""
    if row is None or row["run"] != run or row["stage"] != Stage.CLAIMED:
        return None
    return known_run_from(row) if content_of(row["command"]).get("not_before") is not None else None


def _beyond_cancelling(
    row: RowMapping | None, request: CancelRequest, run: int
) -> AlreadySettled | KeyReused | NoSuchRun | None:
    """The answer to a request that changes nothing; None if it changes something, or if its run may come next.

    The request may come before the retry that starts its run, and before the command. No run follows a success.
    """
    if row is None:
        return None if run == 1 else NoSuchRun()
    if row["enterprise_manager"] != request.enterprise_manager:
        return KeyReused()
    last = row["run"]
    if run > last + 1:
        return NoSuchRun()
    settled = row["stage"] == Stage.SETTLED
    none_follows = settled and known_run_from(row).failure is None
    ended = run < last or (run == last and settled) or none_follows
    return AlreadySettled(bytes(row["event"])) if ended else None
