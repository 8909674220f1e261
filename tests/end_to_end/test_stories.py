"""What a new user does with tickets and pipelines, and what should come of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

import contracts
from tests import programs
from tests.end_to_end.test_batches import ends_of_batches
from tests.end_to_end.world import World, vendor_command
from tests.preloaded.preloaded import run_program
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_JOB_NAME,
    VENDOR_LINK_ID,
    VENDOR_REPOSITORY_NAME,
    Behaviour,
)

NAMES = ("--job", VENDOR_JOB_NAME, "--repository", VENDOR_REPOSITORY_NAME)
NO_LINK = "00000000-0000-0000-0000-000000000000"


def program(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program, to its end."""
    return run_program(*arguments, settings=world.environment)


def test_a_link_that_was_put_back_is_removed_by_the_same_call(world: World) -> None:
    """The call would exit with 0 and say "succeeded", and the link still be there."""
    world.start_worker()
    first = program(world, "submit", "--wait", *NAMES)
    assert (first.returncode, world.enterprise_manager.links(VENDOR_JOB_ID)) == (0, []), first.stderr
    world.enterprise_manager.put_back(VENDOR_JOB_ID, VENDOR_REPOSITORY_NAME)
    second = program(world, "submit", "--wait", *NAMES)
    assert (second.returncode, world.enterprise_manager.links(VENDOR_JOB_ID)) == (0, []), second.stderr


def test_a_pipeline_that_a_second_person_runs_again_is_answered_and_its_ticket_stays_closed(world: World) -> None:
    """It would be rejected as a reused key, and the closed ticket opened again."""
    world.serve()
    recipe = Path(contracts.__file__).parent / "recipes" / "gitlab-ci.yml"
    step = "\n".join(yaml.safe_load(recipe.read_text())["unlink-repository"]["script"])
    said = []
    for person in ("j.doe", "m.roe"):
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "UNLINK_BROKER__URL": world.environment["UNLINK_BROKER__URL"],
            "JOB_ID": VENDOR_JOB_ID,
            "LINK_ID": VENDOR_LINK_ID,
            "CI_PIPELINE_ID": "4711",
            "CI_PIPELINE_URL": "https://gitlab.example.com/4711",
            "GITLAB_USER_LOGIN": person,
        }
        done = programs.run(["bash", "-eu", "-c", step], env=environment, timeout=90)
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout)
    assert "nothing was sent again" in said[1]
    world.until(lambda: len([event for event in world.received if event.outcome == "succeeded"]) > 1, "both answers")
    ends = {(event.id, event.data["requested_by"], event.data["close_code"]) for event in world.received[1:]}
    assert {(requester, code) for _, requester, code in ends} == {("j.doe", "done")}
    assert len(ends) == 1
    assert world.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1


def test_a_failure_is_not_final(world: World, behaviour: Behaviour) -> None:
    """Else a command that failed because the job was being edited can never succeed."""
    behaviour.running_job = "task_fails"
    world.enterprise_manager.set_running(VENDOR_JOB_ID, running=True)
    world.start_worker()
    failed = program(world, "submit", "--wait", *NAMES, "--ticket", "jira:OPS-1")
    assert (failed.returncode, "task_failed" in failed.stdout) == (1, True), failed.stderr
    world.enterprise_manager.set_running(VENDOR_JOB_ID, running=False)
    again = program(world, "retry", "--ticket", "OPS-1", "--wait", "--yes")
    assert (again.returncode, world.enterprise_manager.links(VENDOR_JOB_ID)) == (0, []), again.stderr
    shown = program(world, "status", "--ticket", "OPS-1")
    assert (shown.returncode, "succeeded" in shown.stdout) == (0, True)


def test_consent_after_a_refusal_is_another_command_of_the_same_ticket(world: World) -> None:
    """Who consents once the linked backups were named would be told that the key belongs to another command."""
    em = world.enterprise_manager
    guarded = em.add_job(name="Guarded", links=[em.add_repository(name="Retired")], linked_backups=[NO_LINK])
    world.start_worker()
    order = ("submit", "--wait", "--job", "Guarded", "--repository", "Retired", "--ticket", "jira:OPS-1")
    refused = program(world, *order)
    assert (refused.returncode, "linked_backups_at_risk" in refused.stdout) == (1, True), refused.stderr
    assert len(em.links(guarded)) == 1
    done = program(world, *order, "--allow-linked-backups-removal")
    assert (done.returncode, em.links(guarded)) == (0, []), done.stdout + done.stderr


def test_a_ticket_with_two_links_is_done_when_both_are_gone(world: World, behaviour: Behaviour, tmp_path: Path) -> None:
    """It would be closed when the second succeeded, though the first had failed."""
    behaviour.running_job = "task_fails"
    em = world.enterprise_manager
    other = em.add_job(name="Other", links=[em.add_repository(name="Retired")])
    em.set_running(VENDOR_JOB_ID, running=True)
    file = tmp_path / "links.csv"
    rows = (f"{VENDOR_JOB_NAME},{VENDOR_REPOSITORY_NAME}", "Other,Retired")
    file.write_text("\n".join(["job,repository,ticket_system,ticket_id", *(f"{row},jira,OPS-1" for row in rows)]))
    world.serve()
    with ends_of_batches(world) as ends:
        assert program(world, "submit", "--wait", "--file", str(file)).returncode == 1
        half = ends.next()
        assert (half["data"]["ticket"]["id"], half["data"]["all_succeeded"]) == ("OPS-1", False)
        em.set_running(VENDOR_JOB_ID, running=False)
        assert program(world, "retry", "--ticket", "OPS-1", "--wait", "--yes").returncode == 0
        assert ends.other_than(half)["data"]["all_succeeded"] is True
    assert em.links(VENDOR_JOB_ID) + em.links(other) == []


def test_what_would_not_be_done_is_said_at_once(world: World) -> None:
    """A dry run would pass that finds a refusal; a mistyped name would vanish, and its ticket hang."""
    world.serve()
    refused = program(
        world, "submit", "--wait", *NAMES[:2], "--repository", NO_LINK, "--if-absent", "fail", "--dry-run"
    )
    assert (refused.returncode, "link_absent" in refused.stdout) == (5, True), refused.stdout
    mistyped = program(world, "submit", "--wait", *NAMES, "--em", "defualt")
    assert (mistyped.returncode, "'defualt'" in mistyped.stderr) == (2, True), mistyped.stderr
    mistyped = program(world, "cancel", "CHG1", "--em", "defualt")
    assert (mistyped.returncode, "'defualt'" in mistyped.stderr) == (2, True), mistyped.stderr
    body = json.dumps(vendor_command(enterprise_manager="defualt")).encode()
    world.client.publish(body, "default")  # a program that publishes by itself
    world.until_ended("CHG1")
    rejected = world.of("CHG1")[-1]
    assert (rejected.outcome, rejected.data["reason"]["code"]) == ("rejected", "unknown_enterprise_manager")


def test_people_find_what_can_be_done_and_what_was_done_by_names_that_they_know(world: World) -> None:
    """They would have hashes, and no way to learn which links there are, or that an Enterprise Manager is paused."""
    worker = world.start_worker()
    links = program(world, "links", "--repository", VENDOR_REPOSITORY_NAME, "--output", "json")
    (link,) = (json.loads(line) for line in links.stdout.splitlines())
    assert link["repository"] == {"link_id": VENDOR_LINK_ID}
    done = program(world, "submit", "--wait", *NAMES, "--ticket", "jira:OPS-1")
    listed = program(world, "list", "--job", VENDOR_JOB_NAME)
    shown = program(world, "status", "--ticket", "OPS-1")
    for said in (done.stdout, listed.stdout, shown.stdout):
        words = set(re.findall(r"\w+", said))
        assert words >= {*re.findall(r"\w+", f"{VENDOR_JOB_NAME} {VENDOR_REPOSITORY_NAME} OPS")}, said
    assert program(world, "pause", "default", "--by", "ada").returncode == 0
    worker.wait_for_log("broker.paused")
    waiting = program(world, "submit", "--wait", "--wait-seconds", "5", *NAMES)
    assert (waiting.returncode, "ada" in waiting.stderr) == (3, True), waiting.stderr
    assert "ada" in program(world, "doctor").stdout
