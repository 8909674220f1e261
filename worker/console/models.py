"""The models of the API's answers. Times are RFC 3339 in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from contracts.commands import EnterpriseManagerName, RepositoryReference, Run, Ticket
from worker.console.keys import storable


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class WrongField(_Model):
    """A field of the request, and what is wrong with it."""

    field: str
    message: str


class ProblemDocument(_Model):
    """Why a request was not carried out (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="One sentence for a person.")
    errors: list[WrongField] = Field(default=[], description="Each wrong field, if the request has any.")


class JobItem(_Model):
    """The backup copy job: as Enterprise Manager listed it, or as the command named it."""

    id: str | None
    name: str | None


class RepositoryItem(_Model):
    """The repository and its link: as Enterprise Manager listed them, or as the command named them."""

    link_id: str | None
    uid: str | None
    name: str | None


class TicketItem(_Model):
    """The command's ticket."""

    system: str | None
    id: str | None
    url: str | None


class RequestItem(_Model):
    """Who asked, and why; who retried and who cancelled. Each user ID is the broker user, verified by the broker."""

    requested_by: str | None
    reason: str | None
    user_id: str | None
    retried_by: str | None
    retry_user_id: str | None
    cancelled_by: str | None
    cancel_user_id: str | None


class BackupItem(_Model):
    """A linked backup that was seen before the DELETE."""

    link_id: str | None
    uid: str | None
    name: str | None


class TaskItem(_Model):
    """Enterprise Manager's task."""

    id: str


class UnlinkItem(_Model):
    """One unlink."""

    href: str = Field(description="Where it is, with its steps.")
    idempotency_key: str
    stage: str = Field(description="How far it has come: claimed, intended, submitted or settled.")
    outcome: str | None = Field(description="Null while it has not ended.")
    enterprise_manager: str
    job: JobItem
    repository: RepositoryItem
    ticket: TicketItem | None
    batch: str | None = Field(description="The ID of the batch that the command names.")
    request: RequestItem
    linked_backups: list[BackupItem]
    task: TaskItem | None
    run: int
    attempts: int
    sends: int
    received_at: datetime
    sent_at: datetime | None
    submitted_at: datetime | None
    finished_at: datetime | None
    worker: str | None
    command: dict[str, Any] = Field(description="The stored command.")
    event: dict[str, Any] | None = Field(description="The terminal event, a CloudEvent; null while there is none.")


class UnlinkList(_Model):
    """A page of a list, newest first."""

    items: list[UnlinkItem]
    next: str | None = Field(description="The next page; null on the last one.")
    complete: bool = Field(
        description="False while keys from before an upgrade are still being made searchable, and may be missing."
    )


class StepItem(_Model):
    """One recorded step."""

    at: datetime
    step: str
    detail: str | None
    worker: str
    token: int
    trace_id: str | None = Field(description="In the log lines of what followed; with a claim, or the start of a run.")


class StepEvent(_Model):
    """A step, as a server-sent event has it."""

    idempotency_key: str
    href: str
    at: datetime
    step: str
    detail: str | None
    worker: str
    event: dict[str, Any] | None = Field(description="The terminal event, a CloudEvent, if the step is an end.")


class CancellationItem(_Model):
    """A request to cancel."""

    enterprise_manager: str
    requested_by: str | None
    user_id: str | None = Field(description="The broker user, verified by the broker, or `console:<name>`.")
    reason: str | None
    requested_at: datetime
    run: int | None


class UnlinkDetail(UnlinkItem):
    """One unlink with everything that is recorded about it."""

    steps: list[StepItem]
    steps_complete: bool = Field(description="False if there are more than these, which are the newest.")
    cancellations: list[CancellationItem]


class BatchItem(_Model):
    """A batch: the commands of one sender for one Enterprise Manager that belong together."""

    enterprise_manager: str
    sender: str | None = Field(description="The broker user, verified by the broker, or `console:<name>`.")
    size: int
    missing: int = Field(description="How many of its commands no worker has received.")
    under_way: int
    ended: dict[str, int] = Field(description="How many commands have ended, by outcome.")


class BatchMemberItem(_Model):
    """A command of a batch."""

    href: str | None = Field(description="The unlink; null if the command was rejected, or its key was pruned.")
    idempotency_key: str
    enterprise_manager: str
    sender: str | None
    outcome: str | None = Field(description="Null while it has not ended.")
    ended_at: datetime | None
    job: JobItem | None
    repository: RepositoryItem | None


class BatchDetail(_Model):
    """The batches of an ID (of each Enterprise Manager and sender that used it), and a page of their commands."""

    href: str
    id: str
    batches: list[BatchItem]
    members: list[BatchMemberItem]
    next: str | None = Field(description="The next page of `members`; null on the last one.")


class LinkItem(_Model):
    """A link, and the job that has it."""

    job: JobItem
    repository: RepositoryItem
    linked_backups: list[str] = Field(description="The linked backups of the job: any edit of the job drops them.")


class LinkList(_Model):
    """Links, by job name."""

    items: list[LinkItem]
    unread: list[str] = Field(description="Jobs that could not be read, and why: links of theirs may be missing.")


class Why(BaseModel):
    """The body of a request that steers: why, for others to read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    reason: Annotated[str, AfterValidator(storable)] | None = Field(None, max_length=1000)


class WhyAndRun(Why):
    """The body of a request that steers a run."""

    run: Run | None = Field(
        None, description="The run that is meant, so that a request that is sent again steers no later one (409)."
    )


class OffboardingOrder(BaseModel):
    """A repository that no job is to be linked to any more."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    enterprise_manager: EnterpriseManagerName = "default"
    repository: RepositoryReference = Field(description="By `uid` or by `name`.")
    dry_run: bool = Field(False, description="Give the plan, and order nothing.")
    plan: str | None = Field(
        None, max_length=64, description="That of a plan: if the links have changed since, nothing is ordered (409)."
    )
    allow_linked_backups_removal: bool = Field(False, description="Consent to the loss of the jobs' linked backups.")
    ticket: Ticket | None = None
    requested_by: str | None = Field(None, max_length=200)
    reason: str | None = Field(None, max_length=1000)


class OffboardingItem(_Model):
    """The links to a repository, and the batch of commands that removes them."""

    href: str | None = Field(description="The batch; null if there is no link.")
    batch: str | None
    plan: str = Field(description="To be sent with the order, so that it removes no other links.")
    enterprise_manager: str
    jobs: int
    links: int
    linked_backups_at_risk: int
    items: list[LinkItem]
    unread: list[str] = Field(description="Jobs that could not be read, and why: links of theirs may be missing.")
    ordered: int = Field(description="How many commands are on the queue.")


class PauseItem(_Model):
    """Who paused an Enterprise Manager, when, and why."""

    paused_by: str | None
    reason: str | None
    paused_at: datetime


class SightItem(_Model):
    """The state of an Enterprise Manager, as one worker reports it."""

    worker: str
    up: bool
    since: datetime
    problem: str | None


class ManagerItem(_Model):
    """An Enterprise Manager, as the workers and the ledger report it."""

    name: str
    up: bool | None = Field(description="Whether some worker finds it up; null if no worker runs.")
    paused: PauseItem | None
    under_way: int = Field(description="Commands that were taken up and have not ended.")
    tasks: int = Field(description="Those of them whose DELETE was answered with a task.")
    oldest_received_at: datetime | None
    waiting: int | None = Field(
        description="Commands on its queue, without those in the delay queues; null if that is not known."
    )
    workers: list[SightItem]


class DeadLetterItem(_Model):
    """A dead letter."""

    id: str = Field(description="SHA-256 of its properties and body.")
    href: str
    reason_code: str
    reason: str | None
    enterprise_manager: str
    idempotency_key: str | None
    since: str | None
    properties: dict[str, Any]
    body: str | None = Field(description="Null if it is not UTF-8. At most 20,000 characters.")


class DeadLetterList(_Model):
    """The dead letters that were read, oldest first."""

    items: list[DeadLetterItem]
    complete: bool = Field(description="False if there are more than were read.")
    unread: int = Field(description="How many were not read. They follow once some of these are replayed or discarded.")


class ReplayItem(_Model):
    """The result of a replay."""

    replayed: int
    left: dict[str, int] = Field(description="How many stay where they are, by the reason.")


class DiscardItem(_Model):
    """The result of a discard."""

    discarded: int


class PausedItem(_Model):
    """Whether an Enterprise Manager is paused now."""

    name: str
    paused: bool


class ManagerList(_Model):
    """All Enterprise Managers that workers or the ledger know."""

    items: list[ManagerItem]


class OrderedItem(_Model):
    """A command that is on its queue."""

    href: str | None = Field(
        description="The unlink, once a worker has taken it up. Null for a dry run, which leaves no trace."
    )
    idempotency_key: str
    enterprise_manager: str
    event: dict[str, Any] | None = Field(description="The terminal event, if it came while it was waited for.")
