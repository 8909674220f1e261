"""The log lines of an unlink: one for each step that matters to operators."""

from __future__ import annotations

from typing import Final

import structlog

from worker.unlinks.ports.steps import Step, StepKind

_log = structlog.get_logger()

#: The event and the level of each step. Other steps are not logged.
STEP_EVENTS: Final = {
    StepKind.JOINED: ("unlink.redelivered", "info"),
    StepKind.DENIED: ("command.denied", "warning"),
    StepKind.REJECTED: ("command.rejected", "warning"),
    StepKind.RUN_STARTED: ("unlink.run_started", "info"),
    StepKind.SETTLED_BEFORE: ("unlink.settled_before", "info"),
    StepKind.AWAITING_LEASE: ("unlink.awaiting_lease", "info"),
    StepKind.CANCELLED_TOO_LATE: ("unlink.settled_before", "info"),
    StepKind.CANCEL_RECORDED: ("unlink.cancel_recorded", "info"),
    StepKind.RESUMED: ("unlink.resumed", "info"),
    StepKind.ABSENT: ("unlink.absent", "info"),
    StepKind.SENDING: ("unlink.sending", "info"),
    StepKind.NOT_SENT: ("unlink.not_sent", "warning"),
    StepKind.ANSWER_LOST: ("unlink.answer_lost", "warning"),
    StepKind.SUBMITTED: ("unlink.submitted", "info"),
    StepKind.PROGRESS_LOST: ("unlink.progress_lost", "warning"),
    StepKind.TASK_FAILED: ("unlink.task_failed", "warning"),
    StepKind.TASK_UNKNOWN: ("unlink.task_unknown", "warning"),
    StepKind.TASK_NOT_STOPPED: ("unlink.task_not_stopped", "warning"),
    StepKind.AWAITING_LINKS: ("unlink.awaiting_links", "info"),
    StepKind.STOPPING: ("unlink.stopping", "info"),
    StepKind.LINKS_UNREAD: ("unlink.links_unread", "warning"),
    StepKind.WAITING: ("unlink.waiting_for_enterprise_manager", "warning"),
    StepKind.SETTLED: ("unlink.finished", "info"),
    StepKind.PLANNED: ("unlink.finished", "info"),
    StepKind.BATCH_ENDED: ("batch.ended", "info"),
    StepKind.DEFERRING: ("unlink.deferred", "info"),
    StepKind.UNPUBLISHED: ("unlink.unpublished", "warning"),
    StepKind.ATTEMPT_FAILED: ("unlink.attempt_failed", "error"),
    StepKind.GAVE_UP: ("unlink.gave_up", "error"),
    StepKind.LEASE_LOST: ("unlink.lease_lost", "warning"),
    StepKind.LEFT: ("unlink.left_to_redelivery", "info"),
    StepKind.REQUEUED: ("unlink.requeued", "error"),
    StepKind.CUT_OFF: ("unlink.left_to_redelivery", "warning"),
}


class StepLog:
    """Writes a log line for each step in `STEP_EVENTS`.

    It also binds context variables: every log line of a delivery's asyncio task, from any module, has the fields of its
    Enterprise Manager, key, job, repository and ticket.
    """

    def report(self, step: Step) -> None:
        """Log a step."""
        if step.kind is StepKind.RECEIVED:
            names = {} if step.key is None else {"idempotency_key": step.key}
            if step.delivery is not None and step.delivery.misrouting is not None:
                names["routing_key"] = step.delivery.misrouting.routing_key
            structlog.contextvars.bind_contextvars(enterprise_manager=step.enterprise_manager, **names, **step.facts)
        elif step.kind is StepKind.IDENTIFIED:
            structlog.contextvars.unbind_contextvars("job", "repository", "ticket")
            structlog.contextvars.bind_contextvars(**step.facts)
        elif step.kind in STEP_EVENTS:
            event, level = STEP_EVENTS[step.kind]
            error = {} if step.error is None else {"exc_info": step.error}
            getattr(_log, level)(event, **step.facts, **error)
