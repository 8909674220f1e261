"""A worker is killed with unlinks in flight, and another one goes on with them."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest

from tests.end_to_end.world import World, vendor_command
from worker.sandbox.processes.worker_process import WorkerProcess
from worker.sandbox.simulated_enterprise_manager import Behaviour
from worker.settings import LedgerSettings
from worker.unlinks.claiming import SOON_AFTER_SECONDS

REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"
DEFAULT_LEASE = {"UNLINK_LEDGER__LEASE_SECONDS": f"{LedgerSettings.model_fields['lease_seconds'].default:g}"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def world_of_two_hosts_or_one(request: pytest.FixtureRequest) -> World:
    """A world with each kind of ledger: one host, and several."""
    world: World = request.getfixturevalue("world" if request.param == "sqlite" else "world_on_postgresql")
    return world


#: After so many seconds at most, what a killed worker had in flight is settled. The time of the processor is no part of
#: what is asserted: a busy machine takes longer.
SETTLED_WITHIN_SECONDS = 12.0


def log_of(worker: WorkerProcess) -> list[dict[str, Any]]:
    """A worker's log so far."""
    return [json.loads(line) for line in worker.log().splitlines(keepends=True) if line.endswith("}\n")]


def test_the_waits_after_a_crash_leave_time_to_read_the_links() -> None:
    """With a longer lease, or a longer wait after it, each crash would keep its unlinks waiting for longer."""
    half_a_second_to_work = 0.5
    waits = LedgerSettings.model_fields["lease_seconds"].default + SOON_AFTER_SECONDS
    assert waits + half_a_second_to_work <= SETTLED_WITHIN_SECONDS


def test_what_a_killed_worker_had_in_flight_is_settled_when_its_lease_ends(
    world_of_two_hosts_or_one: World, behaviour: Behaviour
) -> None:
    """Each crash would keep its unlinks waiting for minutes, in delay queues behind all that was sent meanwhile."""
    world = world_of_two_hosts_or_one
    behaviour.edits_held = True
    doomed = world.start_worker(DEFAULT_LEASE)
    world.listen()
    em = world.enterprise_manager
    keys = [f"CHG{number}" for number in range(5)]
    links = {}
    for key in keys:
        job = em.add_job(name=f"Job of {key}", links=[REPOSITORY])
        (links[key],) = (link.object_in_job_id for link in em.links(job))
        world.send(vendor_command(key, job={"id": job}, repository={"link_id": links[key]}))
    doomed.wait_for_log("unlink.submitted", len(keys))
    other = world.start_worker(DEFAULT_LEASE)
    doomed.kill()
    killed = time.monotonic()
    other.wait_for_log("unlink.awaiting_lease", len(keys))
    waits = [entry["seconds"] for entry in log_of(other) if entry["event"] == "unlink.awaiting_lease"]
    assert max(waits) + SOON_AFTER_SECONDS <= SETTLED_WITHIN_SECONDS
    behaviour.edits_held = False
    world.until_ended(*keys)
    sys.stdout.write(f"\nsettled and published {time.monotonic() - killed:.2f} s after SIGKILL\n")
    world.until_acknowledged()
    for key in keys:
        data = world.of(key)[-1].data
        assert (data["outcome"], data["evidence"], data["changed"]) == ("succeeded", "links", True)
        assert em.deletes_of(links[key]) == 1
    assert "unlink.deferred" not in {entry["event"] for entry in log_of(other)}
