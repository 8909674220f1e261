"""What `/metrics` says of a worker at work."""

from __future__ import annotations

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contracts.events import Outcome, ReasonCode
from tests import programs
from tests.end_to_end.world import World, vendor_command
from tests.private_servers.prometheus import prometheus_program
from tests.telemetry.observed import LOOPBACK, Observed
from worker.sandbox.processes.free_ports import free_port
from worker.sandbox.simulated_enterprise_manager import VENDOR_LINK_ID, Behaviour, Fault

REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"

#: Every label, and all values that it may ever have; None is for bucket bounds and the like, which are constants.
BOUNDED: dict[str, set[str] | None] = {
    "enterprise_manager": {"default", "_unknown"},
    "outcome": {outcome.value for outcome in Outcome},
    "reason": {reason.value for reason in ReasonCode} | {"none"},
    "phase": {"submit", "finish", "publish"},
    "result": {"new", "taken_over", "settled_before", "held_elsewhere", "key_reused"},
    "redelivered": {"true", "false"},
    "method": {"GET", "POST", "DELETE"},
    "status": {"1xx", "2xx", "3xx", "4xx", "5xx", "none"},
    "call": {"claim", "intend", "withdraw", "send_again", "submitted", "settle", "release", "cancel"},
    "le": None,
    "version": None,
    "python": None,
    "generation": {"0", "1", "2"},
}


def observed(world: World, **changes: str) -> Observed:
    """A worker at work, and its publisher listening."""
    return Observed(world.serve(LOOPBACK | changes))


def add_jobs(world: World, count: int) -> list[tuple[str, str]]:
    """Jobs with one link each; job and link."""
    jobs = [world.enterprise_manager.add_job(name=f"Job {number}", links=[REPOSITORY]) for number in range(count)]
    return [(job, world.enterprise_manager.links(job)[0].object_in_job_id) for job in jobs]


def test_an_unlink_is_counted_once_however_often_it_is_reported(world: World) -> None:
    """A publisher that repeats itself, or a broker that does, makes no success out of nothing."""
    worker = observed(world)
    for _ in range(5):
        world.send(vendor_command())
    world.until_ended("CHG1")
    worker.until(lambda: worker.value("unlink_deliveries_total") == 5, "all five delivered")
    world.until_acknowledged()
    # A repeat that came later finds the key settled: its event goes out again.
    world.send(vendor_command())
    worker.until(lambda: worker.value("unlink_claims_total", result="settled_before") == 1, "a key settled before")
    worker.until(lambda: worker.value("unlink_deliveries_in_hand") == 0, "nothing in hand")
    assert worker.value("unlink_unlinks_total", outcome="succeeded", reason="none") == 1
    assert worker.value("unlink_unlinks_total") == 1
    assert worker.value("unlink_deliveries_total", redelivered="false") == 6
    assert worker.value("unlink_claims_total", result="new") == 1
    assert worker.value("unlink_in_flight") == 0
    for phase in ("submit", "finish", "publish"):
        assert worker.value("unlink_phase_duration_seconds_count", phase=phase) == 1, phase
    assert worker.value("unlink_duration_seconds_count", outcome="succeeded") == 1


def test_what_is_under_way_shows(world: World, behaviour: Behaviour) -> None:
    """Somebody who wonders what a worker does sees how much it has in hand, and that its parts are there."""
    behaviour.edits_held = True
    worker = observed(world)
    jobs = add_jobs(world, 3)
    for number, (job, link) in enumerate(jobs):
        world.send(vendor_command(f"CHG{number}", job={"id": job}, repository={"link_id": link}))
    worker.until(lambda: worker.value("unlink_in_flight", enterprise_manager="default") == 3, "three in flight")
    assert worker.value("unlink_deliveries_in_hand") == 3
    for name in ("unlink_broker_up", "unlink_ledger_up", "unlink_enterprise_manager_up", "unlink_broker_consuming"):
        assert worker.value(name) == 1, name
    worker.until(lambda: worker.value("unlink_lease_renewals_total") > 0, "a renewal of the leases")
    behaviour.edits_held = False
    world.until_ended("CHG0", "CHG1", "CHG2")
    worker.until(lambda: worker.value("unlink_in_flight") == 0, "none in flight")
    assert worker.value("unlink_enterprise_manager_requests_total", method="DELETE", status="2xx") == 3
    assert worker.value("unlink_enterprise_manager_request_duration_seconds_count", method="DELETE") == 3
    assert worker.value("unlink_ledger_call_duration_seconds_count", call="settle") == 3
    assert worker.value("unlink_broker_confirms_outstanding") == 0


def test_failures_are_reported_by_reason(world: World) -> None:
    """An alert on failed tasks does not ring for a publisher that misspelt a field, and the other way round."""
    world.enterprise_manager.inject(Fault(kind="task_fails", method="DELETE", path=VENDOR_LINK_ID))
    worker = observed(world)
    world.send(vendor_command())
    world.send(b"junk")
    world.send(vendor_command("plan", dry_run=True))
    world.until_ended("CHG1", None, "plan")
    world.until_acknowledged()
    assert worker.value("unlink_unlinks_total", outcome="failed", reason="task_failed") == 1
    assert worker.value("unlink_unlinks_total", outcome="rejected", reason="invalid_message") == 1
    assert worker.value("unlink_unlinks_total", outcome="planned") == 1
    assert worker.value("unlink_dead_letters_total", reason="invalid_message") == 1


@pytest.mark.slow
def test_a_take_over_is_counted_by_who_takes_over(world: World, behaviour: Behaviour) -> None:
    """Workers that die show as take-overs by the others."""
    behaviour.edits_held = True
    first = observed(world)
    world.send(vendor_command())
    first.until(lambda: first.value("unlink_in_flight") == 1, "an unlink in flight")
    first.worker.kill()
    second = Observed(world.start_worker(LOOPBACK))
    second.until(lambda: second.value("unlink_claims_total", result="taken_over") == 1, "a take-over")
    assert second.value("unlink_deliveries_total", redelivered="true") >= 1
    behaviour.edits_held = False
    world.until_ended("CHG1")


def test_a_key_that_another_worker_has_is_deferred(world: World, behaviour: Behaviour) -> None:
    """Two workers with the same command show as waiting, not as failing."""
    behaviour.edits_held = True
    worker = observed(world)
    world.send(vendor_command())
    worker.until(lambda: worker.value("unlink_in_flight") == 1, "an unlink in flight")
    second = Observed(world.start_worker(LOOPBACK))
    worker.until(lambda: _repeat_until_deferred(world, second), "a deferral")
    assert second.value("unlink_retries_total") == 0
    behaviour.edits_held = False
    world.until_ended("CHG1")


def _repeat_until_deferred(world: World, worker: Observed) -> bool:
    world.send(vendor_command())  # it goes to either of the two
    return worker.value("unlink_deferrals_total") >= 1


def test_an_enterprise_manager_that_is_away_shows(world: World) -> None:
    """The alert for an Enterprise Manager that is down rings for the one that is, and stops when it is back."""
    worker = observed(world)
    world.enterprise_manager.refuse_connections()
    world.send(vendor_command())
    worker.until(lambda: worker.value("unlink_enterprise_manager_up") == 0, "an Enterprise Manager that is down")
    assert worker.value("unlink_enterprise_manager_requests_total", status="none") >= 1
    world.enterprise_manager.accept_connections()
    world.until_ended("CHG1")
    assert worker.value("unlink_enterprise_manager_up") == 1
    assert worker.value("unlink_enterprise_manager_request_retries_total") >= 1


def test_a_quieter_log_counts_no_less(world: World) -> None:
    """Whoever turns the log down keeps the numbers."""
    port = free_port()
    quiet = LOOPBACK | {"UNLINK_LOG__LEVEL": "error", "UNLINK_HTTP__PORT": str(port)}
    worker = Observed(world.start_worker(quiet, wait=False), port)
    worker.until_ready(ready=True)
    world.listen()
    world.unlink()
    worker.until(lambda: worker.value("unlink_deliveries_in_hand") == 0, "nothing in hand")
    assert worker.worker.log() == ""
    assert worker.value("unlink_unlinks_total", outcome="succeeded") == 1


def test_names_and_labels_follow_the_rules(world: World) -> None:
    """Prometheus' own checker has nothing to say, and no label has a value that publishers or servers choose."""
    worker = observed(world)
    for number in range(5):
        world.send(vendor_command(f"CHG{number}", job={"name": f"no such job {number}"}, labels={"a": str(number)}))
    world.send(b"junk")
    for number in range(5):
        world.client.publish(json.dumps(vendor_command(f"LOST{number}")).encode(), f"no.name.{number}")
    world.until_ended(*(f"CHG{number}" for number in range(5)), *(f"LOST{number}" for number in range(5)), None)
    text = worker.get("/metrics").text
    promtool = prometheus_program("promtool")
    checked = programs.run([promtool, "check", "metrics"], input=text)
    assert (checked.returncode, checked.stderr) == (0, "")
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            assert family.name.startswith(("unlink_", "process_", "python_")), sample
            for label, value in sample.labels.items():
                bound = BOUNDED[label]
                assert bound is None or value in bound, sample
