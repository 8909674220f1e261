"""The workflow of one unlink, from the claim to the ending: look, intend, DELETE, follow, verify.

It reads top to bottom. `dispatcher` reads and authorizes the command before; `runs` claims the key before, and settles
and answers after. Each step that must survive a crash is in the ledger before the next one is taken.

More than 400 lines: the path of one unlink is one text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace

from contracts.commands import UnlinkCommand
from contracts.events import Evidence, ReasonCode
from worker.unlinks.consent import reason_against
from worker.unlinks.following import Follower
from worker.unlinks.job_locks import JobLocks
from worker.unlinks.meaning import Meaning
from worker.unlinks.not_before import require_started
from worker.unlinks.outcome import Ending, already_absent, cancelled, failed, planned, succeeded, timed_out
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import (
    AnswerLost,
    EnterpriseManager,
    EnterpriseManagerError,
    Job,
    LinkedBackup,
    LinkNotFound,
    NotSent,
    Refused,
    Task,
    TaskNotFound,
    TaskTicket,
    Unavailable,
)
from worker.unlinks.ports.ledger import (
    CancelRequestedError,
    Entry,
    Intended,
    Intent,
    LeaseLostError,
    Ledger,
    SentAgain,
    Stage,
    Submitted,
    Withdrawn,
)
from worker.unlinks.ports.steps import Reporter, StepKind
from worker.unlinks.rules import Pace
from worker.unlinks.waiting import ENDS_OF_WAITS, Answer, DeadlinePassedError, DeferredError, Departure, Waiting

#: How often the same DELETE is sent at most, including the first time, if its answers are lost.
MOST_SENDS = 3
#: For how long, in seconds, a DELETE may still be written after the check that it may.
MAY_SEND_SECONDS = 1.0
#: How long a command waits, in seconds, when another worker has an unlink of the same job under way.
BUSY_JOB_SECONDS = 5.0

_WHY_NOT_SENT: dict[type[BaseException], str] = {
    CancelRequestedError: "a cancel was requested",
    DeadlinePassedError: "the command's timeout was over before it could leave",
}


class _NotSentError(Exception):
    """The DELETE certainly did not leave."""


@dataclass(slots=True)
class Workflow:
    """One unlink under way in this worker. `entry` is what the ledger knows of it; a dry run has no ledger.

    `authorized` is the job that was read for the authorization, if it was read; the command then means only that job.
    """

    command: UnlinkCommand
    entry: Entry
    enterprise_manager: EnterpriseManager
    ledger: Ledger
    job_locks: JobLocks
    waiting: Waiting
    clock: Clock
    pace: Pace
    on_submitted: Callable[[Entry, Task | None], None]
    report: Reporter
    authorized: Job | None = None
    follow: Follower = field(init=False)
    sent: float | None = field(init=False)
    seen: Intent | None = None  # what was looked at last, recorded or not
    stopping: bool = False
    #: When the last DELETE that may have been carried out was answered, or its answer lost, here; and when this worker
    #: began to work on the unlink. By the monotonic clock.
    answered: float | None = None
    began: float = field(init=False)
    #: Whether a DELETE of an earlier run may still take effect or has taken effect; and the end of its settling time,
    #: by the monotonic clock.
    earlier_may_act: bool = field(init=False)
    earlier_has_settled: float = field(init=False)

    def __post_init__(self) -> None:
        self.follow = Follower(self.enterprise_manager, self.waiting, self.clock, self.pace, self.report)
        # When the DELETE was recorded, by the monotonic clock here: clocks of other hosts may differ from this one's.
        self.began = self.clock.monotonic()
        since = self.entry.since_sent
        self.sent = None if since is None else self.clock.monotonic() - since
        self.earlier_may_act = self.entry.may_act and self.entry.intent is not None
        self.earlier_has_settled = self.clock.monotonic() + self.pace.settling - self.entry.age

    async def to_ending(self) -> Ending:
        """Run the unlink from its stage in the ledger to its end.

        Raises:
            DeferredError: not now.
            LeavingError: the worker is to stop.
            LeaseLostError: another worker has the key now.
            UnansweredError: Enterprise Manager is available and does not answer.
        """
        ending = await self._to_ending()
        unknown = ending.changed is False and self.earlier_may_act
        return replace(ending, changed=None) if unknown else ending

    async def _to_ending(self) -> Ending:
        try:
            if self.entry.stage is not Stage.CLAIMED:
                self.waiting.heeds_cancel = False  # first resume what was sent
                async with self._hold(self._intent.job_id):
                    self.waiting.heeds_cancel = True
                    return await self._resume()
            return await self._start_until_sent()
        except Refused as no:
            changed = False if self.entry.sends == 0 else None
            return failed(no.code, no.message, changed=changed, seen=self.entry.intent or self.seen)
        except CancelRequestedError:  # after a DELETE was sent, it is caught where the links decide
            return cancelled(self.entry.intent)

    def require_lease(self) -> None:
        """Stop before anything is sent if another worker may have the key: an answer of the ledger may be outdated."""
        if not self.ledger.alive(self.entry.lease):
            raise LeaseLostError

    async def _start_until_sent(self) -> Ending:
        while True:
            with suppress(_NotSentError):
                return await self._start()
            await self.waiting.until(self.enterprise_manager.until_available())
            await self.waiting.wait(self.clock.jitter(1))

    # --- from the start ---------------------------------------------------------------------------------------------

    async def _start(self) -> Ending:
        """Look, intend, send, follow.

        Raises:
            _NotSentError: the DELETE certainly did not leave; the key is back at its start.
        """
        self.waiting.require_not_cancelled()
        if self._expired():
            return self._too_late()
        self.report(StepKind.LOOKING)
        meaning = Meaning(self.command, self.entry.intent, self.authorized, self.enterprise_manager, self._ask)
        job = await meaning.job()
        if self.earlier_may_act and await self._gone_by_an_earlier_run():
            return succeeded(self.entry.intent, Evidence.LINKS, verified=True)
        async with self._hold(job.id):
            link = await meaning.link(job)
            if link is None:
                return self._absent(job)
            backups = tuple(await self._ask(lambda: self.enterprise_manager.linked_backups(job)))
            self.seen = intent = Intent(job_id=job.id, job_name=job.name, link=link, linked_backups=backups)
            if self.command.dry_run:
                return planned(intent, reason_against(self.command, backups))
            self._require_consent(backups)
            if self._expired():
                return self._too_late()
            require_started(self.command, self.clock.now())
            await self._intend(intent)
            return await self._send()

    async def _gone_by_an_earlier_run(self) -> bool:
        """Wait for the settling time of an earlier run's DELETE. Return whether the link is gone by then."""
        left = max(self.earlier_has_settled - self.clock.monotonic(), 0.0)
        then = "the DELETE of this run is sent"
        self.report(StepKind.AWAITING_LINKS, job_id=self._intent.job_id, seconds=left, then=then)
        return await self.follow.gone_by(left, self._intent)

    def _absent(self, job: Job) -> Ending:
        if self.earlier_may_act:
            return succeeded(self.entry.intent, Evidence.LINKS, verified=True)
        self.report(StepKind.ABSENT, job_id=job.id)
        if self.command.if_absent == "fail":
            return failed(ReasonCode.LINK_ABSENT, f"job {job.name or job.id!r} has no such link", job=job)
        return already_absent(job)

    def _require_consent(self, backups: tuple[LinkedBackup, ...]) -> None:
        against = reason_against(self.command, backups)
        if against is not None:
            raise Refused(against.code, against.message)

    def _expired(self) -> bool:
        return self.command.not_after is not None and self.clock.now() > self.command.not_after

    def _too_late(self) -> Ending:
        return failed(ReasonCode.EXPIRED, f"not started by {self.command.not_after}, as not_after asks")

    async def _intend(self, intent: Intent) -> None:
        self.report(StepKind.INTENDING)
        sent_at = self.clock.now()
        free = await self._record_send(Intended(intent, sent_at))
        self.entry = replace(self.entry, intent=intent)
        if not free:
            raise DeferredError("another worker has an unlink of this job under way", BUSY_JOB_SECONDS)
        self.entry = replace(self.entry, stage=Stage.INTENDED, sent_at=sent_at, sends=self.entry.sends + 1)
        self.sent = self.clock.monotonic()
        self._start_the_deadline()

    # --- the DELETE -------------------------------------------------------------------------------------------------

    async def _record_send(self, change: Intended | SentAgain) -> bool:
        """Record that the next DELETE is about to be sent. If this is cut off, it is not sent, and must not count."""
        try:
            return await self.ledger.record(self.entry.lease, change)
        except asyncio.CancelledError:
            await self.ledger.record(self.entry.lease, Withdrawn(self.entry.sends + 1))
            raise

    async def _send(self) -> Ending:
        """Send the recorded DELETE once, and continue to the end."""
        try:
            task = await self._exchange()
        except (Unavailable, NotSent, DeadlinePassedError, CancelRequestedError) as why:
            return await self._unsent(why)
        except AnswerLost as error:
            self.answered = self.clock.monotonic()
            self.report(StepKind.ANSWER_LOST, problem=str(error))
            return await self._let_the_links_decide()
        except LinkNotFound:
            return await self._link_not_found()
        except Refused as no:
            return await self._refused(no)
        self.answered = self.clock.monotonic()
        await self._submitted(task)
        return await self._follow(task.ticket)

    async def _exchange(self) -> Task:
        """Send the DELETE, and withdraw it if it certainly did not leave."""
        link_id = self._intent.link.object_in_job_id

        def send(departure: Departure) -> Awaitable[Task]:
            job_id = self._intent.job_id
            return self.enterprise_manager.delete_link(job_id, link_id, departure.may_send, departure.unsent)

        try:
            self.require_lease()
            self.report(StepKind.SENDING, job_id=self._intent.job_id, link_id=link_id, send=self.entry.sends)
            return await self.waiting.until_sent(send, self._may_send)
        except (LeaseLostError, Unavailable, NotSent, asyncio.CancelledError, *ENDS_OF_WAITS) as why:
            if not isinstance(why, LeaseLostError):
                self.report(StepKind.NOT_SENT, problem=str(why) or _WHY_NOT_SENT.get(type(why), "the worker stops"))
            await self._withdraw()
            raise

    async def _may_send(self) -> float:
        """The last moment, by the monotonic clock, at which the DELETE may be written.

        Raises:
            LeaseLostError, DeferredError, DeadlinePassedError, CancelRequestedError, LeavingError: it may not be.
        """
        self.require_lease()
        self.waiting.require_time()
        seconds = min(MAY_SEND_SECONDS, self.ledger.seconds_left(self.entry.lease))
        if self.command.not_after is not None and self.entry.sends == 1:
            seconds = min(seconds, (self.command.not_after - self.clock.now()).total_seconds())
        return self.clock.monotonic() + seconds

    async def _withdraw(self) -> None:
        """The DELETE certainly did not leave: after the first one, the key is back at its start, and the job free."""
        await self.ledger.record(self.entry.lease, Withdrawn(self.entry.sends))
        self.entry = replace(self.entry, sends=self.entry.sends - 1)
        if not self._sent:
            self.waiting.deadline = None
            self.entry = replace(self.entry, stage=Stage.CLAIMED, sent_at=None)

    async def _unsent(self, why: Exception) -> Ending:
        """This DELETE was withdrawn; an earlier one of this run may have been carried out.

        Raises:
            _NotSentError, CancelRequestedError: there was no earlier one.
        """
        cancelled = isinstance(why, CancelRequestedError)
        if not self._sent:
            raise why if cancelled else _NotSentError
        if isinstance(why, DeadlinePassedError):
            return await self._time_is_over(None)
        if cancelled:
            await self._stop(None)
        return await self._let_the_links_decide()

    async def _link_not_found(self) -> Ending:
        """The DELETE of a link that was seen was answered with 404: it is gone by now, unless it is still listed.

        A proxy may have repeated our request, and this may be the answer to the second one.
        """
        gone = await self.follow.until_gone(self._intent)
        if gone:
            return succeeded(self.entry.intent, Evidence.LINKS, verified=True)
        known = "yet lists the link" if gone is False else "its list cannot be read"
        message = f"Enterprise Manager answers 404 to the DELETE, and {known}"
        return failed(ReasonCode.ENTERPRISE_MANAGER_ERROR, message, changed=None, seen=self.entry.intent)

    async def _refused(self, no: Refused) -> Ending:
        """This DELETE was refused; an earlier one may have been carried out, or the first of two that a proxy sent."""
        gone = await self.follow.is_gone(self._intent)
        if gone:
            return succeeded(self.entry.intent, Evidence.LINKS, verified=True)
        unchanged = gone is False and not self._sent_before
        return failed(no.code, no.message, changed=False if unchanged else None, seen=self.entry.intent)

    async def _submitted(self, task: Task) -> None:
        submitted_at = self.clock.now()
        await self.ledger.record(self.entry.lease, Submitted(task.ticket, submitted_at))
        self.entry = replace(self.entry, stage=Stage.SUBMITTED, task=task.ticket, submitted_at=submitted_at)
        self.report(StepKind.SUBMITTED, job_id=self._intent.job_id, task_id=task.ticket.task_id)
        self.require_lease()
        self.on_submitted(self.entry, task)

    # --- to the end -------------------------------------------------------------------------------------------------

    async def _resume(self) -> Ending:
        """Continue after a crash, a take-over, or a time in a delay queue."""
        self.require_lease()
        self.report(StepKind.RESUMED, stage=self.entry.stage, attempt=self.entry.attempts)
        self._start_the_deadline()
        self.follow.resumed = True
        if self.entry.stage is Stage.SUBMITTED and self.entry.task is not None:
            self.on_submitted(self.entry, None)
            return await self._follow(self.entry.task)
        return await self._let_the_links_decide()

    async def _follow(self, ticket: TaskTicket) -> Ending:
        try:
            task = await self.follow.to_its_end(ticket)
        except DeadlinePassedError:
            return await self._time_is_over(ticket)
        except CancelRequestedError:
            await self._stop(ticket)
            return await self._follow(ticket)
        except (TaskNotFound, Refused) as error:
            self.report(StepKind.TASK_UNKNOWN, task_id=ticket.task_id, problem=str(error))
            return await self._let_the_links_decide()
        if task.success:
            verified = await self.follow.until_gone(self._intent)
            return succeeded(self.entry.intent, Evidence.TASK, verified=verified is True, task=task)
        return await self._task_did_not_succeed(task)

    async def _task_did_not_succeed(self, task: Task) -> Ending:
        """`Finished` without `Success="true"`: failed, unless the link is gone.

        A repeated DELETE may fail because the first one has removed the link and the list lags.
        """
        self.report(StepKind.TASK_FAILED, task_id=task.ticket.task_id, problem=task.message)
        it_failed = task.success is False and not self._sent_before
        gone = await (self.follow.is_gone(self._intent) if it_failed else self.follow.until_gone(self._intent))
        if gone:
            return succeeded(self.entry.intent, Evidence.LINKS, verified=True, task=task)
        unchanged = gone is False and it_failed
        if self.stopping and gone is False:
            return cancelled(self.entry.intent, changed=False if unchanged else None, task=task)
        if task.success is None:
            code, message = (
                ReasonCode.ENTERPRISE_MANAGER_ERROR,
                f"the task finished without a result; {'the link is listed' if gone is False else 'no list was read'}",
            )
        else:
            code, message = ReasonCode.TASK_FAILED, task.message or "Enterprise Manager gave no message"
        return failed(code, message, changed=False if unchanged else None, task=task, seen=self.entry.intent)

    async def _let_the_links_decide(self) -> Ending:
        """The result of the DELETE is unknown: look, wait for an old task to settle, look again, send it again."""
        then = "the unlink ends as cancelled" if self.stopping else "the DELETE is sent again"
        left = self._until_settled()
        self.report(StepKind.AWAITING_LINKS, job_id=self._intent.job_id, seconds=left, then=then)
        try:
            if await self.follow.gone_by(left, self._intent):
                return succeeded(self.entry.intent, Evidence.LINKS, verified=True)
            if self.stopping:
                return cancelled(self.entry.intent, changed=None, task=self.follow.last_seen)
            if self.entry.sends >= MOST_SENDS:
                message = (
                    f"tried {self.entry.sends} times to send the DELETE, without an answer; the link is still listed"
                )
                return failed(ReasonCode.GAVE_UP, message, changed=None, seen=self.entry.intent)
            job = Job(self._intent.job_id, self._intent.job_name)
            backups = await self._ask(lambda: self.enterprise_manager.linked_backups(job))
            self._require_consent(tuple(backups))
            await self._record_send(SentAgain(self.entry.sends + 1))
        except DeadlinePassedError:
            return await self._time_is_over(None)
        except CancelRequestedError:
            await self._stop(None)
            return await self._let_the_links_decide()
        self.entry = replace(self.entry, sends=self.entry.sends + 1)
        return await self._send()

    def _until_settled(self) -> float:
        """For how many seconds the last DELETE may still take effect; at least time for a second look.

        Before the DELETE is sent again, they are counted from when its task may last have been seen at work: here, or
        by the worker that had the unlink before. The ledger does not say when a DELETE left that waited for a slot.
        A cancelled unlink sends nothing again, and claims nothing about the link: it counts from the DELETE as
        recorded. With several DELETEs, the ledger knows only the first.
        """
        since = self.began if self.answered is None else self.answered
        if not self.stopping:
            since = max(since, self.follow.running_at)
        elif self.answered is None and self.entry.sends == 1 and self.sent is not None:
            since = self.sent
        least = min(self.pace.poll_interval, self.pace.settling)
        return max(since + self.pace.settling - self.clock.monotonic(), least)

    async def _stop(self, ticket: TaskTicket | None) -> None:
        """A cancel was requested after the DELETE: stop the task if possible, and send nothing again."""
        self.stopping = True
        self.waiting.heeds_cancel = False
        self.report(StepKind.STOPPING, task_id=ticket and ticket.task_id)
        await self._stop_task(ticket)

    async def _time_is_over(self, ticket: TaskTicket | None) -> Ending:
        """Stop the task if it can be stopped, look once more, and say what is known."""
        self.waiting.deadline = None
        await self._stop_task(ticket)
        if gone := await self.follow.is_gone(self._intent):
            return succeeded(self.entry.intent, Evidence.LINKS, verified=True, task=self.follow.last_seen)
        known = "the job's links could not be read" if gone is None else "the link was still listed"
        message = f"not known to be done {self.command.timeout_seconds} s after the DELETE; {known}"
        return timed_out(self.entry.intent, message, task=self.follow.last_seen)

    async def _stop_task(self, ticket: TaskTicket | None) -> None:
        if ticket is None:
            return
        self.report(StepKind.STOPPING_TASK)
        try:
            await self.enterprise_manager.stop_task(ticket)
        except EnterpriseManagerError as error:
            self.report(StepKind.TASK_NOT_STOPPED, task_id=ticket.task_id, problem=str(error))

    # --- parts ------------------------------------------------------------------------------------------------------

    @property
    def _sent(self) -> bool:
        """Whether a DELETE of this run may have left."""
        return self.entry.sends > 0

    @property
    def _sent_before(self) -> bool:
        """Whether a DELETE before this one may have been carried out."""
        return self.entry.sends > 1 or self.earlier_may_act

    @property
    def _intent(self) -> Intent:
        if self.entry.intent is None:
            raise AssertionError("past the claim, an unlink has an intent")
        return self.entry.intent

    def _start_the_deadline(self) -> None:
        """`timeout_seconds` run from the DELETE as recorded, by whichever worker."""
        sent = self.clock.monotonic() if self.sent is None else self.sent
        self.waiting.deadline = sent + self.command.timeout_seconds

    def _hold(self, job_id: str) -> AbstractAsyncContextManager[None]:
        return self.job_locks.hold(self.command.enterprise_manager, job_id, self.waiting)

    async def _ask(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        return await self.waiting.ask(self.enterprise_manager, question)
