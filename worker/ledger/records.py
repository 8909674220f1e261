"""The records that `status KEY` shows: everything that the ledger holds about one key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from contracts.events import Outcome
from worker.unlinks.ports.ledger import CancelRequest, Entry


class Step(StrEnum):
    """What was recorded about a key."""

    CLAIMED = "claimed"
    TAKEN_OVER = "taken_over"
    INTENDED = "intended"
    JOB_BUSY = "job_busy"
    WITHDRAWN = "withdrawn"
    SENT_AGAIN = "sent_again"
    SUBMITTED = "submitted"
    SETTLED = "settled"
    RELEASED = "released"
    RUN_STARTED = "run_started"
    CANCEL_REQUESTED = "cancel_requested"


_WORDS: Final = {
    Step.CLAIMED: "taken up",
    Step.TAKEN_OVER: "taken up again, {detail} by then",
    Step.INTENDED: "DELETE to be sent, of link {detail}",
    Step.JOB_BUSY: "deferred: another unlink of the job is under way",
    Step.WITHDRAWN: "the DELETE did not leave",
    Step.SENT_AGAIN: "the same DELETE to be sent again",
    Step.SUBMITTED: "Enterprise Manager is at work: {detail}",
    Step.SETTLED: "ended: {detail}",
    Step.RUN_STARTED: "started again, as run {detail}",
    Step.RELEASED: "released, for any worker to take up",
    Step.CANCEL_REQUESTED: "asked to cancel, by {detail}",
}


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause: no worker consumes this Enterprise Manager's queue. Unlinks under way continue."""

    enterprise_manager: str
    paused_by: str | None
    reason: str | None
    paused_at: datetime


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One step, with the worker that recorded it and its fencing token (0: none).

    `detail` is for people. A `step` that is none of `Step` was written by a newer version of this program. `trace_id`
    is in the log lines of what followed; it is recorded with the steps that begin or continue a run.
    """

    at: datetime
    worker: str
    token: int
    step: Step | str
    detail: str | None = None
    trace_id: str | None = None

    @property
    def in_words(self) -> str:
        """What happened, for people."""
        words = _WORDS.get(self.step, str(self.step)) if isinstance(self.step, Step) else self.step
        return words.replace("{detail}", self.detail or "an unnamed user")


@dataclass(frozen=True, slots=True)
class Record:
    """A key's row. `outcome`, `event` and `finished_at` are there once it is settled.

    `user_id` is the broker user who published the command, as the broker verified it. `cancellation` is the request to
    cancel its run.
    """

    entry: Entry
    fingerprint: str
    enterprise_manager: str
    command: bytes
    worker: str | None
    lease_until: datetime
    updated_at: datetime
    outcome: Outcome | None = None
    event: bytes | None = None
    finished_at: datetime | None = None
    user_id: str | None = None
    cancellation: CancelRequest | None = None


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """A key's row, and the steps recorded about it, oldest first: the newest `MOST_STEPS` of them.

    `steps_complete`: there are no earlier ones. No row, but requests to cancel: they came before the unlink did.
    """

    record: Record | None
    steps: tuple[RecordedStep, ...]
    cancellations: tuple[CancelRequest, ...] = ()
    steps_complete: bool = True

    @property
    def trace_ids(self) -> tuple[str, ...]:
        """The values of `trace_id` in the log lines about the key, oldest first; each once."""
        return tuple(dict.fromkeys(step.trace_id for step in self.steps if step.trace_id is not None))


#: A command that waits for a busy job for days is claimed and released many times.
MOST_STEPS = 500
