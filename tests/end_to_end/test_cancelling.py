"""A cancel that comes before, during and after; here and through another worker."""

from __future__ import annotations

from typing import Any

import pytest

from tests.end_to_end.world import World, vendor_command
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, Behaviour

CANCEL: dict[str, Any] = {
    "command": "cancel.v1",
    "idempotency_key": "CHG1",
    "requested_by": "j.doe",
    "reason": "wrong one",
}


def test_a_cancel_that_comes_first_makes_the_unlink_cancelled(world: World) -> None:
    """Who stops a change before it was asked for is obeyed; the publisher hears it with its ticket."""
    worker = world.serve()
    world.send(CANCEL)
    worker.wait_for_log("unlink.cancel_recorded")
    world.unlink(ticket={"system": "jira", "id": "OPS-1"})
    (cancelled,) = world.of("CHG1")
    assert (cancelled.outcome, cancelled.data["ticket"]["id"]) == ("cancelled", "OPS-1")
    asked = cancelled.data["request"]
    assert (asked["cancelled_by"], asked["user_id"], cancelled.data["run"]) == ("j.doe", world.client.user, 1)
    assert len(world.enterprise_manager.links(VENDOR_JOB_ID)) == 1
    assert world.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_cancel_stops_a_task_under_way(world: World, behaviour: Behaviour, workers: int) -> None:
    """The task is stopped, whichever worker hears of it; the link is still there, and the event says so."""
    behaviour.edits_held = True
    world.serve()
    world.send(vendor_command())
    world.until(lambda: world.of("CHG1"), "a submitted event")
    if workers == 2:
        world.start_worker()  # the broker may give it the cancel; the first hears of it through the ledger
    world.send(CANCEL)
    world.until_ended("CHG1")
    assert {outcome for outcome, _ in world.ends_of("CHG1")} == {"cancelled"}
    assert world.of("CHG1")[-1].data["request"]["cancelled_by"] == "j.doe"
    assert len(world.enterprise_manager.links(VENDOR_JOB_ID)) == 1
    assert world.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1


def test_a_cancel_that_comes_too_late_is_answered_with_what_happened(world: World) -> None:
    """The link is gone, and nobody is told otherwise."""
    world.serve()
    world.unlink()
    received = len(world.received)
    world.send(CANCEL)
    world.until(lambda: len(world.received) > received, "an answer to the cancel")
    assert {outcome for outcome, _ in world.ends_of("CHG1")} == {"succeeded"}
