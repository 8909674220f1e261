"""The outcome of an unlink, and its event."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from contracts.commands import JobReference, RepositoryReference, UnlinkCommand
from contracts.events import (
    Event,
    EventData,
    Evidence,
    JobSeen,
    LinkedBackupSeen,
    Outcome,
    Reason,
    ReasonCode,
    RepositorySeen,
    RequestSeen,
    TaskSeen,
    event_id,
    plan_id,
    rejection_id,
    source_of,
)
from contracts.reading import PartialParse
from worker.unlinks.closing import closed
from worker.unlinks.ports.enterprise_manager import Job, Task
from worker.unlinks.ports.ledger import Entry, Intent


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of an unlink: what is known, and how.

    `seen` is the job and the link as Enterprise Manager listed them; `job` is the job if there was no link.
    """

    outcome: Outcome
    changed: bool | None = None
    evidence: Evidence | None = None
    verified: bool | None = None
    reason: Reason | None = None
    task: Task | None = None
    seen: Intent | None = None
    job: Job | None = None

    @property
    def gave_up(self) -> Reason | None:
        """The reason, if the worker gave up: the command is then dead-lettered, too."""
        dead = self.outcome is Outcome.FAILED and self.reason is not None and self.reason.code is ReasonCode.GAVE_UP
        return self.reason if dead else None

    @property
    def facts(self) -> dict[str, Any]:
        """The fields for the log."""
        reason = self.reason
        return {
            "outcome": self.outcome.value,
            "changed": self.changed,
            "evidence": self.evidence,
            "verified": self.verified,
            **({"reason": reason.code.value, "problem": reason.message} if reason is not None else {}),
        }


def succeeded(seen: Intent | None, evidence: Evidence, *, verified: bool, task: Task | None = None) -> Ending:
    """The link was there and was removed."""
    return Ending(Outcome.SUCCEEDED, True, evidence, verified, task=task, seen=seen)


def already_absent(job: Job) -> Ending:
    """There was no link to remove."""
    return Ending(Outcome.SUCCEEDED, changed=False, evidence=Evidence.ABSENT, verified=True, job=job)


def failed(
    code: ReasonCode,
    message: str,
    *,
    changed: bool | None = False,
    task: Task | None = None,
    seen: Intent | None = None,
    job: Job | None = None,
) -> Ending:
    """The link was not removed; with `changed` None, it is not known whether it was."""
    return Ending(Outcome.FAILED, changed, reason=Reason(code=code, message=message), task=task, seen=seen, job=job)


def timed_out(seen: Intent | None, message: str, *, task: Task | None) -> Ending:
    """It is not known in time whether the link is gone."""
    reason = Reason(code=ReasonCode.GAVE_UP, message=message)
    return Ending(Outcome.TIMED_OUT, verified=False, reason=reason, task=task, seen=seen)


def cancelled(seen: Intent | None, *, changed: bool | None = False, task: Task | None = None) -> Ending:
    """Stopped, and the link remains; with `changed` None, a task that could not be stopped may still remove it."""
    return Ending(Outcome.CANCELLED, changed=changed, task=task, seen=seen)


def planned(seen: Intent, reason: Reason | None = None) -> Ending:
    """The ending of a dry run: what would be done, or why it would be refused."""
    return Ending(Outcome.PLANNED, changed=False, reason=reason, seen=seen)


def as_plan(ending: Ending) -> Ending:
    """A dry run ends as `planned`, whatever it found: the real command may use the key again, with its own ending."""
    return replace(ending, outcome=Outcome.PLANNED, changed=False)


def compose(
    command: UnlinkCommand, entry: Entry, ending: Ending, *, correlation_id: str, arrived_at: datetime, now: datetime
) -> Event:
    """The event of an ending.

    `correlation_id` is the command's own, or its substitute. `arrived_at` is the delivery's: a plan that was not
    published has the same ID when it is made again.
    """
    seen = ending.seen
    planned = ending.outcome is Outcome.PLANNED
    key = command.idempotency_key
    return Event(
        id=plan_id(key, arrived_at) if planned else event_id(key, ending.outcome, entry.run),
        source=source_of(command.enterprise_manager),
        type=ending.outcome.event_type,
        subject=key,
        time=now,
        data=closed(
            EventData(
                idempotency_key=key,
                enterprise_manager=command.enterprise_manager,
                outcome=ending.outcome,
                changed=ending.changed,
                evidence=ending.evidence,
                verified=ending.verified,
                job=_job(command, ending),
                repository=_repository(command, seen),
                linked_backups_removed=_linked_backups(ending),
                task=_task(entry, ending.task),
                reason=ending.reason,
                requested_by=command.requested_by,
                ticket=command.ticket,
                labels=dict(command.labels),
                correlation_id=correlation_id,
                attempts=entry.attempts,
                run=None if planned else entry.run,
                batch=None if planned else command.batch,
                request=_request(command, entry),
                received_at=entry.received_at,
                submitted_at=entry.submitted_at,
                finished_at=now if ending.outcome.terminal else None,
            )
        ),
    )


def compose_rejection(
    body: bytes,
    partial: PartialParse,
    reason: Reason,
    *,
    changed: bool | None,
    enterprise_manager: str,
    correlation_id: str | None,
    user_id: str | None,
    now: datetime,
) -> Event:
    """The event of a message that is not run. Its ID is derived from the message's bytes.

    `changed` is None if an earlier attempt may have removed the link.
    """
    return Event(
        id=rejection_id(body),
        source=source_of(enterprise_manager),
        type=Outcome.REJECTED.event_type,
        subject=partial.idempotency_key,
        time=now,
        data=closed(
            EventData(
                idempotency_key=partial.idempotency_key,
                enterprise_manager=enterprise_manager,
                outcome=Outcome.REJECTED,
                changed=changed,
                job=None if partial.job is None else _job_named(partial.job),
                repository=None if partial.repository is None else _repository_named(partial.repository),
                reason=reason,
                requested_by=partial.requested_by,
                ticket=partial.ticket,
                labels=partial.labels,
                correlation_id=partial.correlation_id or correlation_id or partial.idempotency_key,
                batch=partial.batch,
                request=RequestSeen(requested_by=partial.requested_by, reason=partial.reason, user_id=user_id),
                received_at=now,
                finished_at=now,
            )
        ),
    )


def _request(command: UnlinkCommand, entry: Entry) -> RequestSeen:
    return RequestSeen(
        requested_by=command.requested_by,
        reason=command.reason,
        user_id=entry.user_id,
        retried_by=entry.retried_by,
        cancelled_by=entry.cancelled_by,
    )


def _job(command: UnlinkCommand, ending: Ending) -> JobSeen:
    if ending.seen is not None:
        return JobSeen(id=ending.seen.job_id, name=ending.seen.job_name)
    if ending.job is not None:
        return JobSeen(id=ending.job.id, name=ending.job.name)
    return _job_named(command.job)


def _job_named(job: JobReference) -> JobSeen:
    return JobSeen(id=job.id, name=job.name)


def _repository(command: UnlinkCommand, seen: Intent | None) -> RepositorySeen:
    named = command.repository
    if seen is None:
        return _repository_named(named)
    link = seen.link
    return RepositorySeen(
        link_id=link.object_in_job_id, uid=link.repository_uid, name=link.repository_name or named.name
    )


def _repository_named(repository: RepositoryReference) -> RepositorySeen:
    return RepositorySeen(link_id=repository.link_id, uid=repository.uid, name=repository.name)


def _linked_backups(ending: Ending) -> list[LinkedBackupSeen]:
    """The linked backups that were dropped; in a plan, those that would be."""
    concerned = ending.outcome is Outcome.PLANNED or ending.changed is True
    if ending.seen is None or not concerned:
        return []
    return [
        LinkedBackupSeen(link_id=backup.object_in_job_id, uid=backup.uid, name=backup.name)
        for backup in ending.seen.linked_backups
    ]


def _task(entry: Entry, task: Task | None) -> TaskSeen | None:
    if task is not None:
        return TaskSeen(id=task.ticket.task_id, operation=task.operation, message=task.message)
    return TaskSeen(id=entry.task.task_id) if entry.task is not None else None
