"""Maintenance of one Enterprise Manager: its commands wait, by command, and everybody else's do not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.world import World, vendor_command
from tests.preloaded.preloaded import run_program
from worker.sandbox.environment import enterprise_manager_environment
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, Behaviour, SimulatedEnterpriseManager

REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"


def unlink_worker(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, where a worker's settings are."""
    return run_program(*arguments, settings=world.environment)


@pytest.mark.parametrize("kind", ["world", pytest.param("world_on_postgresql", marks=pytest.mark.slow)])
def test_a_paused_enterprise_manager_s_commands_wait_until_it_is_resumed(
    request: pytest.FixtureRequest, kind: str
) -> None:
    """During maintenance nothing is sent, nothing fails, and afterwards all of it is done."""
    world: World = request.getfixturevalue(kind)
    workers = [world.start_worker(), world.start_worker()]
    world.listen()
    paused = unlink_worker(world, "pause", "default", "--by", "ada", "--reason", "upgrade to 13")
    assert (paused.returncode, paused.stderr) == (0, "")
    assert paused.stdout.startswith("default is paused: within 1 s no worker takes its commands")
    for worker in workers:
        worker.wait_for_log("broker.paused")
    world.send(vendor_command())
    world.until(lambda: world.client.count("unlink.commands.default") == 1, "a command that waits")
    later = world.start_worker()  # a worker that starts meanwhile heeds it too
    listed = unlink_worker(world, "pause").stdout
    assert "default  paused" in listed
    assert "by ada: upgrade to 13" in listed
    world.listen_for(1)
    assert world.of("CHG1") == []
    assert world.client.count("unlink.commands.default") == 1
    lines = [json.loads(line) for line in later.log().splitlines() if line.startswith("{")]
    consumed = {line["queue"] for line in lines if line["event"] == "broker.consuming"}
    assert consumed <= {"unlink.misrouted"}
    resumed = unlink_worker(world, "resume", "default")
    assert (resumed.returncode, resumed.stderr) == (0, "")
    world.until_ended("CHG1")
    assert {outcome for outcome, _ in world.ends_of("CHG1")} == {"succeeded"}
    assert unlink_worker(world, "pause").stdout == "No Enterprise Manager is paused.\n"
    assert unlink_worker(world, "resume", "default").stdout == "default was not paused.\n"


def test_what_is_under_way_goes_on(world: World, behaviour: Behaviour) -> None:
    """A pause ends nothing that Enterprise Manager was already asked to do."""
    behaviour.edits_held = True
    worker = world.serve()
    world.send(vendor_command())
    worker.wait_for_log("unlink.submitted")
    assert unlink_worker(world, "pause", "default").returncode == 0
    worker.wait_for_log("broker.paused")
    behaviour.edits_held = False
    world.until_ended("CHG1")
    assert world.enterprise_manager.links(VENDOR_JOB_ID) == []


def test_the_others_commands_are_taken_meanwhile(world: World) -> None:
    """Maintenance of one site delays nobody at another."""
    with SimulatedEnterpriseManager.start() as second:
        world.environment |= enterprise_manager_environment(second, "SECOND")
        worker = world.serve()
        assert unlink_worker(world, "pause", "default").returncode == 0
        worker.wait_for_log("broker.paused")
        world.client.publish(_command_for("second"), "second")
        world.until_ended("SECOND")
        assert second.count("DELETE", "/linkedBackupRepositories/") == 1


def _command_for(enterprise_manager: str) -> bytes:
    command = vendor_command("SECOND", enterprise_manager=enterprise_manager)
    return str(command).replace("'", '"').encode()


def test_a_misspelt_name_is_reported(world: World) -> None:
    """Nobody begins a maintenance in the belief that a pause is in place."""
    world.start_worker()
    wrong = unlink_worker(world, "pause", "defualt")
    assert wrong.returncode == 2
    assert wrong.stderr == "no Enterprise Manager is configured as 'defualt'; there are: default\n"
    assert unlink_worker(world, "pause").stdout == "No Enterprise Manager is paused.\n"


def test_a_ledger_that_is_not_there_is_one_readable_line(world: World, tmp_path: Path) -> None:
    """Whoever points the command at another database than the workers' is told so."""
    world.environment["UNLINK_LEDGER__URL"] = f"sqlite:///{tmp_path / 'elsewhere.sqlite'}"
    done = unlink_worker(world, "pause", "default")
    assert done.returncode == 1
    assert "is UNLINK_LEDGER__URL the workers' own?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_whoever_waits_for_a_paused_command_learns_by_whom_it_was_paused(world: World) -> None:
    """A pipeline would hang until its time-out, and nobody know why."""
    worker = world.start_worker()
    assert unlink_worker(world, "pause", "default", "--by", "ada", "--reason", "upgrade").returncode == 0
    worker.wait_for_log("broker.paused")
    submit = ("submit", "--wait", "--wait-seconds", "5", "--job", VENDOR_JOB_ID, "--repository", REPOSITORY)
    waited = unlink_worker(world, *submit)
    assert waited.returncode == 3
    assert waited.stderr.count("by ada (upgrade). The commands stay on their queue until `unlink-worker resume") == 1
    broker_alone = {"UNLINK_BROKER__URL": world.environment["UNLINK_BROKER__URL"]}
    waited = run_program(*submit, settings=broker_alone)
    assert (waited.returncode, "No worker consumes the commands of default now: it is paused" in waited.stderr) == (
        3,
        1,
    )
    examined = unlink_worker(world, "doctor", "--output", "json")
    assert "by ada since" in examined.stdout
    assert "unlink-worker resume default" in examined.stdout
    unlink_worker(world, "resume", "default")


def test_pauses_are_documents_for_programs(world: World) -> None:
    """A maintenance script would have to parse sentences."""
    world.start_worker()

    def said(*arguments: str) -> Any:
        return json.loads(unlink_worker(world, *arguments, "--output", "json").stdout)

    assert said("pause") == {"paused": []}
    assert said("pause", "default", "--by", "ada") == {
        "enterprise_manager": "default",
        "paused": True,
        "within_seconds": 1.0,
    }
    (pause,) = said("pause")["paused"]
    assert (pause["enterprise_manager"], pause["paused_by"], pause["reason"]) == ("default", "ada", None)
    assert pause["paused_at"].endswith("Z")
    assert said("resume", "default")["was_paused"] is True
    assert said("resume", "default")["was_paused"] is False
