"""The events that the worker publishes, version 1: CloudEvents 1.0 in structured JSON mode.

The `title`, `description` and `examples` of a field go into the published schemas (`contracts.published`).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticSerializationError

from contracts.commands import UNKNOWN_NAME, Batch, Message, Ticket

#: The content type of every event (CloudEvents 1.0, JSON event format, section 3).
CONTENT_TYPE = "application/cloudevents+json"

#: The UUID namespace of the event IDs. It must not change: consumers drop repeats by ID, across versions of the worker.
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


#: The terminal outcomes of a run. The ledger records them, and a repeated command is answered with the recorded event.
RECORDED = (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED, Outcome.TIMED_OUT)

#: The outcomes of a run after which it may be retried.
RETRIED = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED})


class Evidence(StrEnum):
    """How it is known that the link is gone."""

    TASK = "task"
    LINKS = "links"
    ABSENT = "absent"


class CloseCode(StrEnum):
    """How to close the ticket of a command."""

    DONE = "done"
    NOTHING_TO_DO = "nothing_to_do"
    NOT_DONE = "not_done"
    UNKNOWN = "unknown"
    REFUSED = "refused"


#: The longest `summary`, in characters.
MAX_SUMMARY = 500


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
    RUN_NOT_FOUND = "run_not_found"


#: The meaning of each code, for consumers.
REASON_MEANINGS = {
    ReasonCode.INVALID_MESSAGE: "the message breaks the contract",
    ReasonCode.KEY_REUSED: "the idempotency key belongs to a command with other content",
    ReasonCode.UNKNOWN_ENTERPRISE_MANAGER: "no worker serves an Enterprise Manager of this name",
    ReasonCode.JOB_NOT_FOUND: "there is no such job",
    ReasonCode.JOB_AMBIGUOUS: "several jobs have this name; the message lists them",
    ReasonCode.NOT_A_COPY_JOB: "the job is of a kind that has no linked repositories",
    ReasonCode.REPOSITORY_NOT_FOUND: "there is no such repository",
    ReasonCode.REPOSITORY_AMBIGUOUS: "several repositories or links answer to this; the message lists them",
    ReasonCode.LINK_ABSENT: "the job has no such link, and the command has `if_absent` `fail`",
    ReasonCode.LINKED_BACKUPS_AT_RISK: "the edit would drop linked backups, and the command does not consent",
    ReasonCode.ACCESS_DENIED: (
        "not permitted: to the sender by the worker's policy, or to the worker's account by Enterprise Manager"
    ),
    ReasonCode.EXPIRED: "`not_after` was past before the command was started",
    ReasonCode.TASK_FAILED: "Enterprise Manager's task failed; the message is its own",
    ReasonCode.ENTERPRISE_MANAGER_ERROR: "Enterprise Manager answered with an error, or not sensibly",
    ReasonCode.GAVE_UP: "the worker could not bring it to an end",
    ReasonCode.RUN_NOT_FOUND: "the idempotency key is not known (any more), or has had no such run",
}


def _open_set() -> WithJsonSchema:
    meanings = "; ".join(f"`{code}`: {meaning}" for code, meaning in REASON_MEANINGS.items())
    return WithJsonSchema(
        {
            "type": "string",
            "description": f"Stable, for programs. {meanings}. More may come: treat one that you do not know as a "
            "failure that a person looks at.",
            # Zalando's RESTful API guidelines, rule 112: today's values of a set that may grow.
            "x-extensible-enum": [code.value for code in ReasonCode],
            "examples": [ReasonCode.TASK_FAILED.value],
        }
    )


class Reason(Message):
    """Why: a stable code and a sentence."""

    code: Annotated[ReasonCode, _open_set()]
    message: str = Field(
        description="For people; the wording may change in any release.", examples=["The job is being edited"]
    )


class JobSeen(Message):
    """The job as Enterprise Manager showed it, or, if it was not read, as the command named it."""

    model_config = ConfigDict(title="Job")

    id: str | None = Field(None, description="Its bare UUID, lower-case.")
    name: str | None = Field(None, description="Its name.")


class RepositorySeen(Message):
    """The repository and its link as Enterprise Manager showed them, or, if not read, as the command named them."""

    model_config = ConfigDict(title="Repository")

    link_id: str | None = Field(None, description="The link's `ObjectInJobId`.")
    uid: str | None = Field(None, description="The repository's bare UUID, lower-case.")
    name: str | None = Field(None, description="The repository's name.")


class LinkedBackupSeen(Message):
    """A linked backup that an edit of the job drops."""

    model_config = ConfigDict(title="Linked backup")

    link_id: str = Field(description="Its `ObjectInJobId`.")
    uid: str | None = Field(None, description="Its UID.")
    name: str | None = Field(None, description="Its name.")


class TaskSeen(Message):
    """Enterprise Manager's task. Its ID means something only in the logon session that started it."""

    model_config = ConfigDict(title="Task")

    id: str = Field(description="Such as `task-1`: a small counter of one logon session, no ID to look up later.")
    operation: str | None = Field(None, description="What Enterprise Manager calls it.", examples=["UpdateJob"])
    message: str | None = Field(None, description="Its result in Enterprise Manager's words.", examples=["Ok"])


class RequestSeen(Message):
    """Who asked for it, and why. What a message says itself is not verified; `user_id` is."""

    model_config = ConfigDict(title="Request")

    requested_by: str | None = Field(None, description="The command's.")
    reason: str | None = Field(None, description="The command's: why it was asked for.")
    user_id: str | None = Field(
        None,
        description="The broker user who published the command, as the broker verified it; null if the message did "
        "not name one.",
    )
    retried_by: str | None = Field(
        None,
        description="Who asked for this run, from run 2 on: `requested_by` of the retry, or else its broker user.",
    )
    cancelled_by: str | None = Field(
        None,
        description="Who asked to cancel this run, whether or not it was stopped: `requested_by` of the cancel, or "
        "else its broker user.",
    )


class EventData(Message):
    """What an event says. Every field is always there; null means not known, or not applicable."""

    idempotency_key: str | None = Field(description="The command's; null if it could not be read.")
    enterprise_manager: str = Field(
        description="The Enterprise Manager's configured name; where none is configured, the command's routing key, or "
        f"`{UNKNOWN_NAME}` if that is no valid name."
    )
    outcome: Outcome = Field(description="What became of the command.")
    changed: bool | None = Field(
        None,
        description="True if the link was there when the command was started and is known to be gone since; false if "
        "nothing was changed; null if that is not known.",
    )
    evidence: Evidence | None = Field(
        None, description="How it is known: the task's result, a look at the job's links, or no link from the start."
    )
    verified: bool | None = Field(
        None,
        description="Whether the job's list of links was seen without the link. With `succeeded` and false, the task "
        "succeeded, and the list still showed the link or could not be read.",
    )
    job: JobSeen | None = Field(None, description="The backup copy job.")
    repository: RepositorySeen | None = Field(None, description="The repository and its link.")
    linked_backups_removed: list[LinkedBackupSeen] = Field(
        default_factory=list, description="The linked backups that the edit drops; in a plan, those that it would drop."
    )
    task: TaskSeen | None = Field(None, description="Enterprise Manager's task.")
    reason: Reason | None = Field(None, description="Why the link was not removed.")
    summary: Annotated[str, Field(max_length=MAX_SUMMARY)] | None = Field(
        None,
        description="One sentence for a person: what became of the link, and how that is known. The wording may change "
        "in any release.",
    )
    close_code: CloseCode | None = Field(
        None,
        description="How to close a ticket. `done`: the link was removed; `nothing_to_do`: there was no link to "
        "remove; `not_done`: it was not removed, as after a dry run; `unknown`: it is not known whether it was "
        "removed; `refused`: the command was rejected, or a dry run found that it would not be carried out. Null "
        "while it has not ended.",
    )
    requested_by: str | None = Field(None, description="The command's.")
    ticket: Ticket | None = Field(None, description="The command's.")
    labels: dict[str, str] = Field(default_factory=dict, description="The command's.")
    correlation_id: str | None = Field(
        None, description="The command's; without it, that of the AMQP property, and without that the key."
    )
    attempts: int = Field(1, description="How many times a worker started the command, in this run.")
    run: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Which run of the command it is: 1, and one more for each retry. Null where nothing was run, as "
        "of a rejected command or a dry run.",
    )
    batch: Batch | None = Field(None, description="The command's; null for a dry run, which belongs to no batch.")
    request: RequestSeen = Field(default_factory=RequestSeen, description="Who asked for it, and why.")
    received_at: AwareDatetime = Field(description="When a worker first received it.")
    submitted_at: AwareDatetime | None = Field(
        None, description="When Enterprise Manager had answered the DELETE with a task."
    )
    finished_at: AwareDatetime | None = Field(None, description="When the outcome was known; null while it is not.")


class Envelope(Message):
    """The attributes of every CloudEvent of the worker: all but `data`."""

    specversion: Literal["1.0"] = Field("1.0", title="CloudEvents version", description="Of the envelope.")
    id: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)] = Field(
        description="`/unlink-worker/<enterprise manager>`.", examples=["/unlink-worker/default"]
    )
    type: str
    subject: str | None
    time: AwareDatetime = Field(description="When the event was made.")
    datacontenttype: Literal["application/json"] = Field(
        "application/json", title="Content type of the data", description="Always JSON."
    )

    def to_bytes(self) -> bytes:
        """The message body: JSON, UTF-8. CloudEvents attributes that are null are left out, as the format asks.

        A lone surrogate becomes a question mark: UTF-8 cannot encode it, and a server's JSON may contain one.
        """
        left_out = {"subject"} if self.subject is None else None
        try:
            return self.model_dump_json(exclude=left_out).encode()
        except PydanticSerializationError:
            content = json.dumps(self.model_dump(mode="json", exclude=left_out), ensure_ascii=False)
            return content.encode("utf-8", "replace")


class Event(Envelope):
    """A CloudEvent about one command. A repeat has the same `id`: drop it by that."""

    id: Annotated[str, Field(min_length=1)] = Field(
        description="The same however often the event comes: a UUIDv5 of the idempotency key, the type and, from run "
        "2 on, the run. Of a `rejected`: of the message's bytes. Each dry run has a new one."
    )
    type: str = Field(description="`unlink.<outcome>.v1`.")
    subject: str | None = Field(
        None, description="The idempotency key of the command; left out if that could not be read."
    )
    data: EventData

    @property
    def terminal(self) -> bool:
        """Whether it ends the command."""
        return self.data.outcome.terminal

    @property
    def routing_key(self) -> str:
        """`<outcome>.<enterprise manager>`, e.g. `succeeded.default`."""
        return f"{self.data.outcome}.{self.data.enterprise_manager}"


def source_of(enterprise_manager: str) -> str:
    """The CloudEvents `source` of an Enterprise Manager's events."""
    return f"/unlink-worker/{enterprise_manager}"


def event_id(idempotency_key: str, outcome: Outcome, run: int = 1) -> str:
    """The ID of an event of a run. A repeat of the event has the same ID."""
    of_run = f"\n{run}" if run > 1 else ""
    return str(uuid.uuid5(EVENT_NAMESPACE, f"{idempotency_key}\n{outcome.event_type}{of_run}"))


def plan_id(idempotency_key: str, arrived_at: datetime) -> str:
    """The ID of a `planned` event. It depends on when the command came, since each dry run may find something else."""
    instant = arrived_at.astimezone(UTC).isoformat()
    return str(uuid.uuid5(EVENT_NAMESPACE, f"{idempotency_key}\n{Outcome.PLANNED.event_type}\n{instant}"))


def rejection_id(body: bytes) -> str:
    """The ID of a `rejected` event, from the message's bytes, since its key may be unreadable or another command's."""
    digest = hashlib.sha256(body).hexdigest()
    return str(uuid.uuid5(EVENT_NAMESPACE, f"sha256:{digest}\n{Outcome.REJECTED.event_type}"))
