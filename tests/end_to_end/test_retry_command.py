"""`unlink-worker retry` and `submit --retry`, as a person and a pipeline use them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.end_to_end.world import World, vendor_command
from tests.preloaded.preloaded import run_program
from tests.terminal import Terminal
from worker.cli.output.terminal import local_time
from worker.sandbox.processes.worker_process import surroundings
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, Behaviour

REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"
SUBMIT = ("submit", "--job", VENDOR_JOB_ID, "--link", VENDOR_LINK_ID, "--key", "CHG1")


def program(world: World, *arguments: str) -> CompletedProcess[str]:
    """The program, to its end."""
    return run_program(*arguments, settings=world.environment)


@pytest.fixture
def failed(world: World, behaviour: Behaviour) -> World:
    """A ticket's unlink that has failed, for a reason that has passed."""
    behaviour.running_job = "task_fails"
    world.enterprise_manager.set_running(VENDOR_JOB_ID, running=True)
    world.serve()
    world.unlink(ticket={"system": "jira", "id": "OPS-1"})
    assert world.of("CHG1")[-1].outcome == "failed"
    world.enterprise_manager.set_running(VENDOR_JOB_ID, running=False)
    return world


def test_a_key_is_retried_once_it_was_shown_and_confirmed(failed: World) -> None:
    """Somebody retries another unlink than they meant, or has nothing but a hash to decide by."""
    command = [sys.executable, "-m", "worker", "retry", "CHG1", "--wait", "--why", "released"]
    for answer, status in (("n", 1), ("y", 0)):
        terminal = Terminal(command, surroundings() | failed.environment, columns=200)
        terminal.until("Run this again?")
        assert "OPS-1" in terminal.seen
        assert "task_failed" in terminal.seen
        assert "linked backups" not in terminal.seen
        terminal.write(f"{answer}\n")
        assert terminal.wait() == status, terminal.seen
    assert failed.enterprise_manager.links(VENDOR_JOB_ID) == []
    shown = program(failed, "status", "CHG1")
    assert "started again, as run 2" in shown.stdout
    assert "released" in shown.stdout


@pytest.mark.parametrize(
    "what",
    [
        ["--ticket", "OPS-1"],
        pytest.param(["--reason", "task_failed"], marks=pytest.mark.slow),
        pytest.param(["CHG1"], marks=pytest.mark.slow),
    ],
)
def test_what_did_not_succeed_is_retried_by_ticket_and_reason(failed: World, what: list[str]) -> None:
    """A ticket with many links would be retried key by key; or what has succeeded be run again."""
    failed.send(vendor_command("CHG2", dry_run=True))
    other = failed.enterprise_manager.add_job(name="Other", links=[REPOSITORY])
    (link,) = failed.enterprise_manager.links(other)
    ticket = {"system": "jira", "id": "OPS-1"}
    failed.unlink("DONE", job={"id": other}, repository={"link_id": link.object_in_job_id}, ticket=ticket)
    unasked = program(failed, "retry", *what)
    assert (unasked.returncode, "--yes" in unasked.stderr) == (2, True)
    done = program(failed, "retry", *what, "--yes", "--wait", "--output", "json")
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line)["data"] for line in done.stdout.splitlines()]
    assert {(end["idempotency_key"], end["run"]) for end in ends} == {("CHG1", 2)}
    again = program(failed, "retry", *what, "--yes")
    assert (again.returncode, "There is nothing to run again" in again.stderr) == (1, True)


def test_a_consent_to_lose_backups_is_shown_before_it_is_given_again(world: World) -> None:
    """Whoever confirms would not know that the command drops linked backups."""
    world.serve()
    missing = {"job": {"name": "No such job"}, "allow_linked_backups_removal": True}
    world.unlink("CHG1", **missing)
    terminal = Terminal([sys.executable, "-m", "worker", "retry", "CHG1"], surroundings() | world.environment)
    terminal.until("Run this again?")
    assert "1 of them may drop linked backups" in terminal.seen
    terminal.write("n\n")
    assert terminal.wait() == 1


def test_what_cannot_be_run_again_is_named_with_the_reason(failed: World) -> None:
    """A mistyped key, or one that has succeeded, would be passed over in silence."""
    reported = program(failed, "retry", "CHG9", "--yes")
    assert (reported.returncode, "CHG9  not run again: no worker has seen it" in reported.stderr) == (1, True)
    partly = program(failed, "retry", "CHG1", "CHG9", "--yes", "--wait")
    assert (partly.returncode, "CHG9  not run again" in partly.stderr) == (1, True)
    assert "succeeded" in partly.stdout
    assert "use --ticket OPS-1" in program(failed, "retry", "OPS-1", "--yes").stderr
    for command in (["retry", "--yes"], ["status"], ["list"]):
        unknown = program(failed, *command, "--ticket", "jira:OPS-1")
        assert "Only the ticket's ID is searched for: OPS-1 and not jira:OPS-1." in unknown.stdout + unknown.stderr
    for wrong in ([], ["CHG1", "--ticket", "OPS-1"], ["CHG1", "CHG2", "--run", "1"]):
        assert program(failed, "retry", *wrong).returncode == 2
    assert program(failed, "retry", "a b", "--run", "1").returncode == 2


@pytest.mark.slow
def test_a_run_is_retried_without_the_ledger_and_its_old_end_is_no_answer(failed: World) -> None:
    """A pipeline without a way to the database could retry nothing; or would take the old failure for the answer."""
    environment = {"UNLINK_BROKER__URL": failed.environment["UNLINK_BROKER__URL"]}
    done = run_program("retry", "CHG1", "--run", "1", "--wait", settings=environment)
    assert done.returncode == 0, done.stdout
    unknown = run_program("retry", "CHG1", "--run", "7", "--wait", settings=environment)
    assert (unknown.returncode, "run_not_found" in unknown.stdout) == (2, True)


def test_the_rerun_button_of_a_pipeline_runs_again_what_had_failed(failed: World) -> None:
    """The same job, run again after its cause is gone, would fail as before, for ever."""
    environment = {"UNLINK_BROKER__URL": failed.environment["UNLINK_BROKER__URL"]}
    without = run_program(*SUBMIT, "--wait", settings=environment)
    assert without.returncode == 1
    done = run_program(*SUBMIT, "--retry", settings=environment)
    assert done.returncode == 0, done.stdout
    assert "run 1 had ended (failed" in done.stdout
    assert failed.enterprise_manager.links(VENDOR_JOB_ID) == []
    again = run_program(*SUBMIT, "--retry", settings=environment)
    assert (again.returncode, "run 1 had ended" in again.stdout) == (0, False)


def test_a_rerun_that_is_to_wait_removes_nothing_before_its_time(failed: World) -> None:
    """The button for tonight's change would remove the link at noon."""
    tonight = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    waiting = program(failed, *SUBMIT, "--retry", "--not-before", tonight, "--wait-seconds", "3")
    assert (waiting.returncode, "run 1 had ended (failed" in waiting.stdout) == (3, True), waiting.stderr
    # The key keeps the time that it came with, if it had one; the retry replaces it.
    assert "on the queue of default, asks to start at " in waiting.stdout
    assert "it is run again, to start at " in waiting.stdout
    assert failed.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1
    assert failed.enterprise_manager.links(VENDOR_JOB_ID) != []


def test_a_retry_says_that_it_waits_for_the_stored_time(world: World) -> None:
    """Whoever waits for the end would see for hours that nothing happens, and not why."""
    world.serve()
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    world.send(vendor_command(not_before=start.isoformat()))
    world.send({"command": "cancel.v1", "idempotency_key": "CHG1"})
    world.until_ended("CHG1")
    shown = f"on the queue of default, to start at {local_time(start)}"
    assert shown in program(world, "retry", "CHG1", "--yes").stdout
    world.send({"command": "cancel.v1", "idempotency_key": "CHG1", "run": 2})
    world.until(lambda: len(world.ends_of("CHG1")) == 2, "the end of run 2")
    sooner = (start - timedelta(minutes=30)).isoformat()
    assert "to start at" not in program(world, "retry", "CHG1", "--yes", "--not-after", sooner).stdout


def test_a_file_of_commands_is_run_again_too(failed: World, tmp_path: Path) -> None:
    """A pipeline that submits a file could only be run again key by key."""
    file = tmp_path / "commands.jsonl"
    file.write_text(json.dumps(vendor_command("CHG1")))
    done = program(failed, "submit", "--file", str(file), "--retry")
    assert (done.returncode, "run 1 had ended (failed" in done.stdout) == (0, True), done.stdout + done.stderr
    assert failed.enterprise_manager.links(VENDOR_JOB_ID) == []


def test_a_retry_of_a_run_that_succeeded_is_answered_by_it(failed: World) -> None:
    """It would wait for ever for a run that nobody starts."""
    assert program(failed, "retry", "CHG1", "--run", "1", "--yes", "--wait").returncode == 0
    again = program(failed, "retry", "CHG1", "--run", "2", "--yes", "--wait")
    assert (again.returncode, "nothing was sent again" in again.stdout) == (0, True), again.stdout
    assert failed.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 2


def test_a_cancel_of_a_run_that_cannot_come_next_is_answered_at_once(world: World) -> None:
    """Who mistypes the run would wait until their time is over, and not know why."""
    world.serve()
    world.unlink()
    asked = program(world, "cancel", "CHG1", "--run", "9", "--wait", "--wait-seconds", "60")
    assert (asked.returncode, "run_not_found" in asked.stdout) == (2, True), asked.stdout + asked.stderr
    asked = program(world, "cancel", "CHG1", "--run", "2", "--wait", "--wait-seconds", "60")
    assert (asked.returncode, "CHG1  succeeded" in asked.stdout) == (0, True), asked.stdout + asked.stderr


def test_what_fails_now_is_not_retried_at_once(world: World, behaviour: Behaviour) -> None:
    """A pipeline would retry for as long as the failure lasts."""
    behaviour.running_job = "task_fails"
    world.enterprise_manager.set_running(VENDOR_JOB_ID, running=True)
    world.serve()
    ended = program(world, *SUBMIT, "--retry")
    assert ended.returncode == 1
    assert world.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1
