"""Moments of one unlink that whole workers hardly ever meet."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.commands import UnlinkCommand
from contracts.events import Evidence, Outcome, ReasonCode
from tests.steps import RecordedSteps
from tests.unit.test_waiting import Unread, waiting_until
from tests.waiting import until
from worker.clock import SystemClock
from worker.unlinks.job_locks import JobLocks
from worker.unlinks.ports.enterprise_manager import (
    Job,
    Link,
    LinkedBackup,
    Refused,
    Task,
    TaskNotFound,
    TaskTicket,
    Unavailable,
)
from worker.unlinks.ports.ledger import Entry, Intended, Intent, Lease, SentAgain, Stage, Withdrawn
from worker.unlinks.ports.steps import Reporter, StepKind
from worker.unlinks.rules import Pace
from worker.unlinks.waiting import DeferredError, LeavingError, Waiting
from worker.unlinks.workflow import Workflow

JOB = "d1b85018-2769-45be-89bc-03f66b60e6cb"
REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"
LINK = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"


COMMAND = UnlinkCommand.model_validate(
    {"command": "unlink.v1", "idempotency_key": "CHG1", "job": {"id": JOB}, "repository": {"link_id": LINK}}
)


def sent_once(
    *,
    waiting: Waiting,
    locks: JobLocks,
    enterprise_manager: Any = None,
    ledger: Any = None,
    command: UnlinkCommand = COMMAND,
) -> Workflow:
    """An unlink whose DELETE was sent by another worker, which did not learn what came of it."""
    return Workflow(
        command=command,
        entry=Entry(
            Lease("CHG1", 2),
            Stage.INTENDED,
            attempts=2,
            received_at=datetime(2026, 3, 1, tzinfo=UTC),
            intent=Intent(JOB, "Copy job 1", Link(LINK, REPOSITORY)),
            sends=1,
            since_sent=1.0,
        ),
        enterprise_manager=enterprise_manager,
        ledger=ledger,
        job_locks=locks,
        waiting=waiting,
        clock=waiting.clock,
        pace=Pace(settling=0),
        on_submitted=lambda _entry, _task: None,
        report=Reporter(Unread(), "default"),
    )


def not_sent(*, waiting: Waiting, enterprise_manager: Any, ledger: Any, command: UnlinkCommand = COMMAND) -> Workflow:
    """An unlink that has just been claimed."""
    workflow = sent_once(
        waiting=waiting, locks=JobLocks(), enterprise_manager=enterprise_manager, ledger=ledger, command=command
    )
    workflow.entry = Entry(Lease("CHG1", 1), Stage.CLAIMED, 1, datetime(2026, 3, 1, tzinfo=UTC))
    workflow.sent = None
    return workflow


async def test_a_cancel_does_not_end_what_was_sent_while_it_waits_for_its_job() -> None:
    """An unlink whose DELETE had left would be reported as cancelled, with the link as it was."""
    waiting, locks = waiting_until(), JobLocks()
    workflow = sent_once(waiting=waiting, locks=locks)
    async with locks.hold(COMMAND.enterprise_manager, JOB, waiting_until()):
        ending = asyncio.ensure_future(workflow.to_ending())
        await asyncio.sleep(0)
        waiting.cancelled.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not ending.done()
        ending.cancel()
        await asyncio.wait((ending,))


class ListsTheLink:
    """An Enterprise Manager with one job that has one link."""

    def __init__(self) -> None:
        self.listed = [Link(LINK, REPOSITORY)]

    async def find_job(self, _reference: object) -> Job:
        """The job."""
        return Job(JOB, "Copy job 1")

    def links_read_with(self, _job: Job) -> list[Link]:
        """None."""
        return []

    async def links(self, _job_id: str) -> list[Link]:
        """The link, until it has gone."""
        return self.listed

    async def repository_name(self, _uid: str) -> None:
        """Not known."""

    async def linked_backups(self, _job: Job) -> tuple[LinkedBackup, ...]:
        """None."""
        return ()

    async def until_available(self) -> None:
        """It is."""


class RefusesTheDelete(ListsTheLink):
    """Refuses the DELETE; by then, the link has gone, is listed, or cannot be listed any more."""

    def __init__(self, then: str) -> None:
        super().__init__()
        self._then = then
        self._unreadable = False

    async def links(self, job_id: str) -> list[Link]:
        """The link, if it is there and can be read."""
        if self._unreadable:
            raise Unavailable("no answer")
        return await super().links(job_id)

    async def delete_link(self, *_: object) -> Task:
        """Refuse it."""
        if self._then == "gone":
            self.listed = []
        self._unreadable = self._then == "unread"
        raise Refused(ReasonCode.ACCESS_DENIED, "the account has lost its role")


class TakesAll:
    """A ledger that holds the lease, and takes what it is told."""

    def __init__(self) -> None:
        self.taken: list[object] = []

    def alive(self, _lease: Lease) -> bool:
        """It is."""
        return True

    def seconds_left(self, _lease: Lease) -> float:
        """A while."""
        return 10.0

    async def record(self, _lease: Lease, change: object) -> bool:
        """The job is free."""
        self.taken.append(change)
        return True


@pytest.mark.parametrize(
    ("then", "outcome", "changed"), [("gone", Outcome.SUCCEEDED, True), ("listed", Outcome.FAILED, None)]
)
async def test_a_refusal_says_nothing_about_the_delete_before_it(
    then: str, outcome: Outcome, changed: bool | None
) -> None:
    """A link that had gone would be reported as a failure; one that may still go, as unchanged."""
    server: Any = RefusesTheDelete(then)
    workflow = sent_once(waiting=waiting_until(), locks=JobLocks(), enterprise_manager=server, ledger=TakesAll())
    ending = await workflow.to_ending()
    assert (ending.outcome, ending.changed) == (outcome, changed)


@pytest.mark.parametrize(
    ("then", "outcome", "changed"),
    [
        ("gone", Outcome.SUCCEEDED, True),
        ("listed", Outcome.FAILED, False),
        ("unread", Outcome.FAILED, None),
    ],
)
async def test_a_refusal_is_held_against_the_links(then: str, outcome: Outcome, changed: bool | None) -> None:
    """A proxy may have repeated the DELETE: the refusal of the second one says nothing about the first."""
    workflow = not_sent(waiting=waiting_until(), enterprise_manager=RefusesTheDelete(then), ledger=TakesAll())
    ending = await workflow.to_ending()
    assert (ending.outcome, ending.changed) == (outcome, changed)
    assert ending.evidence == (Evidence.LINKS if changed else None)


class HasNoSlot(ListsTheLink):
    """Has no request slot for the DELETE: it permits none, or has let the first attempt pass."""

    def __init__(self, waiting: Waiting, end: str) -> None:
        super().__init__()
        self._waiting = waiting
        self._end = end
        self.ended = 0

    async def delete_link(self, _job: str, _link: str, may_send: Any, unsent: Any) -> Task:
        """Wait for a slot; the second time, with a refusal."""
        if self.ended:
            raise Refused(ReasonCode.ACCESS_DENIED, "no")
        if self._end.endswith("after an attempt"):
            await may_send()
            self._give_a_reason()
            for _ in range(5):
                await asyncio.sleep(0)
            unsent()
        self._give_a_reason()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1
        raise AssertionError

    def _give_a_reason(self) -> None:
        if "cancel" in self._end:
            self._waiting.cancelled.set()
        if "leaves" in self._end:
            self._waiting.leaving.set()


HAS_NO_TIME = COMMAND.model_copy(update={"timeout_seconds": 1.3})


@pytest.mark.parametrize("attempts", ["", " after an attempt"])
@pytest.mark.parametrize("end", ["the hold is over", "the worker leaves"])
async def test_a_delete_that_is_sent_again_is_withdrawn_when_its_wait_ends(end: str, attempts: str) -> None:
    """It would leave after its delivery was given back; or it would count, and the unlink be given up early."""
    waiting, ledger = waiting_until(0.3 if "hold" in end else 60.0), TakesAll()
    server = HasNoSlot(waiting, end + attempts)
    workflow = sent_once(waiting=waiting, locks=JobLocks(), enterprise_manager=server, ledger=ledger)
    with pytest.raises(DeferredError if "hold" in end else LeavingError):
        await asyncio.wait_for(workflow.to_ending(), 30)
    assert server.ended == (0 if attempts and "leaves" in end else 1)
    assert ledger.taken == [SentAgain(2), Withdrawn(2)]
    assert (workflow.entry.stage, workflow.entry.sends) == (Stage.INTENDED, 1)


@pytest.mark.parametrize("attempts", ["", " after an attempt"])
async def test_a_cancel_of_what_waits_to_be_sent_again_leaves_it_to_the_links(attempts: str) -> None:
    """The first DELETE may still be carried out: nobody may be told that nothing was changed."""
    waiting, ledger = waiting_until(), TakesAll()
    server = HasNoSlot(waiting, "a cancel" + attempts)
    workflow = sent_once(waiting=waiting, locks=JobLocks(), enterprise_manager=server, ledger=ledger)
    ending = await asyncio.wait_for(workflow.to_ending(), 30)
    assert (ending.outcome, ending.changed) == (Outcome.CANCELLED, None)
    assert ledger.taken == [SentAgain(2), Withdrawn(2)]


async def test_the_timeout_ends_the_wait_of_what_is_to_be_sent_again() -> None:
    """A command would end long after its time."""
    waiting, ledger = waiting_until(), TakesAll()
    workflow = sent_once(
        waiting=waiting,
        locks=JobLocks(),
        enterprise_manager=HasNoSlot(waiting, "the time is over"),
        ledger=ledger,
        command=HAS_NO_TIME,
    )
    ending = await asyncio.wait_for(workflow.to_ending(), 30)
    assert ending.outcome is Outcome.TIMED_OUT
    assert ledger.taken == [SentAgain(2), Withdrawn(2)]


async def test_a_command_whose_time_is_over_before_its_delete_could_leave_is_started_again() -> None:
    """Its DELETE would leave, and be stopped at once; or its time would count although nothing was sent."""
    waiting, ledger = waiting_until(), TakesAll()
    server = HasNoSlot(waiting, "the time is over")
    workflow = not_sent(waiting=waiting, enterprise_manager=server, ledger=ledger, command=HAS_NO_TIME)
    ending = await asyncio.wait_for(workflow.to_ending(), 30)
    assert (ending.outcome, ending.changed) == (Outcome.FAILED, False)
    assert [type(change) for change in ledger.taken] == [Intended, Withdrawn, Intended]


class ForgetsTheTask(ListsTheLink):
    """Has one task that runs, and forgets it when it is stopped, or after a number of looks. Sends no other DELETE."""

    def __init__(self, clock: Ahead, *, looks: int = 10**6) -> None:
        super().__init__()
        self._clock = clock
        self._looks = looks
        self.links_read: list[float] = []

    async def links(self, job_id: str) -> list[Link]:
        """The link."""
        self.links_read.append(self._clock.monotonic())
        return await super().links(job_id)

    def pause_before_task(self, _ticket: TaskTicket) -> float:
        """None."""
        return 0.0

    async def task(self, ticket: TaskTicket) -> Task:
        """It runs, if it is still known."""
        self._looks -= 1
        if self._looks < 0:
            raise TaskNotFound("forgotten")
        self._clock.ahead += 50
        return Task(ticket, "UpdateJob", finished=False, success=None, message=None)

    async def stop_task(self, _ticket: TaskTicket) -> None:
        """Forget it."""
        self._looks = 0

    async def delete_link(self, *_: object) -> Task:
        """Refuse it: this ends the unlink."""
        raise Refused(ReasonCode.ACCESS_DENIED, "the account has lost its role")


class Ahead(SystemClock):
    """A clock that is set forward by whatever is slow."""

    ahead = 0.0

    def monotonic(self) -> float:
        """The seconds of the host, and these."""
        return super().monotonic() + self.ahead


def submitted(server: ForgetsTheTask, waiting: Waiting, since_sent: float) -> Workflow:
    """An unlink whose task this worker has recorded so long ago."""
    workflow = sent_once(waiting=waiting, locks=JobLocks(), enterprise_manager=server, ledger=TakesAll())
    workflow.entry = replace(workflow.entry, stage=Stage.SUBMITTED, task=TaskTicket("task-1", "session-1"))
    workflow.sent = waiting.clock.monotonic() - since_sent
    workflow.pace = Pace(poll_interval=0.01, settling=120.0)
    workflow.follow.pace = workflow.pace
    return workflow


async def test_a_cancel_of_a_task_that_was_sent_long_ago_and_is_forgotten_does_not_wait_for_it_to_settle() -> None:
    """Who cancels a task that hangs would wait for two minutes more, although its time was over long before."""
    clock = Ahead()
    waiting = replace(waiting_until(1000.0), clock=clock)
    server = ForgetsTheTask(clock, looks=0)
    waiting.cancelled.set()
    workflow, steps = submitted(server, waiting, since_sent=150.0), RecordedSteps()
    workflow.report = Reporter(steps, "default")
    ending = await asyncio.wait_for(workflow.to_ending(), 30)
    assert (ending.outcome, ending.changed) == (Outcome.CANCELLED, None)
    assert server.links_read[-1] - server.links_read[0] < workflow.pace.settling / 2
    awaiting = [step.facts for step in steps.steps if step.kind is StepKind.AWAITING_LINKS]
    assert awaiting[-1]["then"] == "the unlink ends as cancelled"
    assert awaiting[-1]["seconds"] < 1


async def test_a_task_that_was_just_seen_is_given_its_time_before_the_delete_is_sent_again() -> None:
    """The same DELETE would be sent beside a task that was running a moment ago, however long it has run."""
    clock = Ahead()
    waiting = replace(waiting_until(1000.0), clock=clock)
    server = ForgetsTheTask(clock, looks=3)
    workflow = submitted(server, waiting, since_sent=150.0)
    steps = RecordedSteps()
    workflow.report = Reporter(steps, "default")
    ending = asyncio.ensure_future(workflow.to_ending())
    await until(lambda: server.links_read)
    (awaiting,) = (step.facts for step in steps.steps if step.kind is StepKind.AWAITING_LINKS)
    assert 100 < awaiting["seconds"] <= 120
    assert awaiting["then"] == "the DELETE is sent again"
    ending.cancel()
    await asyncio.wait((ending,))


async def test_a_task_that_was_last_seen_long_ago_is_not_waited_for_again() -> None:
    """After an outage, each unlink would wait for two minutes more, although no task can still be running."""
    clock = Ahead()
    waiting = replace(waiting_until(1000.0), clock=clock)
    server = ForgetsTheTask(clock, looks=1)

    async def after_the_outage(ticket: TaskTicket) -> Task:
        clock.ahead += 130
        raise TaskNotFound(f"{ticket.task_id} is forgotten")

    workflow = submitted(server, waiting, since_sent=1.0)
    task = server.task

    async def then_an_outage(ticket: TaskTicket) -> Task:
        server.task = after_the_outage  # type: ignore[method-assign]
        return await task(ticket)

    server.task = then_an_outage  # type: ignore[method-assign]
    ending = await asyncio.wait_for(workflow.to_ending(), 30)
    assert ending.outcome is Outcome.FAILED
    assert len(server.links_read) <= 4
