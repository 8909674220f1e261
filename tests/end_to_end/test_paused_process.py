"""A worker's process that is paused for longer than its lease lasts, and goes on: another worker may have the key."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from tests.end_to_end.in_process import worker_for
from tests.ledger.words import SteppedClock
from tests.steps import RecordedSteps
from tests.waiting import until
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, SimulatedEnterpriseManager
from worker.unlinks.ports.steps import Step, StepKind
from worker.unlinks.rules import Pace
from worker.unlinks.workflow import MOST_SENDS


@dataclass(slots=True, kw_only=True)
class Paused(RecordedSteps):
    """Has the process paused for a minute at the first steps of a kind."""

    kind: StepKind
    times: int = 1
    clock: SteppedClock = field(default_factory=SteppedClock)

    def report(self, step: Step) -> None:
        """Keep the step; be paused."""
        RecordedSteps.report(self, step)
        if step.kind is self.kind and self.times > 0:
            self.times -= 1
            self.clock.advance(60)


async def test_a_process_that_was_paused_publishes_nothing_of_what_it_submitted(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """`submitted` would follow the end that another worker has published meanwhile."""
    steps = Paused(kind=StepKind.SUBMITTED)
    async with worker_for(
        simulated_enterprise_manager, steps=steps, clock=steps.clock, pace=Pace(poll_interval=0.05)
    ) as worker:
        delivery = worker.send({"job": {"id": VENDOR_JOB_ID}, "repository": {"link_id": VENDOR_LINK_ID}})
        await until(lambda: delivery.requeued or delivery.acknowledged, "an answer to the delivery")

    assert StepKind.LEASE_LOST in {step.kind for step in steps.steps}
    assert worker.received.events == []
    assert delivery.requeued


async def test_a_delete_that_a_paused_process_did_not_send_counts_as_none(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """After a few such moments the unlink would be given up, though nothing was ever sent."""
    steps = Paused(kind=StepKind.SENDING, times=MOST_SENDS)
    pace = Pace(poll_interval=0.05, settling=0.2)
    async with worker_for(simulated_enterprise_manager, steps=steps, clock=steps.clock, pace=pace) as worker:
        for _ in range(MOST_SENDS):
            delivery = worker.send({"job": {"id": VENDOR_JOB_ID}, "repository": {"link_id": VENDOR_LINK_ID}})
            await until(partial(getattr, delivery, "requeued"), "the delivery goes back to its queue")
        end = await worker.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)

    assert (end["outcome"], end["evidence"]) == ("succeeded", "task")
    assert simulated_enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1
    assert StepKind.AWAITING_LINKS not in {step.kind for step in steps.steps}
