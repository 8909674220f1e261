"""What ends the wait of a DELETE that may not leave yet: its request slot may be taken by a request that hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.end_to_end.in_process import InProcessWorker, worker_for
from tests.steps import RecordedSteps
from tests.waiting import until
from worker.ledger.records import Step as HistoryStep
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_LINK_ID,
    VENDOR_REPOSITORY_UID,
    Fault,
    SimulatedEnterpriseManager,
)
from worker.unlinks.ports.ledger import Stage
from worker.unlinks.ports.steps import Step, StepKind
from worker.unlinks.rules import Pace

UNLINK = {"job": {"id": VENDOR_JOB_ID}, "repository": {"link_id": VENDOR_LINK_ID}}
CANCEL = {"command": "cancel.v1", "requested_by": "j.doe"}
PACE = Pace(poll_interval=0.05, verify=1.0, settling=0.5)


@dataclass(slots=True, kw_only=True)
class TakesTheSlot(RecordedSteps):
    """Starts a request that hangs at a step of an unlink: it takes the only request slot before the DELETE can."""

    kind: StepKind
    hang: Callable[[], Any] = lambda: None
    times: int = 1
    hanging: list[asyncio.Future[Any]] = field(default_factory=list)

    def report(self, step: Step) -> None:
        """Keep the step; start the request."""
        RecordedSteps.report(self, step)
        if step.kind is self.kind and self.times > 0:
            self.times -= 1
            self.hanging.append(asyncio.ensure_future(self.hang()))

    def free(self, em: SimulatedEnterpriseManager) -> None:
        """Break off the request."""
        for hanging in self.hanging:
            hanging.cancel()
        em.refuse_connections()
        em.accept_connections()

    def count(self, kind: StepKind) -> int:
        """How often a step was taken."""
        return sum(step.kind is kind for step in self.steps)


@asynccontextmanager
async def waiting_to_send(
    em: SimulatedEnterpriseManager, kind: StepKind = StepKind.INTENDING, **options: Any
) -> AsyncIterator[tuple[InProcessWorker, TakesTheSlot]]:
    """A worker whose next DELETE waits for a request slot, until the request that has it breaks off."""
    other = em.add_job(name="hangs", links=[VENDOR_REPOSITORY_UID])
    em.inject(Fault("never_answers", method="GET", path=other))
    steps = TakesTheSlot(kind=kind)
    given: dict[str, Any] = {"pace": PACE, "max_requests": 1, "request_timeout_seconds": 900}
    async with worker_for(em, steps=steps, **given | options) as worker:
        steps.hang = lambda: worker.gateway.links(other)
        try:
            yield worker, steps
        finally:
            steps.free(em)


async def _until_it_waits(worker: InProcessWorker) -> None:
    """Return when the DELETE waits for its slot."""
    limit = worker.gateway._wire._limit  # noqa: SLF001 - the wait is not visible elsewhere
    await until(lambda: limit.waiting == 1, "a DELETE that waits for a slot")


async def _history(worker: InProcessWorker) -> tuple[Stage, set[str]]:
    """The stage of the unlink, and what was recorded about it."""
    history = await worker.ledger.history("CHG1")
    assert history is not None
    assert history.record is not None
    return history.record.entry.stage, {step.step for step in history.steps}


async def _assert_withdrawn(worker: InProcessWorker) -> None:
    stage, steps = await _history(worker)
    assert stage is Stage.CLAIMED
    assert {HistoryStep.WITHDRAWN, HistoryStep.RELEASED} <= steps


async def test_the_hold_ends_the_wait_of_a_delete_for_its_slot(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """The broker would take the delivery back, and close the channel for all others; the DELETE would leave later."""
    em = simulated_enterprise_manager
    async with waiting_to_send(em, hold_seconds=2.0) as (worker, steps):
        worker.send(UNLINK)
        await _until_it_waits(worker)
        await asyncio.wait_for(worker.received.until_delayed(1), 30)
        await until(lambda: steps.count(StepKind.RELEASED), "the lease is given back")
        await _assert_withdrawn(worker)
        assert em.deletes_of(VENDOR_LINK_ID) == 0
        steps.free(em)
        end = await worker.end_of()
    assert (end["outcome"], end["evidence"]) == ("succeeded", "task")
    assert em.deletes_of(VENDOR_LINK_ID) == 1
    assert steps.count(StepKind.AWAITING_LINKS) == 0


async def test_a_cancel_ends_the_wait_of_a_delete_for_its_slot(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """An unlink that was stopped in time would be carried out."""
    em = simulated_enterprise_manager
    async with waiting_to_send(em) as (worker, _):
        worker.send(UNLINK)
        await _until_it_waits(worker)
        worker.send(CANCEL)
        end = await worker.end_of()
        assert (end["outcome"], end["changed"], end["request"]["cancelled_by"]) == ("cancelled", False, "j.doe")
        assert HistoryStep.WITHDRAWN in (await _history(worker))[1]
    assert em.deletes_of(VENDOR_LINK_ID) == 0


async def test_a_drain_ends_the_wait_of_a_delete_for_its_slot(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """The process would end with an unlink in doubt, whose job is busy until another worker has looked at it."""
    em = simulated_enterprise_manager
    async with waiting_to_send(em) as (worker, _):
        worker.send(UNLINK)
        await _until_it_waits(worker)
        assert not await worker.dispatcher.drain(0.5)
        assert worker.dispatcher.in_flight == 0
        await _assert_withdrawn(worker)
    assert em.deletes_of(VENDOR_LINK_ID) == 0


async def test_the_end_of_its_task_ends_the_wait_of_a_delete_for_its_slot(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """As above: a drain that is over cancels the tasks of what is left."""
    em = simulated_enterprise_manager
    async with waiting_to_send(em) as (worker, _):
        worker.send(UNLINK)
        await _until_it_waits(worker)
        (handling,) = worker.dispatcher._tasks  # noqa: SLF001 - as a drain does
        handling.cancel()
        await asyncio.wait((handling,), timeout=30)
        assert handling.cancelled()
        await _assert_withdrawn(worker)
    assert em.deletes_of(VENDOR_LINK_ID) == 0


async def test_a_delete_that_waits_for_its_slot_does_not_leave_after_its_not_after(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """What a change window had permitted would be done after it."""
    em = simulated_enterprise_manager
    not_after = datetime.now(UTC) + timedelta(seconds=3)
    async with waiting_to_send(em) as (worker, steps):
        worker.send(UNLINK | {"not_after": not_after.isoformat()})
        await _until_it_waits(worker)
        await until(lambda: datetime.now(UTC) > not_after, "the end of the window")
        steps.free(em)
        end = await worker.end_of()
        assert (end["outcome"], end["reason"]["code"], end["changed"]) == ("failed", "expired", False)
        assert HistoryStep.WITHDRAWN in (await _history(worker))[1]
    assert em.deletes_of(VENDOR_LINK_ID) == 0
