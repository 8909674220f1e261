"""`unlink-worker offboard`: a repository is unlinked from every job by one command."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.test_batches import ends_of_batches
from tests.end_to_end.world import World
from tests.preloaded.preloaded import run_program
from tests.terminal import Terminal
from worker.sandbox.processes.worker_process import surroundings
from worker.sandbox.simulated_enterprise_manager import Behaviour, Fault

PROGRAM = (sys.executable, "-m", "worker")

#: How often a worker is killed, in seconds.
KILLED_EVERY_SECONDS = 10.0


def offboard(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command's end."""
    return run_program("offboard", "--repository", "Retired", *arguments, settings=world.environment)


def furnish(world: World, jobs: int) -> tuple[dict[str, str], str]:
    """Jobs with links to a repository that is retired, by job, and to one that is kept, whose UID comes second."""
    em = world.enterprise_manager
    kept, retired = em.add_repository(name="Kept"), em.add_repository(name="Retired")
    made = [em.add_job(name=f"Copy {number:03}", links=[retired, kept], linked_backups=[]) for number in range(jobs)]
    links = {job: link.object_in_job_id for job in made for link in em.links(job) if link.repository_uid == retired}
    return links, kept


def test_the_plan_is_shown_and_nothing_is_published_unasked(world: World) -> None:
    """All links of a repository would be gone by a mistyped name."""
    links, _ = furnish(world, 2)
    world.start_worker()
    planned = offboard(world, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert all(link in planned.stdout for link in links.values())
    assert "jobs 2, links 2, linked backups at risk 0" in planned.stdout
    plan = json.loads(offboard(world, "--dry-run", "--output", "json", "--ticket", "jira:OPS-1").stdout)
    assert (plan["jobs"], plan["links"], plan["linked_backups_at_risk"]) == (2, 2, 0)
    assert {each["repository"]["link_id"] for each in plan["commands"]} == set(links.values())
    assert {each["ticket"]["id"] for each in plan["commands"]} == {"OPS-1"}
    assert {each["batch"]["size"] for each in plan["commands"]} == {2}
    unasked = offboard(world)
    assert (unasked.returncode, "--yes is needed" in unasked.stderr) == (2, True)
    assert all(world.enterprise_manager.deletes_of(link) == 0 for link in links.values())


def test_the_events_of_an_offboarding_name_job_and_repository(world: World) -> None:
    """A person who reads a ticket, or the list of what was done, would see nothing but IDs."""
    furnish(world, 2)
    world.serve()
    done = offboard(world, "--yes", "--ticket", "jira:OPS-1")
    assert (done.returncode, "Copy 000 / Retired  OPS-1  on the queue" in done.stdout) == (0, True), done.stdout
    world.until(lambda: len([event for event in world.received if event.outcome == "succeeded"]) == 2, "both ends")
    ends = [event.data for event in world.received if event.outcome == "succeeded"]
    assert {(end["job"]["name"], end["repository"]["name"]) for end in ends} == {
        ("Copy 000", "Retired"),
        ("Copy 001", "Retired"),
    }
    assert all("of repository 'Retired' to job 'Copy 00" in end["summary"] for end in ends)
    listed = run_program("list", "--ticket", "OPS-1", "--output", "json", settings=world.environment)
    found = [json.loads(line)["repository"]["name"] for line in listed.stdout.splitlines()]
    assert found == ["Retired", "Retired"], listed.stderr
    assert world.enterprise_manager.count("GET", "/repositories") <= 2  # of the command, and of the worker


def test_linked_backups_at_risk_are_counted_and_left_alone_without_consent(world: World) -> None:
    """Backups would be dropped that nobody was told of."""
    em = world.enterprise_manager
    retired = em.add_repository(name="Retired")
    em.add_job(name="Copy", links=[retired], linked_backups=[str(uuid.UUID(int=number)) for number in (1, 2)])
    world.start_worker()
    refused = offboard(world, "--yes")
    assert (refused.returncode, "linked backups at risk 2" in refused.stdout) == (1, True), (
        refused.stdout + refused.stderr
    )
    assert "linked_backups_at_risk" in refused.stdout
    done = offboard(world, "--yes", "--allow-linked-backups-removal")
    assert done.returncode == 0, done.stdout
    again = offboard(world, "--yes")
    assert (again.returncode, again.stdout) == (0, "There are no links.\n")


@pytest.mark.parametrize("shown", ["empty", "400"])
def test_a_job_whose_links_are_never_listed_is_named_and_fails_no_other(
    world: World, behaviour: Behaviour, shown: Any
) -> None:
    """One job of version 11a anywhere would make each offboarding a failure; or nobody would look at it."""
    behaviour.links_of_legacy_copy_jobs = shown
    em = world.enterprise_manager
    retired = em.add_repository(name="Retired")
    job = em.add_job(name="Copy", links=[retired], linked_backups=[])
    legacy = em.add_job(name="Of 11a", links=[retired], job_type="BackupCopy")
    world.start_worker()
    plan = offboard(world, "--dry-run", "--output", "json")
    assert (plan.returncode, "Of 11a" in plan.stderr) == (0, True), plan.stderr
    told = json.loads(plan.stdout)
    assert (told["links"], told["unread"], told["unlisted"]) == (1, [], [{"id": legacy, "name": "Of 11a"}])
    done = offboard(world, "--yes")
    assert (done.returncode, em.links(job)) == (0, []), done.stdout + done.stderr
    assert f"the links of Of 11a ({legacy})" in done.stderr
    assert "the repository may still be linked there" in done.stderr
    again = offboard(world, "--yes")
    assert (again.returncode, again.stdout, "Of 11a" in again.stderr) == (0, "No link is listed.\n", True)


@pytest.mark.slow
def test_it_exits_with_the_status_of_the_worst_end(world: World, tmp_path: Path) -> None:
    """A pipeline would go on to delete a repository whose links stay. 0, 1 and 2 for wrong usage are seen above."""
    furnish(world, 2)
    policy = tmp_path / "policy.toml"
    policy.write_text("rules = []\n")
    denying = world.serve({"UNLINK_POLICY_FILE": str(policy)})
    denied = offboard(world, "--yes", "--ticket", "jira:OPS-1")
    assert (denied.returncode, "access_denied" in denied.stdout) == (2, True), denied.stdout + denied.stderr
    denying.stop()
    worker = world.start_worker()
    plan = json.loads(offboard(world, "--dry-run", "--output", "json", "--ticket", "jira:OPS-2").stdout)
    for command in plan["commands"]:
        world.send({"command": "cancel.v1", "idempotency_key": command["idempotency_key"]})
    world.until_acknowledged()
    cancelled = offboard(world, "--yes", "--ticket", "jira:OPS-2")
    assert (cancelled.returncode, "cancelled" in cancelled.stdout) == (4, True), cancelled.stdout + cancelled.stderr
    worker.stop()
    unserved = offboard(world, "--yes", "--ticket", "jira:OPS-3", "--wait-seconds", "1")
    assert unserved.returncode == 3, unserved.stdout + unserved.stderr
    assert world.enterprise_manager.departures == {}


def test_a_job_that_cannot_be_read_makes_it_incomplete(world: World) -> None:
    """A repository would be taken for unlinked from all jobs although one was never looked at."""
    em = world.enterprise_manager
    furnish(world, 1)
    strange = em.add_job(name="Strange", links=[])
    unreadable = Fault("wrong_content", path=f"/jobs/{strange}/linked", times=None, body="<Repositories/>")
    em.inject(replace(unreadable, content_type="application/xml"))
    world.start_worker()
    ended = offboard(world, "--yes")
    assert (ended.returncode, len(em.departures)) == (1, 1), ended.stdout + ended.stderr
    assert "Not read, so its links are missing here: Strange: " in ended.stderr


@pytest.mark.slow
def test_on_a_terminal_it_asks_and_shows_how_far_it_is(world: World) -> None:
    """Whoever removes a thousand links would sit before a screen that stands still."""
    furnish(world, 3)
    world.start_worker()
    command = [*PROGRAM, "offboard", "--repository", "Retired"]
    environment = surroundings() | world.environment | {"TERM": "xterm"}
    for answer, status, shown in (("n", 1, "Nothing was published."), ("y", 0, "3/3")):
        terminal = Terminal(command, environment, columns=140)
        terminal.until("Remove these 3 links? [y/N]")
        terminal.write(f"{answer}\n")
        terminal.until(shown)
        assert terminal.wait() == status, terminal.seen
    assert re.search(r"submitted.*3/3", terminal.seen)
    assert re.search(r"ended.*3/3", terminal.seen)
    assert len(world.enterprise_manager.departures) == 3


@pytest.mark.slow
def test_what_failed_is_run_again_by_the_same_call(world: World, behaviour: Behaviour) -> None:
    """Else the key of a failed command would be answered again, and its link would stay."""
    links, kept = furnish(world, 3)
    behaviour.running_job = "task_fails"
    busy = next(iter(links))
    world.enterprise_manager.set_running(busy, running=True)
    world.start_worker()
    with ends_of_batches(world) as ends:
        first = offboard(world, "--yes")
        assert first.returncode == 1, first.stdout
        before = ends.next()
        counts = before["data"]["counts"]
        assert (counts["succeeded"], counts["failed"]) == (2, 1)
        world.enterprise_manager.set_running(busy, running=False)
        second = offboard(world, "--yes")
        assert second.returncode == 0, second.stdout
        found = ends.other_than(before)  # that of the rest, as the call found it; then both have ended again
        assert (found["data"]["batch"]["size"], found["data"]["all_succeeded"]) == (1, False)
        ended = [ends.other_than(before, found)]
        ended.append(ends.other_than(before, found, *ended))
        assert [each["data"]["all_succeeded"] for each in ended] == [True, True]
    assert all(_repositories(world, job) == [kept] for job in links)


def _repositories(world: World, job: str) -> list[str]:
    return [link.repository_uid for link in world.enterprise_manager.links(job)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_repository_of_300_jobs_is_offboarded_while_workers_are_killed(world: World) -> None:
    """Interrupted once and called again, with a worker killed every ten seconds: each link goes, and no other."""
    links, kept = furnish(world, 300)
    em = world.enterprise_manager
    others = {job: [link.object_in_job_id for link in em.links(job) if link.repository_uid == kept] for job in links}
    world.start_worker()
    world.start_worker()
    world.listen()
    over = threading.Event()

    def kill_workers() -> None:
        while not over.wait(KILLED_EVERY_SECONDS):
            doomed = next(worker for worker in world.workers if worker.running)
            world.start_worker(wait=False)
            doomed.kill()

    killer = threading.Thread(target=kill_workers)
    with ends_of_batches(world) as ends:
        killer.start()
        try:
            _interrupt_once(world)
            second = offboard(world, "--yes", "--ticket", "jira:OPS-1")
            assert second.returncode == 0, second.stdout + second.stderr
            events = [ends.next()]
        finally:
            over.set()
            killer.join()
        world.until_acknowledged()
        events += ends.rest()
    by_batch = {(event["subject"], event["id"]) for event in events}
    assert len(by_batch) == len({batch for batch, _ in by_batch})
    assert all(event["data"]["all_succeeded"] for event in events)
    world.listen_for(1)
    ends_of = {event.key: world.ends_of(event.key) for event in world.received}
    assert all(len(found) == 1 for found in ends_of.values())
    assert len(ends_of) == len(links)
    for job in links:
        assert [link.object_in_job_id for link in em.links(job)] == others[job]
    assert set(em.departures) == set(links.values())
    assert {link: em.deletes_of(link) for link in links.values()} == dict.fromkeys(links.values(), 1)


def _interrupt_once(world: World) -> None:
    """Call it, and stop it with Ctrl-C as soon as the first link is gone."""
    command = [*PROGRAM, "offboard", "--repository", "Retired", "--yes", "--ticket", "jira:OPS-1"]
    environment = surroundings() | world.environment
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        world.until(lambda: world.enterprise_manager.departures, "the first link is gone")
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=60)
    assert first.returncode == 130
