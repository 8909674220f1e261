"""Conversions between the ledger's rows and the records of the core."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from contracts.events import RETRIED, Outcome
from worker.ledger.records import Record, RecordedStep, Step
from worker.ledger.tables import to_microseconds
from worker.unlinks.ports.enterprise_manager import Link, LinkedBackup, TaskTicket
from worker.unlinks.ports.ledger import (
    CancelRequest,
    Change,
    Entry,
    Intended,
    Intent,
    KnownRun,
    Lease,
    SentAgain,
    Settled,
    Stage,
    Submitted,
    Withdrawn,
)

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

_STEPS = {step.value: step for step in Step}


def intent_columns(intent: Intent) -> dict[str, Any]:
    """The columns of an intent, and the parameters that compare it with an earlier one."""
    backups = [[backup.object_in_job_id, backup.uid, backup.name] for backup in intent.linked_backups]
    return {
        "job_id": intent.job_id,
        "job_name": intent.job_name,
        "link_id": intent.link.object_in_job_id,
        "repository_uid": intent.link.repository_uid,
        "repository_name": intent.link.repository_name,
        "linked_backups": json.dumps(backups),
        "seen_link_id": intent.link.object_in_job_id,
        "seen_job_id": intent.job_id,
    }


def columns_of(change: Change) -> tuple[dict[str, Any], str | None]:
    """The columns that a change fills, and its detail for the history."""
    match change:
        case Intended(intent, sent_at):
            sent = {"sent_at": sent_at, "sent_microseconds": to_microseconds(sent_at)}
            return {**intent_columns(intent), **sent}, intent.link.object_in_job_id
        case Submitted(task, submitted_at):
            columns = {"task_id": task.task_id, "task_session": task.session, "submitted_at": submitted_at}
            return columns, task.task_id
        case Withdrawn(send) | SentAgain(send):
            return {"of_send": send}, f"{send}"
        case Settled(outcome, event, finished_at):
            return {"outcome": outcome.value, "event": event, "finished_at": finished_at}, outcome.value


def entry_from(row: RowMapping) -> Entry:
    """A row as the core's record."""
    return Entry(
        lease=Lease(row["key"], row["token"]),
        stage=Stage(row["stage"]),
        attempts=row["attempts"],
        received_at=row["run_began_at"] or row["received_at"],
        intent=_intent_from(row),
        sent_at=row["sent_at"],
        sends=row["sends"],
        task=None if row["task_id"] is None else TaskTicket(row["task_id"], row["task_session"]),
        submitted_at=row["submitted_at"],
        cancelled=bool(row["cancelled"]),
        command=bytes(row["command"]),
        run=row["run"],
        user_id=row["user_id"],
        sender=row["retry_user_id"] if row["run"] > 1 else row["user_id"],
        retried_by=row["retried_by"] or row["retry_user_id"],
        may_act=row["may_act"],
        batched=bool(row["batched"]),
        age=_seconds(row["age"]) or 0.0,
        since_sent=_seconds(row["since_sent"]),
    )


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else max(microseconds, 0) / 1_000_000


def known_run_from(row: RowMapping) -> KnownRun:
    """The last run of a key's row."""
    return KnownRun(
        enterprise_manager=row["enterprise_manager"],
        run=row["run"],
        command=bytes(row["command"]),
        fingerprint=row["fingerprint"],
        failure=bytes(row["event"]) if row["stage"] == Stage.SETTLED and row["outcome"] in RETRIED else None,
        job_id=row["job_id"],
        under_way=row["stage"] != Stage.SETTLED,
        user_id=row["user_id"],
    )


def _intent_from(row: RowMapping) -> Intent | None:
    if row["link_id"] is None:
        return None
    return Intent(
        job_id=row["job_id"],
        job_name=row["job_name"],
        link=Link(row["link_id"], row["repository_uid"], row["repository_name"]),
        linked_backups=tuple(LinkedBackup(*backup) for backup in json.loads(row["linked_backups"])),
    )


def record_from(row: RowMapping, cancellations: Iterable[CancelRequest] = ()) -> Record:
    """A row as a complete record. During a run, the row still has the end of the previous run.

    `cancellations` may hold those of other keys, Enterprise Managers and runs.
    """
    settled = row["stage"] == Stage.SETTLED
    this = row["key"], row["enterprise_manager"], row["run"]
    outcome, event = (row["outcome"], row["event"]) if settled else (None, None)
    return Record(
        entry=entry_from(row),
        fingerprint=row["fingerprint"],
        enterprise_manager=row["enterprise_manager"],
        command=bytes(row["command"]),
        worker=row["worker"],
        lease_until=row["lease_until"],
        updated_at=row["updated_at"],
        outcome=None if outcome is None else Outcome(outcome),
        event=None if event is None else bytes(event),
        finished_at=row["finished_at"] if settled else None,
        user_id=row["user_id"],
        cancellation=next(
            (each for each in cancellations if (each.key, each.enterprise_manager, each.run) == this), None
        ),
    )


def step_from(row: RowMapping) -> RecordedStep:
    """A row of `steps`."""
    step = _STEPS.get(row["step"], row["step"])
    return RecordedStep(row["at"], row["worker"], row["token"], step, row["detail"], row["trace_id"])


def cancellation_from(row: RowMapping) -> CancelRequest:
    """A row of `cancellations`."""
    return CancelRequest(
        row["key"],
        row["enterprise_manager"],
        row["requested_by"],
        row["reason"],
        requested_at=row["requested_at"],
        run=row["run"],
        user_id=row["user_id"],
    )


def who_and_why(requested_by: str | None, user_id: str | None, reason: str | None) -> str | None:
    """The detail of a request for the history: who asked, which broker user sent it, and why."""
    who = f"{requested_by} (sent by {user_id})" if requested_by and user_id else requested_by or user_id
    return ": ".join(part for part in (who, reason) if part) or None
