"""From an unlink command on a real queue to its result on a real exchange."""

from __future__ import annotations

from typing import Any

import pika
import pytest

from tests.end_to_end.world import World, vendor_command
from tests.rabbitmq import own_node
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, Behaviour, Fault

REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"
BACKUP = "3b1f2d4c-0c55-4a0e-8a52-1d0f9fd3f7a4"
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "xml": ("xml", {}),
    "json": ("json", {}),
    "json of a 13.0 server": ("json", {"json_keys": "camel", "json_byte_order_mark": True}),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_vendor_pages_example_is_unlinked(world: World, behaviour: Behaviour, kind: str) -> None:
    """One submitted and one succeeded event, one logon, one DELETE, an empty queue: the job that all this is for."""
    response_format, switches = FORMATS[kind]
    for switch, position in switches.items():
        setattr(behaviour, switch, position)
    world.serve({"UNLINK_ENTERPRISE_MANAGERS__DEFAULT__FORMAT": response_format})
    world.unlink()
    world.until_acknowledged()
    submitted, succeeded = world.of("CHG1")
    assert submitted.content["type"] == "unlink.submitted.v1"
    assert succeeded.content["type"] == "unlink.succeeded.v1"
    data = succeeded.data
    assert (data["evidence"], data["verified"], data["changed"]) == ("task", True, True)
    assert (data["task"]["id"], data["task"]["operation"], data["task"]["message"]) == ("task-1", "UpdateJob", "Ok")
    assert world.enterprise_manager.links(VENDOR_JOB_ID) == []
    assert world.enterprise_manager.count("POST", "/sessionMngr/") == 1
    assert world.enterprise_manager.count("DELETE", "/linkedBackupRepositories/") == 1


def test_the_same_message_ten_more_times_changes_nothing(world: World) -> None:
    """A publisher that retries does no harm, and always hears the same event."""
    world.serve()
    for _ in range(11):
        world.unlink()
    world.until_acknowledged()
    world.listen_for(1)
    assert len({event.id for event in world.of("CHG1")}) == 2
    assert len({event.body for event in world.of("CHG1") if event.outcome == "succeeded"}) == 1
    assert world.enterprise_manager.count("DELETE", "/linkedBackupRepositories/") == 1


def test_the_same_request_by_another_person_gets_the_same_answer(world: World) -> None:
    """A second person's run of a pipeline would be rejected, and a closed ticket be opened again."""
    world.serve()
    world.unlink(requested_by="anna", ticket={"system": "jira", "id": "OPS-1"})
    world.until_acknowledged()
    repeat = vendor_command(requested_by="ben", reason="again", timeout_seconds=60, labels={"run": "2"})
    world.send(repeat)
    world.until(lambda: len(world.of("CHG1")) == 3, "an answer to the repeat")
    _, first, again = world.of("CHG1")
    assert again.body == first.body
    assert again.data["requested_by"] == "anna"
    assert world.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1


def test_operation_finished_is_not_the_end(world: World, behaviour: Behaviour) -> None:
    """What the server calls done, but has not collected, is not reported as done."""
    behaviour.operation_finished_seconds = 3600
    behaviour.link_goes_at = "finished"
    world.serve()
    world.send(vendor_command())
    world.until(lambda: world.enterprise_manager.count("GET", "/tasks/") >= 4, "several looks at the task")
    assert {event.outcome for event in world.of("CHG1")} == {"submitted"}


def test_a_failed_task_is_failed_with_the_servers_message(world: World) -> None:
    """The ticket says in the server's words why the link is still there."""
    message = "The job is being edited by another user."
    world.enterprise_manager.inject(Fault(kind="task_fails", method="DELETE", path=VENDOR_LINK_ID, message=message))
    world.serve()
    failed = world.unlink()
    assert failed.data["reason"] == {"code": "task_failed", "message": message}
    assert failed.data["changed"] is False


def test_a_list_that_lags_is_said_not_guessed(world: World, behaviour: Behaviour) -> None:
    """The server's word without a look that bears it out is told as just that."""
    behaviour.list_lag_seconds = 3600
    world.serve({"UNLINK_ENTERPRISE_MANAGERS__DEFAULT__VERIFY_SECONDS": "1"})
    data = world.unlink().data
    assert (data["outcome"], data["evidence"], data["verified"]) == ("succeeded", "task", False)


def test_an_unreadable_message_blocks_nobody(world: World) -> None:
    """Junk is answered, set aside with its reason, and the next command is served."""
    world.serve()
    world.send(b"\xffjunk")
    world.send(vendor_command())
    world.until_ended(None, "CHG1")
    world.until_acknowledged()
    (rejected,) = world.of(None)
    assert rejected.data["reason"]["code"] == "invalid_message"
    assert world.client.count("unlink.dead") == 1


def test_a_reused_key_runs_nothing(world: World) -> None:
    """Two commands under one key: the second is refused, and its link stays."""
    world.serve()
    world.unlink()
    other = world.enterprise_manager.add_job(name="Other", links=[REPOSITORY])
    (link,) = world.enterprise_manager.links(other)
    world.send(vendor_command(job={"id": other}, repository={"link_id": link.object_in_job_id}))
    world.until(lambda: "rejected" in {event.outcome for event in world.received}, "a rejection")
    rejected = next(event for event in world.received if event.outcome == "rejected")
    assert rejected.data["reason"]["code"] == "key_reused"
    assert len(world.enterprise_manager.links(other)) == 1


def test_linked_backups_are_not_dropped_without_consent(world: World) -> None:
    """An edit that would drop backups is not made for a command that does not say so; with consent they are listed."""
    job = world.enterprise_manager.add_job(name="Guarded", links=[REPOSITORY], linked_backups=[BACKUP])
    (link,) = world.enterprise_manager.links(job)
    world.serve()
    references = {"job": {"id": job}, "repository": {"link_id": link.object_in_job_id}}
    world.send(vendor_command("plan", dry_run=True, **references))
    world.send(vendor_command("no", **references))
    world.until_ended("plan", "no")
    refused = world.of("no")[-1].data
    assert (refused["reason"]["code"], refused["linked_backups_removed"]) == ("linked_backups_at_risk", [])
    assert (refused["job"]["name"], refused["repository"]["uid"]) == ("Guarded", REPOSITORY)
    assert len(world.of("plan")[-1].data["linked_backups_removed"]) == 1
    assert world.enterprise_manager.count("DELETE", "/linkedBackupRepositories/") == 0
    world.unlink("yes", allow_linked_backups_removal=True, **references)
    assert world.of("yes")[-1].data["outcome"] == "succeeded"
    assert len(world.of("yes")[-1].data["linked_backups_removed"]) == 1


def test_each_dry_run_is_an_event_of_its_own(world: World) -> None:
    """A consumer that drops repeats by ID would drop the second plan, which may say something else than the first."""
    world.serve()
    world.unlink("plan", dry_run=True, requested_by="j.doe", reason="to see")
    (link,) = world.enterprise_manager.links(VENDOR_JOB_ID)
    world.enterprise_manager.remove_link(VENDOR_JOB_ID, link.object_in_job_id)
    world.send(vendor_command("plan", dry_run=True))
    world.until(lambda: len(world.of("plan")) == 2, "a second plan")
    first, second = world.of("plan")
    assert (first.data["close_code"], second.data["close_code"]) == ("not_done", "nothing_to_do")
    assert first.id != second.id
    assert first.data["run"] is None
    asked = {name: first.data["request"][name] for name in ("requested_by", "reason", "user_id")}
    assert asked == {"requested_by": "j.doe", "reason": "to see", "user_id": world.client.user}


@pytest.mark.slow
def test_a_broker_restarted_under_a_hundred_unlinks_loses_none(
    world: World, broker: LocalBroker, behaviour: Behaviour
) -> None:
    """All hundred end, each with one terminal event ID, and no link is deleted twice."""
    jobs = [world.enterprise_manager.add_job(name=f"Job {number}", links=[REPOSITORY]) for number in range(100)]
    links = [world.enterprise_manager.links(job)[0].object_in_job_id for job in jobs]
    keys = [f"CHG{number}" for number in range(100)]
    behaviour.edits_held = True
    world.serve({"UNLINK_ENTERPRISE_MANAGERS__DEFAULT__MAX_IN_FLIGHT": "200"})
    for key, job, link in zip(keys, jobs, links, strict=True):
        world.send(vendor_command(key, job={"id": job}, repository={"link_id": link}))
    world.until(
        lambda: world.enterprise_manager.count("DELETE", "/linkedBackupRepositories/") == 100, "all hundred in flight"
    )
    own_node(broker).restart()
    world.reconnect()
    world.listen()
    behaviour.edits_held = False
    world.until_ended(*keys)
    world.until_acknowledged()
    for key, link in zip(keys, links, strict=True):
        assert len(world.ends_of(key)) == 1
        assert world.enterprise_manager.deletes_of(link) == 1


def test_any_amqp_client_will_do(world: World, broker_url: str) -> None:
    """A publisher needs no property, no header and no library of ours: a body on the exchange is enough."""
    world.serve()
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        body = (
            f'{{"command":"unlink.v1","idempotency_key":"K","job":{{"id":"{VENDOR_JOB_ID}"}},'
            f'"repository":{{"link_id":"{VENDOR_LINK_ID}"}}}}'
        )
        connection.channel().basic_publish("unlink.commands", "default", body.encode())
    world.until_ended("K")
    assert {outcome for outcome, _ in world.ends_of("K")} == {"succeeded"}
