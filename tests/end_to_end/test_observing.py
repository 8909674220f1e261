"""How a person, or a script, looks at unlinks and stops them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.end_to_end.world import World, vendor_command
from tests.preloaded.preloaded import run_program
from tests.terminal import Terminal
from worker.cli import app
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, Behaviour, Fault

PROGRAM = (sys.executable, "-m", "worker")
COLUMNS = 80


def surroundings(settings: Mapping[str, str], **more: str) -> dict[str, str]:
    """This program's environment with these settings and no others."""
    left_out = ("UNLINK_", "NO_COLOR", "COLUMNS", "TERM", "FORCE_COLOR")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)} | dict(settings) | more


def broker_only(world: World) -> dict[str, str]:
    """The one setting that those who talk to the broker need."""
    return {"UNLINK_BROKER__URL": world.environment["UNLINK_BROKER__URL"]}


def ledger_only(world: World) -> dict[str, str]:
    """The one setting that those who look at the ledger need."""
    return {"UNLINK_LEDGER__URL": world.environment["UNLINK_LEDGER__URL"]}


def program(settings: Mapping[str, str], *arguments: str) -> Result:
    """The program, to its end; in this process, since starting one takes most of the time."""
    left_out = {name: None for name in os.environ if name.startswith("UNLINK_")}
    return CliRunner().invoke(app, arguments, env={**left_out, **settings}, prog_name="unlink-worker")


# --- status ---------------------------------------------------------------------------------------------------------


def test_status_shows_an_unlink_that_has_ended(world: World) -> None:
    """Somebody asks what became of a change: its end, its link, its times, and each thing that was done for it."""
    world.serve()
    world.unlink(requested_by="j.doe", ticket={"system": "jira", "id": "OPS-1"})
    settings = ledger_only(world) | {"TZ": "Asia/Kolkata", "COLUMNS": str(COLUMNS)}
    reported = run_program("status", "CHG1", settings=settings)
    assert reported.returncode == 0, reported.stderr
    for words in ("CHG1  succeeded", VENDOR_LINK_ID, "jira OPS-1", "task-1", "taken up", "ended: succeeded", "IST"):
        assert words in reported.stdout
    assert "\x1b" not in reported.stdout
    assert max(map(len, reported.stdout.splitlines())) <= COLUMNS


def test_status_for_scripts_is_one_object_with_the_event_in_it(world: World) -> None:
    """A script reads the outcome, the event and the steps without parsing what is meant for people."""
    world.serve()
    world.unlink()
    reported = program(ledger_only(world), "status", "CHG1", "--output", "json")
    content = json.loads(reported.stdout)
    assert (content["outcome"], content["stage"], content["attempts"]) == ("succeeded", "settled", 1)
    assert content["repository"]["link_id"] == VENDOR_LINK_ID
    assert content["event"] == world.of("CHG1")[-1].content
    assert content["command"].items() >= vendor_command().items()
    assert [step["step"] for step in content["steps"]] == ["claimed", "intended", "submitted", "settled"]
    assert len(content["steps"][0]["trace_id"]) == 32
    assert content["received_at"].endswith("Z")


def test_status_says_by_its_exit_what_has_not_ended_and_what_nobody_has_seen(
    world: World, behaviour: Behaviour
) -> None:
    """A script that waits would take an unknown key, or one under way, for a failure."""
    behaviour.edits_held = True
    world.serve()
    world.send(vendor_command())
    world.until(lambda: world.of("CHG1"), "a submitted event")
    under_way = program(ledger_only(world), "status", "CHG1")
    assert (under_way.exit_code, "submitted, not ended" in under_way.stdout) == (5, True)
    assert "held by" in under_way.stdout
    unknown = program(ledger_only(world), "status", "CHG2")
    assert (unknown.exit_code, unknown.stderr) == (6, "No worker has seen the key CHG2.\n")
    behaviour.edits_held = False


def test_what_others_wrote_cannot_steer_the_terminal(world: World) -> None:
    """A reason with control characters in it would rewrite the screen of whoever looks at the ticket."""
    world.serve()
    world.unlink(reason="\x1b]0;owned\x07 [bold]harmless[/bold]")
    reported = program(ledger_only(world), "status", "CHG1")
    assert "\x1b" not in reported.stdout
    assert "\x07" not in reported.stdout
    assert "[bold]harmless[/bold]" in reported.stdout


def test_a_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """The name of a column in a file from elsewhere would rewrite the screen."""
    commands = tmp_path / "commands.csv"
    commands.write_text("job,repository,\x1b]0;owned\x07\n")
    refused = program({}, "submit", "--file", str(commands))
    assert refused.exit_code == 2
    assert refused.stderr == "Nothing was submitted.\nthere are no such columns:  ]0;owned \n"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("status", "\udcff"), 6, "No worker has seen the key"),
        (("retry", "\udcff", "--yes"), 1, "There is nothing to run again."),
        (("list", "--batch", "\udcff"), 0, ""),
        (("watch", "--em", "\udcff"), 2, "--em: "),
    ],
    ids=["status", "retry", "list", "watch"],
)
def test_an_argument_in_another_encoding_is_one_that_nobody_knows(
    world: World, arguments: tuple[str, ...], status: int, said: str
) -> None:
    """A key pasted with a byte that is no UTF-8 would be answered with a stack trace."""
    world.serve()
    ended = program(world.environment, *arguments)
    assert (ended.exit_code, said in ended.stderr) == (status, True), ended.output


def test_what_enterprise_manager_says_is_shown_as_it_stands(world: World, tmp_path: Path) -> None:
    """A message with brackets in it would end a bulk submission in a stack trace; one with escapes would steer."""
    message = "[/red] the job is \x1b[31medited"
    world.enterprise_manager.inject(Fault(kind="task_fails", method="DELETE", path=VENDOR_LINK_ID, message=message))
    world.start_worker()
    commands = tmp_path / "commands.jsonl"
    commands.write_text("\n".join(json.dumps(vendor_command(key)) for key in ("CHG1", "CHG2")))
    ended = program(broker_only(world), "submit", "--wait", "--file", str(commands))
    assert ended.exit_code == 1, ended.output
    assert ended.stdout.count("[/red] the job") == 2
    assert "\x1b" not in ended.stdout


def test_a_ledger_that_is_not_there_is_reported_in_one_line(tmp_path: Path) -> None:
    """A mistyped path is not answered with `no such key`."""
    reported = program({"UNLINK_LEDGER__URL": f"sqlite:///{tmp_path / 'elsewhere.sqlite'}"}, "status", "CHG1")
    assert reported.exit_code == 1
    assert reported.stderr.startswith("there is no file ")


# --- ledger prune ---------------------------------------------------------------------------------------------------


def test_prune_deletes_only_what_is_old_enough(world: World) -> None:
    """A nightly clean-up would forget yesterday's keys, and allow their commands a second time."""
    world.serve()
    world.unlink()
    for arguments in (["--dry-run"], []):
        pruned = program(ledger_only(world), "ledger", "prune", "--older-than-days", "1", *arguments)
        assert (pruned.exit_code, pruned.stdout[:6]) == (0, "0 keys")
    counted = program(ledger_only(world), "ledger", "prune", "--dry-run", "--output", "json")
    assert json.loads(counted.stdout) == {"keys": 0, "older_than_days": 90.0, "deleted": False}
    assert program(ledger_only(world), "status", "CHG1").exit_code == 0
    assert program(ledger_only(world), "ledger", "prune", "--older-than-days", "0").exit_code == 2


# --- cancel ---------------------------------------------------------------------------------------------------------


def cancel(world: World, key: str, *arguments: str) -> Result:
    """`cancel`, to its end."""
    return program(broker_only(world), "cancel", key, *arguments)


def test_a_cancel_that_comes_first_keeps_the_unlink_from_being_sent(world: World) -> None:
    """A change is called off before its command arrives: the command ends cancelled, and the link stays."""
    worker = world.serve()
    asked = cancel(world, "CHG1", "--requested-by", "j.doe", "--reason", "wrong repository")
    assert asked.exit_code == 0, asked.stderr
    world.until(lambda: "unlink.cancel_recorded" in worker.log(), "the request is recorded")
    before = program(ledger_only(world), "status", "CHG1")
    assert (before.exit_code, "no worker has seen its command yet" in before.stdout) == (6, True)
    world.unlink()
    assert {outcome for outcome, _ in world.ends_of("CHG1")} == {"cancelled"}
    assert world.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 0
    reported = program(ledger_only(world), "status", "CHG1")
    assert (reported.exit_code, "CHG1  cancelled" in reported.stdout) == (4, True)
    sent = rf"asked [-0-9]+ [:0-9]+ \w+ by j.doe, sent by broker user {world.client.user}: wrong repository"
    assert re.search(sent, " ".join(reported.stdout.split()))


def test_cancel_waits_for_the_end_of_what_is_under_way_and_exits_by_it(world: World, behaviour: Behaviour) -> None:
    """A pipeline that calls a change off goes on only when it knows whether the link is still there."""
    behaviour.edits_held = True
    world.serve()
    world.send(vendor_command())
    world.until(lambda: world.of("CHG1"), "a submitted event")
    ended = cancel(world, "CHG1", "--wait")
    assert (ended.exit_code, "CHG1  cancelled" in ended.stdout) == (4, True), ended.stdout + ended.stderr
    assert len(world.enterprise_manager.links(VENDOR_JOB_ID)) == 1
    behaviour.edits_held = False


def test_a_cancel_that_comes_too_late_says_that_the_link_is_gone(world: World) -> None:
    """Whoever calls a change off too late learns so at once, and by the exit status."""
    world.serve()
    world.unlink()
    ended = cancel(world, "CHG1", "--wait", "--output", "json")
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout)["data"]["outcome"] == "succeeded"


def test_a_cancel_that_nothing_answers_ends_in_time_and_says_where_to_look(world: World) -> None:
    """A key that never came would keep a pipeline waiting for ever."""
    world.start_worker()
    ended = cancel(world, "CHG1", "--wait", "--wait-seconds", "1")
    assert ended.exit_code == 3
    assert "unlink-worker status CHG1" in ended.stderr


def test_a_cancel_of_a_key_that_nobody_knows_says_so(world: World) -> None:
    """A person with a mistyped key would wait for ever, and nobody would see the mistake."""
    worker = world.serve()
    ended = program(world.environment, "cancel", "CHG1", "--wait", "--wait-seconds", "60")
    assert ended.exit_code == 6, ended.output
    assert "No command with the key CHG1 has been accepted yet. If one comes, it ends as cancelled." in ended.stderr
    unwaited = program(world.environment, "cancel", "CHG2")
    assert (unwaited.exit_code, "with the key CHG2" in unwaited.stderr) == (0, True)
    world.until(lambda: worker.log().count("unlink.cancel_recorded") == 2, "both requests are recorded")
    world.unlink()
    assert {outcome for outcome, _ in world.ends_of("CHG1")} == {"cancelled"}
    known = program(world.environment, "cancel", "CHG1")
    assert (known.exit_code, known.stderr) == (0, "")


def test_on_a_terminal_what_is_said_of_a_cancel_has_a_line_of_its_own(world: World) -> None:
    """The spinner would erase it, or stand before it."""
    world.serve()
    environment = surroundings(world.environment, TERM="xterm-256color", NO_COLOR="1")
    for settings, said in (
        (environment, "No command with the key CHG1 has been accepted yet"),
        (environment | {"UNLINK_LEDGER__URL": ""}, "Either the unlink is being stopped"),
    ):
        terminal = Terminal([*PROGRAM, "cancel", "CHG1", "--wait", "--wait-seconds", "4"], settings)
        terminal.until(said)
        assert terminal.wait() in {3, 6}
        assert re.search(rf"(^|\n|\x1b\[2K){said}", terminal.seen), terminal.seen[-500:]


def test_a_cancel_without_the_ledger_says_that_the_key_may_be_unknown(world: World) -> None:
    """Whoever has no access to the ledger would see only that nothing happens."""
    world.start_worker()
    ended = cancel(world, "CHG1", "--wait", "--wait-seconds", "4")
    assert ended.exit_code == 3
    assert "or no command has the key CHG1" in ended.stderr


@pytest.mark.parametrize(
    ("key", "manager", "said"),
    [("spaces are not allowed", "default", "idempotency_key"), ("CHG1", "paris", "'paris'")],
    ids=["key", "manager"],
)
def test_a_cancel_that_no_worker_could_read_is_not_sent(world: World, key: str, manager: str, said: str) -> None:
    """A misspelt key or manager would end among the dead letters, and its sender wait."""
    world.start_worker()
    refused = cancel(world, key, "--em", manager)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert said in refused.stderr


# --- topology -------------------------------------------------------------------------------------------------------


def test_topology_is_declared_and_then_found(world: World) -> None:
    """Where workers may not declare anything, an administrator does it before, and sees that it is all there."""
    missing = program(broker_only(world), "topology", "verify", "--em", "default")
    assert missing.exit_code == 1
    assert "queue unlink.commands.default" in missing.stderr
    for _ in range(2):
        declared = program(broker_only(world), "topology", "declare", "--em", "default", "--em", "berlin")
        assert (declared.exit_code, declared.stderr) == (0, "")
    found = program(world.environment, "topology", "verify")
    assert (found.exit_code, found.stdout[:6]) == (0, "There:")
    for what in ("declare", "verify"):
        names = json.loads(program(world.environment, "topology", what, "--output", "json").stdout)
        assert "unlink.commands.default" in names["queues"]
        assert "unlink.events" in names["exchanges"]
    elsewhere = program(broker_only(world), "topology", "verify", "--em", "paris")
    assert (elsewhere.exit_code, "unlink.commands.paris" in elsewhere.stderr) == (1, True)
    assert program(broker_only(world), "topology", "declare", "--em", "no spaces").exit_code == 2


def test_topology_that_cannot_be_declared_says_why(world: World) -> None:
    """A queue of an older set-up, or a wrong password, would end in a stack trace."""
    wrong = {"UNLINK_BROKER__URL": world.broker_url_with_password("wrong")}
    refused = program(wrong, "topology", "declare", "--em", "default")
    assert (refused.exit_code, "refuses the user name or the password" in refused.stderr) == (1, True)
    assert len(refused.stderr.splitlines()) == 1
