"""The events that the worker publishes, version 1: CloudEvents 1.0 in structured JSON mode."""

from __future__ import annotations

import hashlib
import uuid
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from contracts.commands import Message, Ticket

#: The content type of every event (CloudEvents 1.0, JSON event format, section 3).
CONTENT_TYPE = "application/cloudevents+json"

#: The name space of the event IDs. Fixed: consumers drop repeats by ID, across versions of the worker.
EVENT_NAMESPACE = uuid.UUID("6d2a4b0e-6f0c-5a55-9a3e-2f6c3a1d7b54")


class Outcome(StrEnum):
    """What became of a command. All but `submitted` are terminal: each command ends in exactly one of them."""

    SUBMITTED = "submitted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    PLANNED = "planned"

    @property
    def event_type(self) -> str:
        """The CloudEvents `type`."""
        return f"unlink.{self.value}.v1"

    @property
    def terminal(self) -> bool:
        """Whether it ends the command."""
        return self is not Outcome.SUBMITTED


class Evidence(StrEnum):
    """How it is known that the link is gone."""

    TASK = "task"
    LINKS = "links"
    ABSENT = "absent"


class ReasonCode(StrEnum):
    """Why a command did not succeed; stable, for programs. The message beside it is for people."""

    INVALID_MESSAGE = "invalid_message"
    KEY_REUSED = "key_reused"
    UNKNOWN_ENTERPRISE_MANAGER = "unknown_enterprise_manager"
    JOB_NOT_FOUND = "job_not_found"
    JOB_AMBIGUOUS = "job_ambiguous"
    NOT_A_COPY_JOB = "not_a_copy_job"
    REPOSITORY_NOT_FOUND = "repository_not_found"
    REPOSITORY_AMBIGUOUS = "repository_ambiguous"
    LINK_ABSENT = "link_absent"
    LINKED_BACKUPS_AT_RISK = "linked_backups_at_risk"
    ACCESS_DENIED = "access_denied"
    EXPIRED = "expired"
    TASK_FAILED = "task_failed"
    ENTERPRISE_MANAGER_ERROR = "enterprise_manager_error"
    GAVE_UP = "gave_up"


class Reason(Message):
    """Why: a stable code and a sentence."""

    code: ReasonCode
    message: str


class JobSeen(Message):
    """The job as Enterprise Manager showed it."""

    id: str | None = None
    name: str | None = None


class RepositorySeen(Message):
    """The repository and its link as Enterprise Manager showed them."""

    link_id: str | None = Field(None, description="The link's `ObjectInJobId`.")
    uid: str | None = None
    name: str | None = None


class LinkedBackupSeen(Message):
    """A linked backup that an edit of the job drops."""

    link_id: str = Field(description="Its `ObjectInJobId`.")
    uid: str | None = None
    name: str | None = None


class TaskSeen(Message):
    """Enterprise Manager's task. Its ID means something only in the logon session that started it."""

    id: str
    operation: str | None = None
    message: str | None = None


class EventData(Message):
    """What an event says. Every field is always there; null means not known, or not applicable."""

    idempotency_key: str | None
    enterprise_manager: str
    outcome: Outcome
    changed: bool | None = Field(
        None, description="True if the link was there when the command was taken up and is known to be gone since."
    )
    evidence: Evidence | None = Field(
        None, description="How it is known: the task's result, a look at the job's links, or no link from the start."
    )
    verified: bool | None = Field(None, description="Whether the job's list of links was seen without the link.")
    job: JobSeen | None = None
    repository: RepositorySeen | None = None
    linked_backups_removed: list[LinkedBackupSeen] = Field(
        default_factory=list, description="The linked backups that the edit drops; in a plan, those that it would drop."
    )
    task: TaskSeen | None = None
    reason: Reason | None = None
    requested_by: str | None = None
    ticket: Ticket | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    correlation_id: str | None = None
    attempts: int = Field(1, description="How many times a worker took the command up.")
    received_at: AwareDatetime
    submitted_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None


class Event(Message):
    """A CloudEvent about one command. A repeat has the same `id`: drop it by that."""

    specversion: Literal["1.0"] = "1.0"
    id: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]
    type: str
    subject: str | None = None
    time: AwareDatetime
    datacontenttype: Literal["application/json"] = "application/json"
    data: EventData

    def to_bytes(self) -> bytes:
        """The message body: JSON, UTF-8. CloudEvents attributes that are null are left out, as the format asks."""
        left_out = {"subject"} if self.subject is None else None
        return self.model_dump_json(exclude=left_out).encode()

    @property
    def routing_key(self) -> str:
        """`<outcome>.<enterprise manager>`, e.g. `succeeded.default`."""
        return f"{self.data.outcome}.{self.data.enterprise_manager}"


def source_of(enterprise_manager: str) -> str:
    """The CloudEvents `source` of an Enterprise Manager's events."""
    return f"/unlink-worker/{enterprise_manager}"


def event_id(idempotency_key: str, outcome: Outcome) -> str:
    """The ID of the event with which a command ends, or starts: the same however often it is made."""
    return str(uuid.uuid5(EVENT_NAMESPACE, f"{idempotency_key}\n{outcome.event_type}"))


def rejection_id(body: bytes) -> str:
    """The ID of a `rejected` event: of the message's bytes, since its key may be unreadable or somebody else's."""
    digest = hashlib.sha256(body).hexdigest()
    return str(uuid.uuid5(EVENT_NAMESPACE, f"sha256:{digest}\n{Outcome.REJECTED.event_type}"))
