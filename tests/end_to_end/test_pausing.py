"""Maintenance of one Enterprise Manager: its commands wait, by command, and everybody else's do not."""

from __future__ import annotations

import subprocess

import pytest

from tests.end_to_end.world import World, vendor_command
from tests.preloaded.preloaded import run_program
from worker.sandbox.environment import enterprise_manager_environment
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, Behaviour, SimulatedEnterpriseManager

REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"


def unlink_worker(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, where a worker's settings are."""
    return run_program(*arguments, settings=world.environment)


@pytest.mark.parametrize("kind", ["world", "world_on_postgresql"])
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
    assert "broker.consuming" not in later.log()
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


def test_a_misspelt_name_is_told(world: World) -> None:
    """Nobody begins a maintenance in the belief that a pause is in place."""
    world.start_worker()
    wrong = unlink_worker(world, "pause", "defualt")
    assert wrong.returncode == 2
    assert wrong.stderr == "no Enterprise Manager is configured as 'defualt'; there are: default\n"
    assert unlink_worker(world, "pause").stdout == "No Enterprise Manager is paused.\n"


def test_a_ledger_that_is_not_there_is_one_readable_line(world: World) -> None:
    """Whoever points the command at another database than the workers' is told so."""
    done = unlink_worker(world, "pause", "default")
    assert done.returncode == 1
    assert "is UNLINK_LEDGER__URL the workers' own?" in done.stderr
    assert "Traceback" not in done.stderr
