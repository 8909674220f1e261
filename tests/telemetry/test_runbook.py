"""The runbook: its commands run, its links lead somewhere, and what it says of rotation and a lost ledger is so."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.world import World, vendor_command
from tests.preloaded.preloaded import run_program
from tests.private_servers.broker_users import BrokerUsers
from tests.telemetry.observed import LOOPBACK, Observed
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_LINK_ID,
    Behaviour,
    SimulatedEnterpriseManager,
)

RUNBOOK = Path(__file__).resolve().parents[2] / "k8s" / "RUNBOOK.md"
REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"

COMMANDS = re.findall(r"^ {4,}(unlink-worker .+)$", RUNBOOK.read_text(), flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have on the web."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    """Whoever follows a link in a hurry arrives."""
    for target in re.findall(r"\]\(([^)]+)\)", RUNBOOK.read_text()):
        page, _, anchor = target.partition("#")
        file = RUNBOOK.parent / page if page else RUNBOOK
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


def unlink_worker(world: World, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the runbook where a worker's settings are."""
    return run_program(*shlex.split(command)[1:], settings=world.environment, folder=folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_command_runs(world: World, broker: LocalBroker, tmp_path: Path) -> None:
    """At night nobody has to find out how a command is really spelt."""
    world.environment["UNLINK_BROKER__MANAGEMENT_URL"] = broker.management_url
    repository = world.enterprise_manager.add_repository("Backup Repository 1")
    world.enterprise_manager.add_job(name="Backup Copy Job 1", links=[repository])
    guarded = world.enterprise_manager.add_job(name="Guarded", links=[repository])
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[[rules]]\nunnamed = true\nusers = ["*"]\njobs = ["{VENDOR_JOB_ID}", "Backup *"]\n')
    world.environment["UNLINK_POLICY_FILE"] = str(policy)
    world.serve()
    world.send(vendor_command("KEY"))
    world.send(vendor_command("DEAD", job={"id": guarded}))
    world.until_ended("KEY", "DEAD")
    assert len(COMMANDS) > 10
    for command in COMMANDS:
        if command.startswith("unlink-worker dead discard"):  # replayed by the line before, and rejected again
            world.until(lambda: world.client.count("unlink.dead") == 1, "the dead letter, back again")
        if command.startswith("unlink-worker dead"):
            command = command.replace("KEY", "DEAD")  # noqa: PLW2901 - the same command, about another one
        done = unlink_worker(world, command, tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
    assert world.client.count("unlink.dead") == 0
    assert "DEAD" in (tmp_path / "discarded.jsonl").read_text()


# --- what it promises -----------------------------------------------------------------------------------------------


def test_a_rotated_broker_password_loses_nothing(
    broker_users: BrokerUsers, tmp_path: Path, behaviour: Behaviour
) -> None:
    """Work that is under way while a password changes ends once, with one DELETE."""
    before = broker_users.url("rotated", "first password")
    behaviour.edits_held = True
    with (
        SimulatedEnterpriseManager.start(behaviour=behaviour) as enterprise_manager,
        World(before, f"sqlite:///{tmp_path / 'ledger.sqlite'}", enterprise_manager) as world,
    ):
        old = Observed(world.serve(LOOPBACK))
        world.send(vendor_command())
        old.worker.wait_for_log("unlink.submitted")
        world.start_worker(LOOPBACK | {"UNLINK_BROKER__URL": broker_users.url("rotated", "second password")})
        assert old.get("/readyz").status_code == 200
        old.worker.stop()
        behaviour.edits_held = False
        world.until_ended("CHG1")
        assert {outcome for outcome, _ in world.ends_of("CHG1")} == {"succeeded"}
        assert enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1


def test_a_lost_ledger_does_no_harm_to_what_was_done(world: World, behaviour: Behaviour, tmp_path: Path) -> None:
    """After the loss of the ledger, a command whose link has gone ends as absent, and no DELETE follows."""
    behaviour.edits_held = True
    worker = world.serve()
    world.send(vendor_command())
    worker.wait_for_log("unlink.submitted")
    worker.kill()
    for file in tmp_path.glob("ledger.sqlite*"):
        file.unlink()
    behaviour.edits_held = False
    world.until(lambda: VENDOR_LINK_ID in world.enterprise_manager.departures, "the end of the old task")
    world.start_worker()
    world.until_ended("CHG1")
    data = world.of("CHG1")[-1].data
    assert (data["outcome"], data["evidence"], data["changed"]) == ("succeeded", "absent", False)
    assert world.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1
