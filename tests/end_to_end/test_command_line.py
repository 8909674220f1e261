"""The program as its users start it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.end_to_end.world import World, vendor_command
from tests.missing_parts import require_rabbitmq
from tests.preloaded.preloaded import run_program
from worker.cli import COMMANDS, load
from worker.cli.publishing.awaiting import EXIT_STATUS, WOULD_BE_REFUSED
from worker.sandbox.processes.worker_process import surroundings
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, Behaviour, Fault

PROGRAM = (sys.executable, "-m", "worker")
README = Path(__file__).resolve().parents[2] / "README.md"
REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"
VENDOR_PAGE = ("--job", VENDOR_JOB_ID, "--link", VENDOR_LINK_ID)


def submit(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`submit --wait`, to its end."""
    return run_program("submit", "--wait", *arguments, settings=world.environment)


def test_submit_waits_for_the_end_and_exits_by_it(world: World) -> None:
    """A pipeline step goes green when the link is gone, and red when it is not; --output json is for scripts."""
    world.start_worker()
    succeeded = submit(world, *VENDOR_PAGE, "--ticket", "jira:OPS-1", "--output", "json")
    assert succeeded.returncode == 0, succeeded.stderr
    events = [json.loads(line) for line in succeeded.stdout.splitlines()]
    assert [event["data"]["outcome"] for event in events] == ["submitted", "succeeded"]
    assert events[-1]["data"]["ticket"]["id"] == "OPS-1"
    again = submit(world, *VENDOR_PAGE, "--ticket", "jira:OPS-1")
    assert (again.returncode, "succeeded" in again.stdout) == (0, True)
    absent = submit(world, *VENDOR_PAGE, "--if-absent", "fail")
    assert (absent.returncode, "link_absent" in absent.stdout) == (1, True)
    planned = submit(world, *VENDOR_PAGE, "--dry-run", "--key", "plan")
    assert (planned.returncode, "planned" in planned.stdout) == (0, True)
    refused = submit(world, *VENDOR_PAGE, "--dry-run", "--key", "plan", "--if-absent", "fail")
    assert (refused.returncode, "link_absent" in refused.stdout) == (5, True)


def test_the_labels_of_submit_come_back_in_the_events(world: World) -> None:
    """A pipeline finds its own run by its labels; a label without a value is a mistake in the call."""
    world.start_worker()
    labels = ("--label", "site=Bern", "--label", "query=a=b", "--label", "empty=")
    ended = submit(world, *VENDOR_PAGE, *labels, "--output", "json")
    assert ended.returncode == 0, ended.stderr
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(events) == 2
    assert all(event["data"]["labels"] == {"site": "Bern", "query": "a=b", "empty": ""} for event in events)
    refused = submit(world, *VENDOR_PAGE, "--label", "site")
    assert (refused.returncode, "--label is NAME=VALUE" in refused.stderr) == (2, True)


def test_submit_exits_with_2_when_its_key_belongs_to_another_command(world: World) -> None:
    """A reused key is wrong usage, and says so."""
    world.start_worker()
    assert submit(world, *VENDOR_PAGE, "--key", "K").returncode == 0
    reused = submit(world, *VENDOR_PAGE, "--key", "K", "--if-absent", "fail")
    assert (reused.returncode, "key_reused" in reused.stdout) == (2, True)


@pytest.mark.slow
def test_submit_exits_with_3_when_it_cannot_be_known_in_time(world: World) -> None:
    """A task that hangs is told as timed out, not as done."""
    world.enterprise_manager.inject(Fault(kind="task_hangs", method="DELETE", path=VENDOR_LINK_ID))
    world.start_worker()
    ended = submit(world, *VENDOR_PAGE, "--timeout", "10")
    assert (ended.returncode, "timed_out" in ended.stdout) == (3, True), ended.stdout + ended.stderr


def test_submit_exits_with_4_when_it_was_cancelled(world: World) -> None:
    """A pipeline would go on although somebody stopped its change; or take it for a failure of the backup server."""
    world.serve()
    world.send({"command": "cancel.v1", "idempotency_key": "CHG1"})
    world.until_acknowledged()
    ended = submit(world, *VENDOR_PAGE, "--key", "CHG1")
    assert (ended.returncode, "cancelled" in ended.stdout) == (4, True), ended.stdout


def test_of_several_commands_the_exit_status_is_the_worst_of_those_that_occurred(world: World, tmp_path: Path) -> None:
    """A file with one failure among many successes would look done."""
    world.serve()
    world.send({"command": "cancel.v1", "idempotency_key": "cancelled"})
    world.until_acknowledged()
    done = vendor_command("done")
    refused = vendor_command("refused", dry_run=True, job={"id": "00000000-0000-0000-0000-000000000000"})
    cancelled = vendor_command("cancelled")
    failed = vendor_command("failed", if_absent="fail", repository={"link_id": "00000000-0000-0000-0000-000000000000"})
    rejected = vendor_command("done", if_absent="fail")
    file = tmp_path / "commands.jsonl"
    sent: list[dict[str, Any]] = [done]
    for another, status in ((None, 0), (refused, 5), (cancelled, 4), (failed, 1)):
        sent += [] if another is None else [another]
        file.write_text("\n".join(json.dumps(command) for command in sent))
        ended = submit(world, "--file", str(file))
        assert ended.returncode == status, ended.stdout + ended.stderr
    file.write_text(json.dumps(rejected) + "\n" + json.dumps(failed))
    ended = submit(world, "--file", str(file))
    assert ended.returncode == 2, ended.stdout + ended.stderr


def test_the_readme_names_the_exit_status_of_each_outcome() -> None:
    """A pipeline that is written by the README would take one outcome for another."""
    table = re.findall(
        r"^\| `(\w+)` \|.*\| (\d)(?:; (\d) if it would be refused)? \|$", README.read_text(), re.MULTILINE
    )
    named = {outcome: (int(status), refused) for outcome, status, refused in table}
    ends = {outcome.value: status for outcome, status in EXIT_STATUS.items()}
    assert {outcome: status for outcome, (status, _) in named.items()} == ends
    assert named["planned"][1] == str(WOULD_BE_REFUSED)


@contextmanager
def draining(world: World, behaviour: Behaviour, seconds: int) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """A worker that was told to stop while an unlink is under way, and the lines of its log."""
    behaviour.edits_held = True
    environment = surroundings() | world.environment | {"UNLINK_DRAIN_SECONDS": str(seconds)}
    with subprocess.Popen([*PROGRAM, "run"], env=environment, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        lines = iter(worker.stderr)
        _until(lines, "worker.started")
        world.listen()
        world.send(vendor_command())
        _until(lines, "unlink.submitted")
        worker.send_signal(signal.SIGTERM)
        _until(lines, "worker.draining")
        yield worker, lines


def test_what_is_published_is_printed_for_programs_that_do_not_wait(world: World) -> None:
    """Without a ticket the key is a new one: nobody could find the unlink again."""
    world.serve()
    command = ("submit", "--job", VENDOR_JOB_ID, "--link", VENDOR_LINK_ID, "--output", "json")
    published = json.loads(run_program(*command, settings=world.environment).stdout)
    world.until_ended(published["idempotency_key"])


def test_a_worker_asked_to_stop_ends_what_can_end_and_logs_off(world: World, behaviour: Behaviour) -> None:
    """A rolling update loses nothing: the unlink under way ends, the process exits with 0, no session is left."""
    with draining(world, behaviour, seconds=30) as (worker, lines):
        behaviour.edits_held = False
        world.until_ended("CHG1")
        _until(lines, "worker.stopped")
        assert worker.wait(30) == 0
    assert list(world.enterprise_manager.sessions) == []


@pytest.mark.slow
def test_a_worker_asked_twice_ends_at_once(world: World, behaviour: Behaviour) -> None:
    """Whoever cannot wait need not; the command comes back, and the next worker goes on."""
    with draining(world, behaviour, seconds=600) as (worker, _):
        worker.send_signal(signal.SIGINT)
        assert worker.wait(30) == 128 + signal.SIGTERM
    behaviour.edits_held = False
    world.start_worker()
    world.until_ended("CHG1")
    assert world.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1


def _until(lines: Iterator[str], event: str) -> None:
    for line in lines:
        if f'"{event}"' in line:
            return
    pytest.fail(f"the log ended without {event}")


@pytest.mark.slow
def test_the_demo_shows_everything_and_exits_with_0() -> None:
    """What a newcomer runs first works, also in a pipe, and says what it shows."""
    require_rabbitmq()
    ended = programs.run([*PROGRAM, "demo"], env=surroundings(), timeout=110)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Everything went as it should." in ended.stdout
    assert ended.stdout.count("as it should be") == 7


def test_a_file_of_commands_is_submitted_and_followed(world: World, tmp_path: Path) -> None:
    """Many at once: each is told, a table closes, the worst end decides the exit status; again does no harm."""
    jobs = [world.enterprise_manager.add_job(name=f"Job {number}", links=[REPOSITORY]) for number in range(20)]
    rows = [f"{job},{world.enterprise_manager.links(job)[0].object_in_job_id}" for job in jobs]
    table = tmp_path / "commands.csv"
    table.write_text("\n".join(["job,link_id", *rows, f"{jobs[0]},00000000-0000-4000-8000-000000000000"]) + "\n")
    world.start_worker()
    ended = submit(world, "--file", str(table))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "succeeded" in ended.stdout.splitlines()[-1]
    assert "21" in ended.stdout.splitlines()[-1]
    again = submit(world, "--file", str(table), "--output", "json")
    assert again.returncode == 0
    assert len({json.loads(line)["id"] for line in again.stdout.splitlines()}) == 21
    assert world.enterprise_manager.count("DELETE", "/linkedBackupRepositories/") == 20


@pytest.mark.parametrize(
    "option",
    [
        ("--dry-run",),
        ("--allow-linked-backups-removal",),
        ("--not-after", "2030-01-01T00:00:00Z"),
        ("--ticket", "jira:OPS-1"),
        ("--if-absent", "succeed"),
        ("--em", "other"),
    ],
)
def test_an_option_that_a_file_would_ignore_is_refused(tmp_path: Path, option: tuple[str, ...]) -> None:
    """`submit --file commands.csv --dry-run` would remove every link that the file names."""
    commands = tmp_path / "commands.jsonl"
    commands.write_text(json.dumps(vendor_command()) + "\n")
    refused = run_program("submit", "--file", str(commands), *option, settings={})
    assert refused.returncode == 2
    assert "Nothing was submitted." in refused.stderr
    assert "is for a single command" in refused.stderr


@pytest.mark.slow
def test_a_file_with_more_commands_than_a_batch_holds_says_so(tmp_path: Path) -> None:
    """Whoever closes a ticket by the end of the batch would wait for ever."""
    commands = tmp_path / "commands.csv"
    commands.write_text("job,repository,enterprise_manager\nA,B,small\n" + "A,B,large\n" * 10_001)
    ended = run_program("submit", "--file", str(commands), settings={"UNLINK_BROKER__URL": "amqp://127.0.0.1:1"})
    assert "The 10001 commands for large are no batch" in ended.stderr
    assert "for small" not in ended.stderr


@pytest.mark.slow
def test_ctrl_c_says_what_is_still_open(world: World, behaviour: Behaviour) -> None:
    """Whoever stops waiting knows what is under way, and how to look at it later."""
    behaviour.edits_held = True
    world.start_worker()
    line = json.dumps(vendor_command())
    with subprocess.Popen(
        [*PROGRAM, "submit", "--wait", "--file", "-"],
        env=surroundings() | world.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as submitting:
        assert submitting.stdin is not None
        assert submitting.stdout is not None
        submitting.stdin.write(line + "\n")
        submitting.stdin.close()
        submitting.stdin = None
        for reported in submitting.stdout:
            if "submitted" in reported:
                break
        submitting.send_signal(signal.SIGINT)
        _, said = submitting.communicate(timeout=30)
    assert submitting.returncode == 130
    assert "1 of 1 submitted; 1 not known to have ended:\n  CHG1" in said


def test_what_was_never_published_is_not_called_open(world: World) -> None:
    """Nothing was sent, because a name is mistyped or the broker is away; a person would wait for an end."""
    world.start_worker()
    mistyped = submit(world, *VENDOR_PAGE, "--em", "branchoffice")
    assert mistyped.returncode == 2
    away = run_program("submit", *VENDOR_PAGE, settings={"UNLINK_BROKER__URL": "amqp://127.0.0.1:1/"})
    assert away.returncode == 1
    for ended in (mistyped, away):
        assert ended.stderr.endswith("\nNothing was submitted.\n")
        assert ended.stderr.count("\n") == 2


def test_whose_output_ends_early_is_told_how_many_were_submitted(world: World, tmp_path: Path) -> None:
    """`submit --file commands.csv | head -1`, or a log on a full disk: the rest would be missing without a word."""
    world.start_worker()
    commands = tmp_path / "commands.csv"
    commands.write_text("job,link_id,dry_run\n" + f"{VENDOR_JOB_ID},{VENDOR_LINK_ID},true\n" * 20)
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    for output, problem in ((writer, "Broken pipe"), (full, "No space left on device")):
        with os.fdopen(output, "w") as stdout:
            ended = subprocess.run(
                [*PROGRAM, "submit", "--file", str(commands)],
                env=surroundings() | world.environment,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        assert ended.returncode == 1
        said = f"The output cannot be written ({problem}). 1 of 20 submitted; 20 not known to have ended:\n"
        assert ended.stderr.startswith(said), ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("typed", ["--help", "contracts", "contracts --help"])
def test_an_output_that_takes_no_more_ends_a_command_without_a_stack_trace(typed: str) -> None:
    """An export to a full disk, or `| head -1`: a stack trace hides that a part is missing."""
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    for output, said in ((full, "The output cannot be written: No space left on device.\n"), (writer, "")):
        with os.fdopen(output, "w") as stdout:
            command = [*PROGRAM, *typed.split()]
            ended = subprocess.run(
                command, env=surroundings(), stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False
            )
        assert (ended.returncode, ended.stderr) == (1, said)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_of_each_what_its_own_help_says(name: str) -> None:
    """The list is written by hand, so that it needs no command's module; it would tell of what a command once did."""
    assert load(name).help.splitlines()[0] == COMMANDS[name].summary


#: The commands without `--output json`: they run a program until it ends, or print schemas, which are JSON, or a hash.
_WITHOUT_DATA = {"run", "sandbox", "demo", "contracts", "console hash"}


def test_every_command_that_prints_data_prints_json() -> None:
    """A script would have to parse tables."""

    def without(command: Any, path: str) -> Iterator[str]:
        if hasattr(command, "commands"):
            for name, part in command.commands.items():
                yield from without(part, f"{path} {name}")
        elif "output" not in {parameter.name for parameter in command.params}:
            yield path

    found = {path for name in COMMANDS for path in without(load(name), name)}
    assert found == _WITHOUT_DATA


def test_the_program_names_its_version() -> None:
    """Who reports a fault could not say of which version."""
    shown = run_program("--version", settings={})
    assert (shown.returncode, shown.stdout) == (0, f"unlink-worker {version('unlink-worker')}\n")
