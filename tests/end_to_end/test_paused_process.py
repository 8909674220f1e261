"""A worker's process that is paused for longer than its lease lasts, and goes on: another worker may have the key."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.end_to_end.in_process import worker_for
from tests.ledger.words import SteppedClock
from tests.steps import RecordedSteps
from tests.waiting import until
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, SimulatedEnterpriseManager
from worker.unlinks.ports.steps import Step, StepKind
from worker.unlinks.rules import Pace


@dataclass(slots=True)
class PausedOnce(RecordedSteps):
    """Has the process paused for a minute at the first step of a kind."""

    kind: StepKind = StepKind.SUBMITTED
    clock: SteppedClock = field(default_factory=SteppedClock)
    paused: bool = False

    def report(self, step: Step) -> None:
        """Keep the step; be paused."""
        RecordedSteps.report(self, step)
        if step.kind is self.kind and not self.paused:
            self.paused = True
            self.clock.advance(60)


async def test_a_process_that_was_paused_publishes_nothing_of_what_it_submitted(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """`submitted` would follow the end that another worker has published meanwhile."""
    steps = PausedOnce()
    async with worker_for(
        simulated_enterprise_manager, steps=steps, clock=steps.clock, pace=Pace(poll_interval=0.05)
    ) as worker:
        delivery = worker.send({"job": {"id": VENDOR_JOB_ID}, "repository": {"link_id": VENDOR_LINK_ID}})
        await until(lambda: delivery.requeued or delivery.acknowledged, "an answer to the delivery")

    assert StepKind.LEASE_LOST in {step.kind for step in steps.steps}
    assert worker.heard.events == []
    assert delivery.requeued
