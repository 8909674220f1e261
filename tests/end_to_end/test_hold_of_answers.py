"""A delivery whose event is not confirmed is held no longer than others: it is answered again when it returns."""

from __future__ import annotations

import asyncio
from typing import Any

from contracts.events import Outcome
from tests.end_to_end.in_process import InProcessWorker, worker_for
from tests.waiting import until
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, SimulatedEnterpriseManager
from worker.unlinks.rules import Pace

UNLINK = {"job": {"id": VENDOR_JOB_ID}, "repository": {"link_id": VENDOR_LINK_ID}}
PACE = Pace(poll_interval=0.05, verify=1.0, settling=0.5)


def leave_unconfirmed(worker: InProcessWorker) -> asyncio.Event:
    """Let no terminal event be confirmed until the returned event is set."""
    confirms = asyncio.Event()
    publish = worker.received.publish

    async def publish_once_confirmed(event: Any, *arguments: Any, **options: Any) -> None:
        if getattr(event, "data", None) is None or event.data.outcome is not Outcome.SUBMITTED:
            await confirms.wait()
        await publish(event, *arguments, **options)

    worker.received.publish = publish_once_confirmed  # type: ignore[method-assign]
    return confirms


async def test_a_confirm_that_does_not_come_does_not_keep_a_delivery(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """The broker would take the delivery back at its consumer time-out, and close the channel for all others."""
    async with worker_for(simulated_enterprise_manager, pace=PACE, hold_seconds=1.5) as worker:
        confirms = leave_unconfirmed(worker)
        first = worker.send(UNLINK)
        await asyncio.wait_for(worker.received.until_delayed(1), 60)
        await until(lambda: first.acknowledged, "the first delivery is given back")
        assert all(event["outcome"] == "submitted" for event in worker.received.events)
        confirms.set()
        end = await worker.end_of()
        await until(lambda: worker.dispatcher.in_flight == 0, "all is answered")
    assert end["outcome"] == "succeeded"
    assert simulated_enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1
