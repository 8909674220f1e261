"""Moments of one unlink that whole workers hardly ever meet."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.commands import UnlinkCommand
from contracts.events import Outcome, ReasonCode
from tests.unit.test_waiting import Unread, waiting_until
from worker.unlinks.job_locks import JobLocks
from worker.unlinks.ports.enterprise_manager import Job, Link, LinkedBackup, Refused, Task
from worker.unlinks.ports.ledger import Entry, Intent, Lease, Stage
from worker.unlinks.ports.steps import Reporter
from worker.unlinks.rules import Pace
from worker.unlinks.waiting import Waiting
from worker.unlinks.workflow import Workflow

JOB = "d1b85018-2769-45be-89bc-03f66b60e6cb"
REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"
LINK = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"


COMMAND = UnlinkCommand.model_validate(
    {"command": "unlink.v1", "idempotency_key": "CHG1", "job": {"id": JOB}, "repository": {"link_id": LINK}}
)


def sent_once(*, waiting: Waiting, locks: JobLocks, enterprise_manager: Any = None, ledger: Any = None) -> Workflow:
    """An unlink whose DELETE was sent by another worker, which did not learn what came of it."""
    return Workflow(
        command=COMMAND,
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


class GoneMeanwhile:
    """Lists the link, refuses the DELETE that is sent again, and carries out the first one at that moment."""

    def __init__(self, *, carries_out: bool) -> None:
        self._carries_out = carries_out
        self._listed = [Link(LINK, REPOSITORY)]

    async def links(self, _job_id: str) -> list[Link]:
        """The link, until it has gone."""
        return self._listed

    async def linked_backups(self, _job: Job) -> tuple[LinkedBackup, ...]:
        """None."""
        return ()

    async def delete_link(self, *_: object) -> Task:
        """Refuse it."""
        if self._carries_out:
            self._listed = []
        raise Refused(ReasonCode.ACCESS_DENIED, "the account has lost its role")


class TakesAll:
    """A ledger that holds the lease, and takes what it is told."""

    def alive(self, _lease: Lease) -> bool:
        """It is."""
        return True

    async def record(self, _lease: Lease, _change: object) -> bool:
        """The job is free."""
        return True


@pytest.mark.parametrize(
    ("carried_out", "outcome", "changed"), [(True, Outcome.SUCCEEDED, True), (False, Outcome.FAILED, None)]
)
async def test_a_refusal_says_nothing_about_the_delete_before_it(
    carried_out: bool, outcome: Outcome, changed: bool | None
) -> None:
    """A link that had gone would be reported as a failure; one that may still go, as unchanged."""
    server: Any = GoneMeanwhile(carries_out=carried_out)
    workflow = sent_once(waiting=waiting_until(), locks=JobLocks(), enterprise_manager=server, ledger=TakesAll())
    ending = await workflow.to_ending()
    assert (ending.outcome, ending.changed) == (outcome, changed)
