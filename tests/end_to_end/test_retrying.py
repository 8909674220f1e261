"""A failed unlink is run again, on real parts; and what an old command may still remove."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from tests.end_to_end.test_observing import ledger_only, program
from tests.end_to_end.world import World, vendor_command
from worker.sandbox.processes.worker_process import WorkerProcess
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, Behaviour


def retry(run: int = 1, **others: Any) -> dict[str, Any]:
    """A retry of the vendor page's command."""
    return {"command": "retry.v1", "idempotency_key": "CHG1", "run": run, **others}


def fail_once(world: World, behaviour: Behaviour) -> WorkerProcess:
    """A worker whose first unlink fails, since the job is being edited; from then on it is not."""
    behaviour.running_job = "task_fails"
    world.enterprise_manager.set_running(VENDOR_JOB_ID, running=True)
    worker = world.start_worker()
    world.listen()
    world.send(vendor_command(requested_by="j.doe", ticket={"system": "jira", "id": "OPS-1"}))
    world.until_ended("CHG1")
    world.enterprise_manager.set_running(VENDOR_JOB_ID, running=False)
    return worker


def ends(world: World) -> list[tuple[str, int]]:
    """The outcomes and runs of the terminal events, as they came, without repeats."""
    came = [(event.outcome, event.data["run"]) for event in world.of("CHG1") if event.outcome != "submitted"]
    return list(dict.fromkeys(came))


def test_a_failed_unlink_is_run_again(world: World, behaviour: Behaviour) -> None:
    """A failure that has passed would be answered with the same failure for ever."""
    fail_once(world, behaviour)
    world.send(retry(requested_by="m.roe"))
    world.until(lambda: ("succeeded", 2) in ends(world), "the end of the second run")
    assert ends(world) == [("failed", 1), ("succeeded", 2)]
    assert world.enterprise_manager.links(VENDOR_JOB_ID) == []
    end = world.of("CHG1")[-1]
    asked = end.data["request"]
    assert (asked["requested_by"], asked["retried_by"], asked["user_id"]) == ("j.doe", "m.roe", world.client.user)
    assert (end.data["ticket"]["id"], end.data["attempts"]) == ("OPS-1", 1)
    deletes = world.enterprise_manager.deletes_of(VENDOR_LINK_ID)
    for command in (retry(), retry(2), vendor_command()):  # what is repeated is answered, and does nothing
        received = len(world.of("CHG1"))
        world.send(command)
        world.until(lambda received=received: len(world.of("CHG1")) > received, "an answer")
        assert world.of("CHG1")[-1].id == end.id
    assert world.enterprise_manager.deletes_of(VENDOR_LINK_ID) == deletes


def test_the_log_lines_of_every_run_name_job_repository_and_ticket(world: World, behaviour: Behaviour) -> None:
    """Whoever searches the log for a ticket would miss the run that removed the link: a retry names the key alone."""
    worker = fail_once(world, behaviour)
    world.send(retry())
    world.until(lambda: ("succeeded", 2) in ends(world), "the end of the second run")
    lines = [json.loads(line) for line in worker.log().splitlines()]
    of_runs = [line for line in lines if line["event"].startswith("unlink.")]
    assert {"unlink.task_failed", "unlink.run_started"} <= {line["event"] for line in of_runs}
    assert [line["event"] for line in of_runs].count("unlink.finished") == 2
    known_by = {"job": VENDOR_JOB_ID, "repository": VENDOR_LINK_ID, "ticket": "OPS-1", "idempotency_key": "CHG1"}
    assert [line for line in of_runs if not line.items() >= known_by.items()] == []


def test_the_audit_says_who_retried_and_who_cancelled_as_the_broker_verified_it(
    world: World, behaviour: Behaviour
) -> None:
    """Whoever retries or cancels in another's name would be found nowhere."""
    fail_once(world, behaviour)
    behaviour.edits_held = True
    world.send(retry(requested_by="alice"))
    world.until(lambda: world.of("CHG1")[-1].outcome == "submitted", "the second run's task")
    world.send({"command": "cancel.v1", "idempotency_key": "CHG1", "requested_by": "carol", "reason": "wrong"})
    world.until(lambda: ("cancelled", 2) in ends(world), "the end of the second run")
    user = world.client.user
    who = {"retried_by": "alice", "retry_user_id": user, "cancelled_by": "carol", "cancel_user_id": user}
    listed = program(ledger_only(world), "list", "--output", "json").stdout
    assert json.loads(listed)["request"].items() >= who.items()
    (line,) = csv.DictReader(io.StringIO(program(ledger_only(world), "list", "--output", "csv").stdout))
    assert line.items() >= who.items()
    shown = " ".join(program(ledger_only(world), "status", "CHG1").stdout.split())
    assert f"retried by alice, sent by broker user {user}" in shown
    assert f"by carol, sent by broker user {user}: wrong" in shown
    status = json.loads(program(ledger_only(world), "status", "CHG1", "--output", "json").stdout)
    (cancellation,) = status["cancellations"]
    assert (cancellation["requested_by"], cancellation["user_id"], cancellation["run"]) == ("carol", user, 2)
    details = {step["step"]: step["detail"] for step in status["steps"]}
    assert details["run_started"] == f"2, asked for by alice (sent by {user})"
    assert details["cancel_requested"] == f"carol (sent by {user}): wrong"


def test_a_link_that_was_put_back_is_safe_from_every_run(world: World, behaviour: Behaviour) -> None:
    """An old command would remove a link that it never named."""
    fail_once(world, behaviour)
    (link,) = world.enterprise_manager.links(VENDOR_JOB_ID)
    world.enterprise_manager.remove_link(VENDOR_JOB_ID, link.object_in_job_id)
    world.enterprise_manager.add_link(VENDOR_JOB_ID, link.repository_uid)
    world.send(retry())
    world.until(lambda: len(ends(world)) == 2, "the end of the second run")
    end = world.of("CHG1")[-1]
    assert (end.outcome, end.data["close_code"]) == ("succeeded", "nothing_to_do")
    assert len(world.enterprise_manager.links(VENDOR_JOB_ID)) == 1


def test_a_retry_of_what_was_never_run_is_rejected(world: World) -> None:
    """A mistyped key would be waited for in vain."""
    world.start_worker()
    world.listen()
    world.send(retry())
    world.until_ended("CHG1")
    (rejected,) = world.of("CHG1")
    assert (rejected.outcome, rejected.data["reason"]["code"]) == ("rejected", "run_not_found")


def test_a_cancelled_unlink_can_be_run_again_and_that_run_be_cancelled(world: World, behaviour: Behaviour) -> None:
    """A cancel by mistake would be final; or the cancel of the first run would stop every later one."""
    world.start_worker()
    world.listen()
    world.send({"command": "cancel.v1", "idempotency_key": "CHG1"})
    world.until_acknowledged()
    world.send(vendor_command())
    world.until(lambda: ends(world) == [("cancelled", 1)], "the end of the first run")
    behaviour.edits_held = True
    world.send(retry())
    world.until(lambda: "submitted" in {event.outcome for event in world.of("CHG1")}, "a submitted event")
    received = len(world.of("CHG1"))
    world.send({"command": "cancel.v1", "idempotency_key": "CHG1", "run": 1})  # too late: it is answered
    world.until(lambda: len(world.of("CHG1")) > received, "an answer")
    assert ends(world) == [("cancelled", 1)]
    world.send({"command": "cancel.v1", "idempotency_key": "CHG1", "run": 2, "requested_by": "m.roe"})
    world.until(lambda: ("cancelled", 2) in ends(world), "the end of the second run")
    assert world.of("CHG1")[-1].data["request"]["cancelled_by"] == "m.roe"
    assert len(world.enterprise_manager.links(VENDOR_JOB_ID)) == 1


def test_new_times_and_the_correlation_of_the_retry_hold(world: World) -> None:
    """A command whose deadline has passed could never be run again."""
    world.start_worker()
    world.listen()
    world.send(vendor_command(not_after="2020-01-01T00:00:00Z"))
    world.until_ended("CHG1")
    assert world.of("CHG1")[-1].data["reason"]["code"] == "expired"
    world.send(retry())
    world.until(lambda: ("failed", 2) in ends(world), "the end of the second run")
    assert world.of("CHG1")[-1].data["reason"]["code"] == "expired"
    world.client.publish(json.dumps(retry(2, not_after="2100-01-01T00:00:00Z")).encode(), "default")
    world.until(lambda: ("succeeded", 3) in ends(world), "the end of the third run")
