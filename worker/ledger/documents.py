"""A key's row as a document for programs and as a line of the audit export, for the command line and the console."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from worker.ledger.records import Record, RecordedStep
from worker.ledger.search_terms import content_of, whole_of
from worker.spreadsheet import as_cell
from worker.unlinks.ports.ledger import CancelRequest

_REPOSITORY: Final = ("link_id", "uid", "name")


#: The audit export: who asked and why, what was asked for, what was seen, what was done, and how that is known.
AUDIT_COLUMNS: Final = (
    *("idempotency_key", "run", "enterprise_manager", "ticket_system", "ticket_id", "ticket_url", "batch"),
    *("user_id", "requested_by", "reason", "retried_by", "retry_user_id"),
    *("cancelled_by", "cancel_user_id", "received_at"),
    *("asked_job", "asked_repository", "allow_linked_backups_removal"),
    *("job_id", "job_name", "link_id", "repository_uid", "repository_name", "linked_backups"),
    *("sent_at", "sends", "task_id", "task_message", "submitted_at", "finished_at", "stage", "outcome"),
    *("changed", "evidence", "verified", "linked_backups_removed", "reason_code", "reason_message", "summary"),
    *("attempts", "correlation_id", "labels"),
)


class Document:
    """A key as a document: what was requested, what was seen, and the outcome."""

    def __init__(self, record: Record) -> None:
        self.record = record

    @cached_property
    def command(self) -> dict[str, Any]:
        """The stored command."""
        return content_of(self.record.command)

    @cached_property
    def event(self) -> dict[str, Any]:
        """The `data` of the terminal event; empty while there is none."""
        return content_of(self.record.event)

    @property
    def job(self) -> dict[str, str | None]:
        """The job as it was seen before the DELETE; until then, as the command named it."""
        intent = self.record.entry.intent
        if intent is not None:
            return {"id": intent.job_id, "name": intent.job_name}
        return _parts(self.event.get("job") or self.command.get("job"), ("id", "name"))

    @property
    def repository(self) -> dict[str, str | None]:
        """The repository and its link, in the same way."""
        intent = self.record.entry.intent
        if intent is not None:
            link = intent.link
            name = link.repository_name or _parts(self.command.get("repository"), _REPOSITORY)["name"]
            return {"link_id": link.object_in_job_id, "uid": link.repository_uid, "name": name}
        return _parts(self.event.get("repository") or self.command.get("repository"), _REPOSITORY)

    @property
    def ticket(self) -> dict[str, str | None] | None:
        """The command's ticket."""
        ticket = self.command.get("ticket")
        return _parts(ticket, ("system", "id", "url")) if ticket else None

    @property
    def batch(self) -> str | None:
        """The ID of the batch that the command names."""
        batch = self.command.get("batch")
        return batch.get("id") if isinstance(batch, dict) else None

    @property
    def request(self) -> dict[str, str | None]:
        """Who asked, and why; who retried and cancelled. Each user ID is of the broker user, verified by the broker."""
        entry, cancel = self.record.entry, self.record.cancellation
        later = _parts(self.event.get("request"), ("user_id", "retried_by", "cancelled_by"))
        return {
            "requested_by": self.command.get("requested_by"),
            "reason": self.command.get("reason"),
            "user_id": self.record.user_id or later["user_id"],
            "retried_by": entry.retried_by or later["retried_by"],
            "retry_user_id": entry.sender if entry.run > 1 else None,
            "cancelled_by": later["cancelled_by"] if cancel is None else cancel.by,
            "cancel_user_id": None if cancel is None else cancel.user_id,
        }

    @property
    def linked_backups(self) -> list[dict[str, str | None]]:
        """The linked backups that were seen before the DELETE."""
        intent = self.record.entry.intent
        return [
            {"link_id": backup.object_in_job_id, "uid": backup.uid, "name": backup.name}
            for backup in (intent.linked_backups if intent is not None else ())
        ]

    def as_json(self) -> dict[str, Any]:
        """The whole document; times are in UTC."""
        record, entry = self.record, self.record.entry
        return {
            "idempotency_key": entry.lease.key,
            "stage": entry.stage,
            "outcome": record.outcome,
            "enterprise_manager": record.enterprise_manager,
            "job": self.job,
            "repository": self.repository,
            "ticket": self.ticket,
            "batch": self.batch,
            "request": self.request,
            "linked_backups": self.linked_backups,
            "task": None if entry.task is None else {"id": entry.task.task_id},
            "run": entry.run,
            "attempts": entry.attempts,
            "sends": entry.sends,
            "received_at": utc(entry.received_at),
            "sent_at": utc(entry.sent_at),
            "submitted_at": utc(entry.submitted_at),
            "finished_at": utc(record.finished_at),
            "worker": record.worker,
            "lease_until": None if record.worker is None else utc(record.lease_until),
            "command": self.command,
            "event": whole_of(record.event),
        }

    def audit_line(self) -> list[str]:
        """The cells of a line of the audit export, by `AUDIT_COLUMNS`; none is taken for a formula."""
        record, entry, event, command = self.record, self.record.entry, self.event, self.command
        ticket, job, repository = self.ticket or {}, self.job, self.repository
        reason, task = _parts(event.get("reason"), ("code", "message")), _parts(event.get("task"), ("message",))
        labels = command.get("labels")
        cells = {
            "idempotency_key": entry.lease.key,
            "run": entry.run,
            "enterprise_manager": record.enterprise_manager,
            "ticket_system": ticket.get("system"),
            "ticket_id": ticket.get("id"),
            "ticket_url": ticket.get("url"),
            "batch": self.batch,
            **self.request,
            "received_at": utc(entry.received_at),
            "asked_job": in_words(command.get("job")),
            "asked_repository": in_words(command.get("repository")),
            "allow_linked_backups_removal": command.get("allow_linked_backups_removal", False),
            "job_id": job["id"],
            "job_name": job["name"],
            "link_id": repository["link_id"],
            "repository_uid": repository["uid"],
            "repository_name": repository["name"],
            "linked_backups": _names(self.linked_backups),
            "sent_at": utc(entry.sent_at),
            "sends": entry.sends,
            "task_id": None if entry.task is None else entry.task.task_id,
            "task_message": task.get("message"),
            "submitted_at": utc(entry.submitted_at),
            "finished_at": utc(record.finished_at),
            "stage": entry.stage,
            "outcome": record.outcome,
            "changed": event.get("changed"),
            "evidence": event.get("evidence"),
            "verified": event.get("verified"),
            "linked_backups_removed": _names(event.get("linked_backups_removed")),
            "reason_code": reason.get("code"),
            "reason_message": reason.get("message"),
            "summary": event.get("summary"),
            "attempts": entry.attempts,
            "correlation_id": event.get("correlation_id") or command.get("correlation_id"),
            "labels": json.dumps(labels, ensure_ascii=False) if labels else None,
        }
        return [_cell(cells[column]) for column in AUDIT_COLUMNS]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return as_cell(str(value))


def utc(moment: datetime | None) -> str | None:
    """A time for programs: RFC 3339, UTC."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def step_as_json(step: RecordedStep) -> dict[str, Any]:
    """A step of a key's history, for programs."""
    return {
        "at": utc(step.at),
        "step": step.step,
        "detail": step.detail,
        "worker": step.worker,
        "token": step.token,
        "trace_id": step.trace_id,
    }


def in_words(reference: object) -> str | None:
    """A job or repository as its command named it; None if that cannot be read."""
    if not isinstance(reference, dict):
        return None
    return ", ".join(f"{name} {value}" for name, value in reference.items() if value is not None)


def _parts(content: object, names: tuple[str, ...]) -> dict[str, str | None]:
    found = content if isinstance(content, dict) else {}
    return {name: found.get(name) for name in names}


def _names(backups: object) -> str:
    known = [_parts(each, ("name", "uid", "link_id")) for each in (backups if isinstance(backups, list) else [])]
    return "; ".join(str(backup["name"] or backup["uid"] or backup["link_id"]) for backup in known)


def cancellation_as_json(request: CancelRequest) -> dict[str, Any]:
    """A request to cancel, for programs."""
    return {
        "enterprise_manager": request.enterprise_manager,
        "requested_by": request.requested_by,
        "user_id": request.user_id,
        "reason": request.reason,
        "requested_at": utc(request.requested_at),
        "run": request.run,
    }
