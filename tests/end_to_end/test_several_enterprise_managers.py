"""Several Enterprise Managers under one worker: the trouble of one is not the others'."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pika
import pytest

from tests.end_to_end.world import World, vendor_command
from tests.waiting import wait_until as until
from worker.sandbox.environment import enterprise_manager_environment
from worker.sandbox.processes.worker_process import WorkerProcess
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, Fault, SimulatedEnterpriseManager

BRANCH = "UNLINK_ENTERPRISE_MANAGERS__BRANCH__"
REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"
UNLINKS = 30


@pytest.fixture
def branch() -> Iterator[SimulatedEnterpriseManager]:
    """A second Enterprise Manager, called `branch`."""
    with SimulatedEnterpriseManager.start(password="the branch's") as simulated:
        yield simulated


def start(world: World, branch: SimulatedEnterpriseManager, **changes: str) -> WorkerProcess:
    """A worker of both; `changes` are settings of the branch's."""
    hurried = {"REQUEST_TIMEOUT_SECONDS": "2", "POLL_INTERVAL_SECONDS": "0.4"}
    world.environment |= enterprise_manager_environment(branch, "BRANCH")
    return world.serve({BRANCH + name: value for name, value in (hurried | changes).items()})


def send_to_the_branch(world: World, key: str = "BRANCH1") -> None:
    """An unlink of the vendor's example on the branch."""
    command = vendor_command(key, enterprise_manager="branch")
    world.client.publish(json.dumps(command).encode(), "branch")


def send_many(world: World) -> list[str]:
    """Unlinks for the other one, each of a job of its own; their keys."""
    keys = []
    for number in range(UNLINKS):
        job = world.enterprise_manager.add_job(name=f"Job {number}", links=[REPOSITORY])
        (link,) = world.enterprise_manager.links(job)
        keys.append(f"CHG{number}")
        references = {"job": {"id": job}, "repository": {"link_id": link.object_in_job_id}}
        world.send(vendor_command(keys[-1], **references))
    return keys


def consumers(broker_url: str, enterprise_manager: str) -> int:
    """How many consumers its queue has."""
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        queue = connection.channel().queue_declare(f"unlink.commands.{enterprise_manager}", passive=True)
        return int(queue.method.consumer_count)


def assert_all_succeeded(world: World, keys: list[str]) -> None:
    """Each of them has one end, and it is the right one."""
    for key in keys:
        assert {outcome for outcome, _ in world.ends_of(key)} == {"succeeded"}


def test_each_has_its_own_queue_session_and_links(world: World, branch: SimulatedEnterpriseManager) -> None:
    """Else a command for one could be carried out on the other, under the same IDs."""
    start(world, branch)
    send_to_the_branch(world)
    world.until_ended("BRANCH1")
    assert_all_succeeded(world, ["BRANCH1"])
    assert branch.links(VENDOR_JOB_ID) == []
    assert [link.object_in_job_id for link in world.enterprise_manager.links(VENDOR_JOB_ID)] == [VENDOR_LINK_ID]
    assert world.of("BRANCH1")[-1].content["source"] == "/unlink-worker/branch"


@pytest.mark.parametrize(
    "fault", [Fault("never_answers", times=None), Fault("status", status=503, times=None)], ids=["never answers", "503"]
)
def test_one_in_trouble_leaves_the_other_alone_and_resumes_by_itself(
    world: World, branch: SimulatedEnterpriseManager, fault: Fault
) -> None:
    """Else one server's night would be everybody's; or somebody would have to restart the worker in the morning."""
    branch.inject(fault)
    worker = start(world, branch)
    send_to_the_branch(world)
    keys = send_many(world)
    world.until_ended(*keys)
    assert_all_succeeded(world, keys)
    # The consumer stays registered while it holds the first delivery, and parks what arrives beside it.
    worker.wait_for_log("broker.paused")
    send_to_the_branch(world, "BRANCH2")
    assert world.of("BRANCH1") == world.of("BRANCH2") == []
    branch.clear_faults()
    world.until_ended("BRANCH1", "BRANCH2")
    assert_all_succeeded(world, ["BRANCH1", "BRANCH2"])
    assert branch.deletes_of(VENDOR_LINK_ID) == 1


def test_one_that_is_away_uses_up_no_attempts(
    world: World, branch: SimulatedEnterpriseManager, broker_url: str
) -> None:
    """Else commands would end among the dead letters for an outage that they know nothing of."""
    branch.refuse_connections()
    worker = start(world, branch)
    worker.wait_for_log("enterprise_manager.down")
    until(lambda: consumers(broker_url, "branch") == 0, "no consumer")
    assert consumers(broker_url, "default") == 1
    for number in range(5):
        send_to_the_branch(world, f"BRANCH{number}")
    until(lambda: world.client.count("unlink.commands.branch") == 5, "the commands where they were put")
    branch.accept_connections()
    world.until_ended(*(f"BRANCH{number}" for number in range(5)))
    assert {event.data["attempts"] for event in world.received if event.outcome == "succeeded"} == {1}
    assert branch.deletes_of(VENDOR_LINK_ID) == 1


def test_a_refused_password_is_neither_hammered_nor_the_others_trouble(
    world: World, branch: SimulatedEnterpriseManager
) -> None:
    """Else the account would be locked, or the whole worker stand still for one wrong setting."""
    worker = start(world, branch, PASSWORD="hunter2")
    send_to_the_branch(world)
    keys = send_many(world)
    world.until_ended(*keys)
    assert_all_succeeded(world, keys)
    worker.wait_for_log("enterprise_manager.logon_refused")
    worker.wait_for_log("broker.paused")
    assert f"check {BRANCH}USERNAME and {BRANCH}PASSWORD" in worker.log()
    assert "hunter2" not in worker.log()
    assert branch.count("POST", "/sessionMngr/") == 1
    assert world.of("BRANCH1") == []
    assert world.enterprise_manager.count("POST", "/sessionMngr/") == 1


def test_a_worker_logs_off_from_both_and_from_nobody_elses_session(
    world: World, branch: SimulatedEnterpriseManager
) -> None:
    """Else each restart would leave sessions behind, of which an account may have only so many."""
    first, second = start(world, branch), start(world, branch)
    world.send(vendor_command())
    send_to_the_branch(world)
    world.until_ended("CHG1", "BRANCH1")
    until(lambda: len(branch.sessions) == len(world.enterprise_manager.sessions) == 2, "a session of each worker")
    first.stop()
    assert (len(branch.sessions), len(world.enterprise_manager.sessions)) == (1, 1)
    second.stop()
    assert (branch.sessions, world.enterprise_manager.sessions) == ([], [])


def test_one_that_never_answers_does_not_keep_the_worker_from_ending(
    world: World, branch: SimulatedEnterpriseManager
) -> None:
    """Else each restart would take as long as the longest time-out, or end in the midst of others' work."""
    branch.inject(Fault("never_answers", times=None))
    worker = start(world, branch, REQUEST_TIMEOUT_SECONDS="60")
    until(lambda: branch.count() > 0, "a request that is not answered")
    began = time.monotonic()
    worker.stop()
    assert time.monotonic() - began < 20
