"""Wrong versions of the core, each of which the simulation must catch.

More than 400 lines: one table of wrong variants.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from typing import Any
from unittest.mock import patch

from sqlalchemy import RowMapping, Update, and_, bindparam, exists

from contracts.batches import BatchEnded, batch_ended_id
from contracts.commands import RetryCommand, UnlinkCommand
from contracts.events import Event, Evidence, Outcome, Reason, ReasonCode, event_id, plan_id
from tests.ledger.partial_indexes import one_in_flight_per_job
from tests.simulation.enterprise_manager import SimulatedGateway
from tests.simulation.ledger import Database
from tests.simulation.promises import Violation
from tests.simulation.simulation import run
from worker.ledger import Step, later_runs, transaction
from worker.ledger import batches as ledger_batches
from worker.ledger.batches import _BATCHES_OF_KEY, Batching, _under_way
from worker.ledger.cancelling import Cancelling, Stored
from worker.ledger.later_runs import LaterRuns
from worker.ledger.leases import Leases
from worker.ledger.sql_ledger import SqlLedger
from worker.ledger.statements import RECORD, START_RUN, _before_its_intent, _write
from worker.ledger.tables import unlinks
from worker.ledger.transaction import Transaction
from worker.telemetry.isolation import IsolatedSinks
from worker.unlinks import attempts, batches, dispatcher, misrouted, outcome, replies, runs, workflow
from worker.unlinks.attempts import Attempts
from worker.unlinks.batches import Batches, EndedBatches, none_ended
from worker.unlinks.dispatcher import Dispatcher
from worker.unlinks.following import FIRST_LOOK, Follower
from worker.unlinks.outcome import Ending, failed, succeeded
from worker.unlinks.ports.broker import Delivery, ReplyTo
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import AnswerLost, Task, TaskNotFound, TaskTicket, Unavailable
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    CancelRequest,
    CancelRequestedError,
    Change,
    Claimed,
    ClaimResult,
    Entry,
    Intended,
    Intent,
    Lease,
    LeaseLostError,
    MemberEnd,
    NewClaim,
    NewMember,
    Retry,
    SentAgain,
    Settled,
    Stage,
)
from worker.unlinks.ports.steps import Reporter
from worker.unlinks.ports.steps import Step as ReportedStep
from worker.unlinks.replies import Replies, refusals_of
from worker.unlinks.runs import Running, Runs
from worker.unlinks.waiting import FIRST_PAUSE, DeadlinePassedError, DeferredError, LeavingError, Waiting
from worker.unlinks.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is wrong, and what is put in the place of what."""

    name: str
    replaced: tuple[tuple[object, str, Any], ...]

    @contextmanager
    def alive(self) -> Iterator[None]:
        """While it is the core that runs."""
        with ExitStack() as stack:
            for owner, name, replacement in self.replaced:
                stack.enter_context(patch.object(owner, name, replacement))
            yield


@dataclass(frozen=True, slots=True)
class Caught:
    """By which seed a mutant was caught, after how many, and how."""

    seed: int
    seeds: int
    violation: Violation

    def __str__(self) -> str:
        return f"caught by seed {self.seed}, after {self.seeds}: {self.violation}"


def hunt(mutant: Mutant, seeds: Iterable[int]) -> Caught | None:
    """Run seeds until one catches the mutant; None if none does."""
    with mutant.alive():
        for number, seed in enumerate(seeds, start=1):
            violation = run(seed).violation
            if violation is not None:
                return Caught(seed, number, violation)
    return None


# --- nothing is lost ------------------------------------------------------------------------------------------------


async def _acknowledge_first(
    self: Replies,
    event: Event | bytes,
    deliveries: list[Delivery],
    report: Reporter,
    ended_batches: EndedBatches = none_ended,
    *,
    dead: Reason | None = None,
) -> None:
    for delivery in deliveries:
        delivery.acknowledge()
    await _true_publish(self, event, deliveries, report, ended_batches, dead=dead)


async def _acknowledge_before_the_batch(
    self: Replies,
    event: Event | bytes,
    deliveries: list[Delivery],
    report: Reporter,
    ended_batches: EndedBatches = none_ended,
    *,
    dead: Reason | None = None,
) -> None:
    await _true_publish(self, event, deliveries, report, dead=dead)
    for batch in await ended_batches():
        await self.outbox.publish(batch, refusals=refusals_of(deliveries))


_true_publish = Replies.publish


async def _end_no_batch(self: Batches, key: str) -> tuple[BatchEnded, ...]:
    del self, key
    return ()


async def _end_batches_as_they_were_settled(self: Batches, key: str) -> tuple[BatchEnded, ...]:
    """A key that ended before it joined a batch is not counted in it."""
    return await self.ledger.ended_batches(key, batches.compose)


def _count_no_rejection(self: Batching, member: NewMember, end: MemberEnd, *, given_up: bool) -> None:
    del self, member, end, given_up


def _whatever_is_stored(row: RowMapping) -> BatchEnded | None:
    return None if row["event"] is None else BatchEnded.model_validate_json(row["event"])


def _forget_no_events(self: Batching, rows: Iterable[RowMapping]) -> None:
    del self, rows


def _id_without_ends(enterprise_manager: str, user_id: str | None, batch_id: str, event_ids: Iterable[str]) -> str:
    del event_ids
    return batch_ended_id(enterprise_manager, user_id, batch_id, ())


async def _delay_after_acknowledging(
    self: Replies, deliveries: list[Delivery], seconds: float, report: Reporter, **counted: bool
) -> None:
    del report
    while deliveries:
        delivery = deliveries.pop()
        delivery.acknowledge()
        await self.outbox.delay(delivery, seconds, **counted)


async def _forget_the_new_delivery(
    self: Dispatcher, running: Running, command: UnlinkCommand | RetryCommand, delivery: Delivery, report: Reporter
) -> None:
    del self, running, command, delivery, report


async def _publish_once(
    self: Replies, event: Event | bytes, deliveries: list[Delivery], report: Reporter, ended_batches: EndedBatches
) -> None:
    """Whoever joins while the event is being published gets no reply."""
    del report
    refusals = refusals_of(deliveries)
    waiting = {ReplyTo(each.reply_to, each.correlation_id) for each in deliveries if each.reply_to is not None}
    await self.outbox.publish(event, waiting, refusals=refusals)
    for batch in await ended_batches():
        await self.outbox.publish(batch, refusals=refusals)


def _reply_once_a_queue(deliveries: list[Delivery]) -> set[ReplyTo]:
    """Whoever shares a queue with another sender gets no reply of their own."""
    queues = {each.reply_to: each.correlation_id for each in deliveries if each.reply_to is not None}
    return {ReplyTo(queue, correlation_id) for queue, correlation_id in queues.items()}


async def _reject_whatever_is_second(
    self: Dispatcher, running: Running, command: UnlinkCommand | RetryCommand, delivery: Delivery, report: Reporter
) -> None:
    running.run = running.run or 1
    await _true_join(self, running, command, delivery, report)


_true_join = Dispatcher._join  # noqa: SLF001 - a mutant is made of the core's inside


# --- nothing is done twice ------------------------------------------------------------------------------------------


async def _intend_nothing(self: Workflow, intent: Intent) -> None:
    now = self.clock.now()
    self.entry = replace(self.entry, intent=intent, stage=Stage.INTENDED, sent_at=now, sends=self.entry.sends + 1)
    self._start_the_deadline()


async def _intend_although_busy(self: Workflow, intent: Intent) -> None:
    now = self.clock.now()
    await self.ledger.record(self.entry.lease, Intended(intent, now))
    self.entry = replace(self.entry, intent=intent, stage=Stage.INTENDED, sent_at=now, sends=self.entry.sends + 1)
    self._start_the_deadline()


_true_update = Transaction._update  # noqa: SLF001 - a mutant is made of the core's inside


def _newest(self: Transaction, lease: Lease) -> Lease:
    """Every write, whoever makes it, is made with the token that the database has."""
    row = self._row(lease.key)
    return lease if row is None else Lease(lease.key, row["token"])


def _update_the_newest(self: Transaction, statement: Update, lease: Lease, **parameters: Any) -> bool:
    return _true_update(self, statement, _newest(self, lease), **parameters)


_true_claim = SqlLedger.claim
_true_record = SqlLedger.record


async def _claim_settled_keys_too(self: SqlLedger, claim: NewClaim) -> ClaimResult:
    result = await _true_claim(self, claim)
    if isinstance(result, AlreadySettled):
        return Claimed(Entry(Lease(claim.key, 1), Stage.CLAIMED, 2, claim.received_at))
    return result


async def _write_nothing_of_settled_keys(self: SqlLedger, lease: Lease, change: Change) -> bool:
    try:
        return await _true_record(self, lease, change)
    except LeaseLostError:
        return True


_true_let_the_links_decide = Workflow._let_the_links_decide  # noqa: SLF001 - a mutant is made of the core's inside


async def _resend_to_the_newest_link(self: Workflow) -> Ending:
    """What stands for the repository now is removed, although it was put there afterwards."""
    links = await self._ask(lambda: self.enterprise_manager.links(self._intent.job_id))
    uid = self._intent.link.repository_uid
    newest = [link for link in links if link.repository_uid == uid]
    if newest and self.entry.intent is not None:
        self.entry = replace(self.entry, intent=replace(self.entry.intent, link=newest[-1]))
    return await _true_let_the_links_decide(self)


async def _resend_at_once(self: Workflow) -> Ending:
    """Nothing is looked at, and no old task is waited out."""
    await self.ledger.record(self.entry.lease, SentAgain(self.entry.sends + 1))
    self.entry = replace(self.entry, sends=self.entry.sends + 1)
    return await self._send()


async def _publish_before_settling(self: Runs, command: UnlinkCommand, entry: Entry, running: Running) -> None:
    workflow = self._workflow(command, entry, running, lambda _entry, _task: None)
    ending = await self._ending(workflow, running)
    event = self._event(command, workflow.entry, ending, running)
    await self.replies.publish(event, running.deliveries, running.report)
    await self.ledger.record(workflow.entry.lease, Settled(ending.outcome, event.to_bytes(), event.time))


_intended = unlinks.alias("intended")
_busy_until_submitted = exists().where(
    _intended.c.enterprise_manager == unlinks.c.enterprise_manager,
    _intended.c.job_id == bindparam("seen_job_id"),
    _intended.c.stage == Stage.INTENDED.value,
)
_intend_once_submitted = _write(
    and_(_before_its_intent, ~_busy_until_submitted), stage=Stage.INTENDED.value, sends=unlinks.c.sends + 1
)
_true_database = Database.__init__


def _without_the_index_of_jobs(self: Database, clock: Clock) -> None:
    _true_database(self, clock)
    with self.connection.begin():
        one_in_flight_per_job.drop(self.connection)


def _always_alive(self: SqlLedger, lease: Lease) -> bool:
    del self, lease
    return True


def _never_over(self: SqlLedger, lease: Lease) -> float:
    del self, lease
    return float("inf")


async def _release_while_somebody_waits(self: SqlLedger, lease: Lease) -> None:
    """A release that is cut off before it was tried is dropped."""
    self._leases.end(lease)
    await self._call("release", lease.key, lambda transaction: transaction.release(lease))


def _hold_for_ever(self: Attempts, deliveries: list[Delivery]) -> float:
    del self, deliveries
    return float("inf")


_true_delete_link = SimulatedGateway.delete_link


async def _take_a_lost_answer_for_nothing_done(
    self: SimulatedGateway,
    job_id: str,
    object_in_job_id: str,
    may_send: Callable[[], Awaitable[float]],
    unsent: Callable[[], None],
) -> Task:
    try:
        return await _true_delete_link(self, job_id, object_in_job_id, may_send, unsent)
    except AnswerLost:
        raise Unavailable("no answer") from None


def _follow_whatever_run(self: LaterRuns, retry: Retry, row: RowMapping, trace_id: str | None) -> Any:
    """Each retry starts a run, whichever run it names."""
    return self._start(replace(retry, run=row["run"]), row, trace_id)


async def _join_the_run_that_is_retried(
    self: Dispatcher, running: Running, command: UnlinkCommand | RetryCommand, delivery: Delivery, report: Reporter
) -> None:
    del self, command, report
    running.deliveries.append(delivery)


async def _wait_for_no_run(self: Dispatcher, retry: RetryCommand, delivery: Delivery, report: Reporter) -> None:
    del self, retry, delivery, report


async def _repeat_nothing(self: Replies, event: bytes, report: Reporter) -> None:
    del self, event, report


async def _wait_for_no_earlier_run(self: Workflow) -> bool:
    return await self.follow.gone_by(0, self._intent)


def _id_without_run(key: str, outcome: Outcome, run: int = 1) -> str:
    del run
    return event_id(key, outcome)


# --- nothing is claimed that is not so ------------------------------------------------------------------------------

_true_task = SimulatedGateway.task


async def _trust_an_old_task(self: SimulatedGateway, ticket: TaskTicket) -> Task:
    """A task ID is asked for in whatever session there is."""
    return await _true_task(self, TaskTicket(ticket.task_id, self.session or ticket.session))


async def _stop_when_no_longer_running(self: Follower, ticket: TaskTicket) -> Task:
    while True:
        await self.waiting.wait(self.clock.jitter(self.pace.poll_interval * FIRST_LOOK))
        task = await self.waiting.ask(self.enterprise_manager, lambda: self.enterprise_manager.task(ticket))
        self.last_seen = task
        if task.finished or task.success is not None:
            return task


async def _believe_the_answer(self: Follower, ticket: TaskTicket) -> Task:
    del self
    return Task(ticket, "UpdateJob", finished=True, success=True, message=None)


async def _gone_without_looking(self: Follower, intent: Intent) -> bool:
    del self, intent
    return True


async def _take_a_lost_task_for_done(self: Follower, ticket: TaskTicket) -> Task:
    try:
        return await _true_to_its_end(self, ticket)
    except TaskNotFound:
        return Task(ticket, "UpdateJob", finished=True, success=True, message=None)


_true_to_its_end = Follower.to_its_end


def _take_the_hold_for_the_deadline(self: Waiting) -> None:
    if self.leaving.is_set():
        raise LeavingError
    self.require_not_cancelled()
    if self.deadline is not None and self.deadline <= self.hold_until():
        raise DeadlinePassedError
    raise DeferredError("the delivery was held as long as it may be", FIRST_PAUSE)


async def _say_unchanged(self: Workflow, task: Task) -> Ending:
    """A failed task is all that is looked at, although it may not have been the first."""
    if await self.follow.is_gone(self._intent):
        return succeeded(self.entry.intent, Evidence.LINKS, verified=True, task=task)
    code = ReasonCode.TASK_FAILED if task.success is False else ReasonCode.ENTERPRISE_MANAGER_ERROR
    return failed(code, "the task failed", changed=False, task=task, seen=self.entry.intent)


async def _say_cancelled_at_once(self: Workflow, ticket: TaskTicket | None) -> None:
    del self, ticket
    raise CancelRequestedError


def _count_by_the_time_of_day(self: Workflow) -> None:
    elapsed = (self.clock.now() - self.entry.sent_at).total_seconds() if self.entry.sent_at else 0.0
    self.waiting.deadline = self.clock.monotonic() + self.command.timeout_seconds - max(elapsed, 0.0)


# --- nothing else is hurt -------------------------------------------------------------------------------------------


def _never_ask_for_consent(self: Workflow, backups: Any) -> None:
    del self, backups


def _remember_no_cancel(self: Transaction, request: CancelRequest) -> AlreadySettled | Stored:
    row = self._row(request.key)
    if row is not None and row["stage"] == Stage.SETTLED:
        return AlreadySettled(bytes(row["event"]))
    return Stored(run=1, present=row is not None)


def _cancel_whatever_run(self: Cancelling, request: CancelRequest) -> Any:
    return _true_cancel(self, replace(request, run=None))


_true_cancel = Cancelling.cancel


def _heed_no_cancel(self: Waiting) -> None:
    del self


# --- it keeps going -------------------------------------------------------------------------------------------------


class _NeverRaisedError(Exception):
    """Stands for an error that is therefore not recognised."""


async def _answer_and_no_more(
    self: Attempts, deliveries: list[Delivery], attempt: int, answer: Awaitable[None], report: Reporter
) -> None:
    """Who cannot be answered is left alone."""
    del self, deliveries, attempt, report
    with suppress(Exception):
        await answer


async def _dead_letter_first(
    self: Replies,
    event: Event | bytes,
    deliveries: list[Delivery],
    report: Reporter,
    ended_batches: EndedBatches = none_ended,
    *,
    dead: Reason | None = None,
) -> None:
    if dead is not None:
        for delivery in deliveries:
            await self.dead_letter(delivery, dead, report)
    await _true_publish(self, event, deliveries, report, ended_batches)


def _plan_id_by_the_time_of_the_look(key: str, arrived_at: datetime) -> str:
    """Each look gives its plan another ID; the time is not at hand here, and a number serves."""
    return plan_id(f"{key} {next(_looks)}", arrived_at)


_looks = count()


async def _delay_nothing(
    self: Replies, deliveries: list[Delivery], seconds: float, report: Reporter, **counted: bool
) -> None:
    del self, deliveries, seconds, report, counted


def _give_nothing_up(delivery: Delivery) -> None:
    del delivery


def _say_given_up_unchanged(entry: Entry, why: str) -> Ending:
    return failed(ReasonCode.GAVE_UP, why, changed=False, seen=entry.intent)


_true_settle = Runs._settle  # noqa: SLF001 - a mutant is made of the core's inside


async def _settle_nothing(self: Runs, command: UnlinkCommand, entry: Entry, ending: Ending, running: Running) -> Event:
    if running.given_up is not None:
        return self._event(command, entry, ending, running)
    return await _true_settle(self, command, entry, ending, running)


async def _offer_nothing(self: Replies, event: Event, report: Reporter) -> None:
    del self, event, report


def _report_without_isolation(self: IsolatedSinks, step: ReportedStep) -> None:
    for _, sink in self._sinks:
        sink.report(step)


async def _refuse_whatever_is_asked(self: Workflow) -> Ending:
    self.waiting.require_not_cancelled()
    return failed(ReasonCode.ENTERPRISE_MANAGER_ERROR, "no", changed=False)


async def _defer_forever(self: Workflow) -> Ending:
    del self
    raise DeferredError("later", 5)


MUTANTS = (
    Mutant("acknowledges before the event is confirmed", ((Replies, "publish", _acknowledge_first),)),
    Mutant("acknowledges before the delayed copy is confirmed", ((Replies, "delay", _delay_after_acknowledging),)),
    Mutant("does not adopt a new delivery of what is under way", ((Dispatcher, "_join", _forget_the_new_delivery),)),
    Mutant("skips the intend write", ((Workflow, "_intend", _intend_nothing),)),
    Mutant("sends although the job is busy", ((Workflow, "_intend", _intend_although_busy),)),
    Mutant(
        "frees the job once the task is known",
        (
            (transaction, "RECORD", {**RECORD, Intended: (_intend_once_submitted, Step.INTENDED)}),
            (Database, "__init__", _without_the_index_of_jobs),
        ),
    ),
    Mutant(
        "ignores the fencing token",
        (
            (Transaction, "_update", _update_the_newest),
            (SqlLedger, "alive", _always_alive),
            (SqlLedger, "seconds_left", _never_over),
        ),
    ),
    Mutant(
        "never asks whether its lease is alive",
        ((SqlLedger, "alive", _always_alive), (SqlLedger, "seconds_left", _never_over)),
    ),
    Mutant(
        "runs a settled key again",
        (
            (SqlLedger, "claim", _claim_settled_keys_too),
            (SqlLedger, "record", _write_nothing_of_settled_keys),
            (SqlLedger, "alive", _always_alive),
            (SqlLedger, "seconds_left", _never_over),
        ),
    ),
    Mutant(
        "sends the DELETE again to the newest link", ((Workflow, "_let_the_links_decide", _resend_to_the_newest_link),)
    ),
    Mutant("sends the DELETE again without looking", ((Workflow, "_let_the_links_decide", _resend_at_once),)),
    Mutant("publishes before it settles", ((Runs, "_to_the_answer", _publish_before_settling),)),
    Mutant(
        "takes a lost answer for a DELETE that did not leave",
        ((SimulatedGateway, "delete_link", _take_a_lost_answer_for_nothing_done),),
    ),
    Mutant("holds a delivery without end", ((Attempts, "hold_until", _hold_for_ever),)),
    Mutant("trusts a task ID after a new logon", ((SimulatedGateway, "task", _trust_an_old_task),)),
    Mutant("takes OperationFinished for the end", ((Follower, "to_its_end", _stop_when_no_longer_running),)),
    Mutant("takes the answer to the DELETE for the end", ((Follower, "to_its_end", _believe_the_answer),)),
    Mutant(
        "counts the time since the DELETE by its own time of day",
        ((Workflow, "_start_the_deadline", _count_by_the_time_of_day),),
    ),
    Mutant("takes a forgotten task for a success", ((Follower, "to_its_end", _take_a_lost_task_for_done),)),
    Mutant("verifies without looking", ((Follower, "until_gone", _gone_without_looking),)),
    Mutant("drops linked backups without consent", ((Workflow, "_require_consent", _never_ask_for_consent),)),
    Mutant("publishes to the reply queues only once", ((Replies, "_publish", _publish_once),)),
    Mutant("replies to each queue only once", ((replies, "_reply_to", _reply_once_a_queue),)),
    Mutant("gives up without a dead letter", ((Ending, "gave_up", None),)),
    Mutant(
        "rejects a reused key before the ledger says whose it is", ((Dispatcher, "_join", _reject_whatever_is_second),)
    ),
    Mutant("takes the end of the hold for the deadline", ((Waiting, "require_time", _take_the_hold_for_the_deadline),)),
    Mutant("says 'not changed' although it sent twice", ((Workflow, "_task_did_not_succeed", _say_unchanged),)),
    Mutant("says 'cancelled' without waiting for the task", ((Workflow, "_stop", _say_cancelled_at_once),)),
    Mutant(
        "sends although somebody asked to cancel",
        (
            (Transaction, "cancel", _remember_no_cancel),
            (Transaction, "mark_cancelled", lambda _transaction, _request, _run: None),
            (Waiting, "require_not_cancelled", _heed_no_cancel),
        ),
    ),
    Mutant("gives up what the broker refuses", ((attempts, "UnpublishedError", _NeverRaisedError),)),
    Mutant("leaves alone what it cannot answer", ((Attempts, "_answer", _answer_and_no_more),)),
    Mutant("dead-letters before the event is confirmed", ((Replies, "publish", _dead_letter_first),)),
    Mutant("gives a plan that was refused another ID", ((outcome, "plan_id", _plan_id_by_the_time_of_the_look),)),
    Mutant("delays nothing", ((Replies, "delay", _delay_nothing),)),
    Mutant("publishes nothing of what is submitted", ((Replies, "offer", _offer_nothing),)),
    Mutant("rejects at once what has no queue", ((misrouted, "GIVE_UP_SECONDS", 0),)),
    Mutant("never gives up a command without a queue", ((misrouted, "GIVE_UP_SECONDS", 10**6),)),
    Mutant("runs what the broker took away", ((dispatcher, "given_up", _give_nothing_up),)),
    Mutant("says 'not changed' of what the broker took away", ((runs, "ending_of_given_up", _say_given_up_unchanged),)),
    Mutant("publishes what it gives up without settling it", ((Runs, "_settle", _settle_nothing),)),
    Mutant("lets telemetry fail an unlink", ((IsolatedSinks, "report", _report_without_isolation),)),
    Mutant("fails every unlink", ((Workflow, "_start", _refuse_whatever_is_asked),)),
    Mutant(
        "starts before its time",
        ((runs, "seconds_until_start", lambda *_: 0.0), (workflow, "require_started", lambda *_: None)),
    ),
    Mutant("starts a run for each retry", ((LaterRuns, "_follow", _follow_whatever_run),)),
    Mutant(
        "answers a retry with the end of the run that it names",
        ((Dispatcher, "_wait_for", _wait_for_no_run), (Dispatcher, "_join", _join_the_run_that_is_retried)),
    ),
    Mutant("starts a run whose predecessor's event is not published", ((Replies, "repeat", _repeat_nothing),)),
    Mutant(
        "forgets the link when it starts a run",
        ((later_runs, "START_RUN", START_RUN.values(job_id=None, link_id=None)),),
    ),
    Mutant("waits for no DELETE of an earlier run", ((Workflow, "_gone_by_an_earlier_run", _wait_for_no_earlier_run),)),
    Mutant(
        "says 'not changed' although an earlier run may have changed it",
        ((Workflow, "to_ending", Workflow._to_ending),),  # noqa: SLF001 - a mutant is made of the core's inside
    ),
    Mutant("takes a cancel of an earlier run for one of the present", ((Cancelling, "cancel", _cancel_whatever_run),)),
    Mutant("gives the events of all runs one ID", ((outcome, "event_id", _id_without_run),)),
    Mutant("ends no batch", ((Batches, "ended", _end_no_batch),)),
    Mutant(
        "acknowledges before the batch's event is confirmed", ((Replies, "publish", _acknowledge_before_the_batch),)
    ),
    Mutant("leaves out of a batch what had ended before", ((Batches, "ended", _end_batches_as_they_were_settled),)),
    Mutant("counts no rejected command in its batch", ((Batching, "count_rejected", _count_no_rejection),)),
    Mutant(
        "says that a batch has ended while a member is to come",
        ((ledger_batches, "_COMPLETE", _BATCHES_OF_KEY.where(~_under_way)),),
    ),
    Mutant(
        "repeats the stored event of a batch whatever its ends",
        ((ledger_batches, "_stored_event", _whatever_is_stored), (Batching, "_forget_events", _forget_no_events)),
    ),
    Mutant("gives a batch the same ID whatever its ends", ((batches, "batch_ended_id", _id_without_ends),)),
    Mutant("keeps a lease that no unlink uses", ((Leases, "unused", lambda *_: []),)),
    Mutant(
        "drops a release that the hold cuts off",
        ((SqlLedger, "release", _release_while_somebody_waits), (Leases, "unused", lambda *_: [])),
    ),
    Mutant("resumes nothing", ((Workflow, "_resume", _defer_forever),)),
)
