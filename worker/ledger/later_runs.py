"""The runs of a key after the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contracts.reading import to_run_again
from worker.ledger.batches import Batching
from worker.ledger.records import Step
from worker.ledger.rows import entry_from, known_run_from, who_and_why
from worker.ledger.search_terms import content_of
from worker.ledger.statements import FORGET_CANCELLATIONS, START_RUN, TAKE_OVER
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    Claimed,
    HeldElsewhere,
    KeyReused,
    KnownRun,
    NoSuchRun,
    Retry,
    RetryResult,
    Stage,
)

if TYPE_CHECKING:
    from sqlalchemy import RowMapping


class LaterRuns(Batching):
    """The part of a transaction that starts a run, or takes over a run that was started."""

    def last_run(self, key: str) -> KnownRun | None:
        """The last run of a key; None if the key is not known."""
        row = self._row(key)
        return None if row is None else known_run_from(row)

    def retry(self, retry: Retry, trace_id: str | None = None) -> RetryResult:
        """Start the next run, take over the one that is under way, or find out why not. `trace_id` is kept with it.

        Repeated after a commit whose answer was lost, it takes its own run over.
        """
        while True:
            row = self._row(retry.key)
            if row is None or retry.run > row["run"]:
                return NoSuchRun()
            if row["enterprise_manager"] != retry.enterprise_manager:
                return KeyReused()
            if row["stage"] != Stage.SETTLED:
                return self._take_over(retry, row, trace_id)
            result = self._follow(retry, row, trace_id)
            if result is not None:
                return result

    def _follow(self, retry: Retry, row: RowMapping, trace_id: str | None) -> RetryResult | None:
        """Start the run that follows the settled one of `row`; None if another request did meanwhile."""
        if retry.run < row["run"] or known_run_from(row).failure is None:
            return AlreadySettled(bytes(row["event"]), batched=bool(row["batched"]))
        return self._start(retry, row, trace_id) if retry.permitted == row["fingerprint"] else HeldElsewhere()

    def _take_over(self, retry: Retry, found: RowMapping, trace_id: str | None) -> Claimed | HeldElsewhere:
        taker = {**self._taker(retry.key), "grace_microseconds": self._grace_microseconds}
        row = self.connection.execute(TAKE_OVER, taker).mappings().one_or_none()
        if row is None:
            return self._held_elsewhere(found)
        return self._claimed(row, Step.TAKEN_OVER, row["stage"], trace_id)

    def _start(self, retry: Retry, row: RowMapping, trace_id: str | None) -> Claimed | None:
        parameters = {
            **self._taker(retry.key),
            "of_run": retry.run,
            "command": to_run_again(bytes(row["command"]), retry.not_before, retry.not_after, retry.correlation_id),
            "retried_by": retry.requested_by,
            "retry_user_id": retry.user_id,
            "may_act": _may_act(bytes(row["event"])),
        }
        started = self.connection.execute(START_RUN, parameters).mappings().one_or_none()
        if started is None:
            return None
        self._reopen_members(retry.key)
        self.connection.execute(FORGET_CANCELLATIONS, {"of_key": retry.key, "before_run": started["run"]})
        asked = who_and_why(retry.requested_by, retry.user_id, retry.reason)
        detail = f"{started['run']}" if asked is None else f"{started['run']}, asked for by {asked}"
        return self._claimed(started, Step.RUN_STARTED, detail, trace_id)

    def _taker(self, key: str) -> dict[str, Any]:
        return {"of_key": key, "of_worker": self._worker, "lease_microseconds": self._lease_microseconds}

    def _claimed(self, row: RowMapping, step: Step, detail: str, trace_id: str | None) -> Claimed:
        entry = entry_from(row)
        self._note(entry.lease, step, detail, trace_id)
        self._terms.put(row)
        return Claimed(entry)


def _may_act(event: bytes) -> bool:
    """Whether a DELETE may still be carried out after a run that ended with this event, also if it cannot be read."""
    return content_of(event).get("changed") is None
