"""The steps that the core reports: each step of a delivery once, as one frozen record.

Log lines, metrics and spans are written only from these records: see `worker.telemetry`. The ledger's history is
written from its own change records (`worker.unlinks.ports.ledger.Change`), in the transaction of the change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from worker.unlinks.ports.broker import Delivery

if TYPE_CHECKING:
    from contracts.commands import UnlinkCommand
    from contracts.events import Event


class StepKind(StrEnum):
    """What happened. The comment names the facts that come with it."""

    RECEIVED = "received"  # with the delivery, and if it can be read its key; of an unlink: job, repository, ticket
    IDENTIFIED = "identified"  # job, repository, ticket: of the stored command, which a delivery is about
    ANSWERED = "answered"  # nothing more will be done about the delivery here
    JOINED = "joined"  # live: how many deliveries now wait for one end
    DENIED = "denied"  # user_id, job_id, problem
    REJECTED = "rejected"  # reason, problem

    CLAIMING = "claiming"
    CLAIMED = "claimed"
    TOOK_OVER = "took_over"
    RUN_STARTED = "run_started"  # run
    SETTLED_BEFORE = "settled_before"
    HELD_ELSEWHERE = "held_elsewhere"
    AWAITING_LEASE = "awaiting_lease"  # seconds: how long the lease of the worker that had the key lasts yet
    KEY_REUSED = "key_reused"
    LEASE_LOST = "lease_lost"
    RELEASED = "released"

    LOOKING = "looking"
    ABSENT = "absent"  # job_id
    INTENDING = "intending"
    SENDING = "sending"  # job_id, link_id, send
    NOT_SENT = "not_sent"  # problem
    ANSWER_LOST = "answer_lost"  # problem
    SUBMITTED = "submitted"  # job_id, task_id
    PROGRESS_LOST = "progress_lost"  # problem: the event `submitted` was not published
    RESUMED = "resumed"  # stage, attempt
    FOLLOWING = "following"
    TASK_FAILED = "task_failed"  # task_id, problem
    TASK_UNKNOWN = "task_unknown"  # task_id, problem
    VERIFYING = "verifying"
    LINKS_UNREAD = "links_unread"  # job_id, problem
    AWAITING_LINKS = "awaiting_links"  # job_id, seconds, then: what follows if the link is still listed after them
    STOPPING = "stopping"  # task_id
    STOPPING_TASK = "stopping_task"
    TASK_NOT_STOPPED = "task_not_stopped"  # task_id, problem
    WAITING = "waiting"  # problem: Enterprise Manager does not answer

    SETTLING = "settling"
    SETTLED = "settled"  # with the event
    PLANNED = "planned"  # with the event
    PUBLISHING = "publishing"
    PUBLISHED = "published"  # with the event, unless it is the stored one of a key that was settled before
    BATCH_ENDED = "batch_ended"  # batch, size, and how many members ended with each outcome
    DEAD_LETTERING = "dead_lettering"
    DEAD_LETTERED = "dead_lettered"  # reason
    DELAYING = "delaying"
    DEFERRED = "deferred"  # the copy is in a delay queue; the command has not failed
    RETRIED = "retried"  # the copy is in a delay queue, after a failure
    DEFERRING = "deferring"  # why, seconds
    UNPUBLISHED = "unpublished"  # refusals, problem, seconds: the answer is published again after them
    ATTEMPT_FAILED = "attempt_failed"  # attempt, problem, with the error
    GAVE_UP = "gave_up"  # attempt, with the error
    LEFT = "left"  # the worker stops; the broker delivers it again
    REQUEUED = (
        "requeued"  # problem, with the error: neither answered nor delayed, it returns to its queue after a pause
    )
    CUT_OFF = "cut_off"  # problem: as LEFT, and a connection that it used was closed

    CANCEL_RECORDED = "cancel_recorded"  # requested_by
    CANCELLED_TOO_LATE = "cancelled_too_late"


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `facts` are for the log, under the names that the log uses (`worker/telemetry/EVENTS.md`)."""

    kind: StepKind
    enterprise_manager: str
    key: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    delivery: Delivery | None = None
    event: Event | None = None
    error: BaseException | None = None


class Steps(Protocol):
    """Receives each step at once, in the task that takes it. Must not raise."""

    def report(self, step: Step) -> None:
        """Receive a step."""
        ...


@dataclass(frozen=True, slots=True)
class Reporter:
    """Reports the steps of one delivery."""

    steps: Steps
    enterprise_manager: str
    key: str | None = None

    def __call__(
        self,
        kind: StepKind,
        *,
        delivery: Delivery | None = None,
        event: Event | None = None,
        error: BaseException | None = None,
        **facts: Any,
    ) -> None:
        """Report a step."""
        self.steps.report(Step(kind, self.enterprise_manager, self.key, facts, delivery, event, error))

    def identified(self, command: UnlinkCommand) -> None:
        """Report which stored command the delivery is about."""
        self.steps.report(Step(StepKind.IDENTIFIED, self.enterprise_manager, self.key, command.known_by))
