"""A moment of one unlink that whole workers hardly ever meet."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from contracts.commands import UnlinkCommand
from tests.unit.test_waiting import Unread, waiting_until
from worker.unlinks.job_locks import JobLocks
from worker.unlinks.ports.enterprise_manager import Link
from worker.unlinks.ports.ledger import Entry, Intent, Lease, Stage
from worker.unlinks.ports.steps import Reporter
from worker.unlinks.rules import Pace
from worker.unlinks.workflow import Workflow

JOB = "d1b85018-2769-45be-89bc-03f66b60e6cb"
REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"
LINK = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"


async def test_a_cancel_does_not_end_what_was_sent_while_it_waits_for_its_job() -> None:
    """An unlink whose DELETE had left would be reported as cancelled, with the link as it was."""
    named = {"command": "unlink.v1", "idempotency_key": "CHG1", "job": {"id": JOB}, "repository": {"link_id": LINK}}
    command = UnlinkCommand.model_validate(named)
    waiting, locks = waiting_until(), JobLocks()
    nothing_is_asked: Any = None
    workflow = Workflow(
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
        enterprise_manager=nothing_is_asked,
        ledger=nothing_is_asked,
        job_locks=locks,
        waiting=waiting,
        clock=waiting.clock,
        pace=Pace(),
        on_submitted=lambda _entry, _task: None,
        report=Reporter(Unread(), "default"),
    )
    async with locks.hold(command.enterprise_manager, JOB, waiting_until()):
        ending = asyncio.ensure_future(workflow.to_ending())
        await asyncio.sleep(0)
        waiting.cancelled.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not ending.done()
        ending.cancel()
        await asyncio.wait((ending,))
