"""A worker is killed at each boundary of the path; another one starts in its place."""

from __future__ import annotations

from pathlib import Path

import pika
import pytest

from tests.end_to_end.world import World, vendor_command
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID

CRASHING = Path(__file__).with_name("crashing_worker.py")


@pytest.mark.parametrize(
    "boundary",
    [
        "intended",
        "deleted",
        "settled",
        # The simulation crashes at each of these too, and in less than a second.
        *(
            pytest.param(boundary, marks=pytest.mark.slow)
            for boundary in (
                "delivered",
                "claimed",
                "looked",
                "submitted",
                "following",
                "followed",
                "verified",
                "published",
            )
        ),
    ],
)
def test_killed_at_a_boundary_the_unlink_still_ends_once(world: World, boundary: str) -> None:
    """Wherever the worker dies, the link goes, one DELETE is enough, and the publisher hears one end."""
    doomed = world.serve({"CRASH_AT": boundary}, [str(CRASHING), "run"])
    world.send(vendor_command())
    world.until(lambda: not doomed.running, "the crash")
    world.start_worker()
    world.until_ended("CHG1")
    world.until_acknowledged()
    world.listen_for(0.5)
    ((outcome, _id),) = world.ends_of("CHG1")
    assert outcome == "succeeded"
    assert world.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1
    assert world.enterprise_manager.links(VENDOR_JOB_ID) == []


def test_what_was_accepted_first_is_what_runs_whichever_delivery_is_at_hand(world: World) -> None:
    """A repeat in other words would change deadline, ticket and requester of what is under way."""
    doomed = world.serve({"CRASH_AT": "intended"}, [str(CRASHING), "run"])
    world.send(vendor_command(requested_by="anna", ticket={"system": "jira", "id": "OPS-1"}))
    world.until(lambda: not doomed.running, "the crash")
    with pika.BlockingConnection(pika.URLParameters(world.environment["UNLINK_BROKER__URL"])) as connection:
        channel = connection.channel()
        world.until(
            lambda: channel.basic_get("unlink.commands.default", auto_ack=True)[0] is not None, "the first delivery"
        )
    world.send(vendor_command(requested_by="ben", reason="again"))
    world.start_worker()
    world.until_ended("CHG1")
    data = world.of("CHG1")[-1].data
    assert (data["requested_by"], data["ticket"]["id"], data["attempts"]) == ("anna", "OPS-1", 2)
