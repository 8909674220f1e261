"""The play that orders through the console's HTTP API, run as its user would."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

import contracts
from tests import programs
from tests.console.conftest import served, token_of
from tests.console.test_orders import settings_of
from tests.end_to_end.world import World
from worker.clock import SystemClock
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_JOB_NAME,
    VENDOR_REPOSITORY_NAME,
    Behaviour,
)

PLAY = Path(contracts.__file__).parent / "recipes" / "ansible-uri.yml"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_play_without_a_program_orders_an_unlink_and_changes_something_once(
    world: World, behaviour: Behaviour, users_file: Path, tmp_path: Path
) -> None:
    """A play would go on although the link is still there, report a change every night, or never succeed again."""
    behaviour.running_job = "task_fails"
    em = world.enterprise_manager
    world.serve()
    with served(settings_of(world, users_file), SystemClock()) as console:
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "LC_ALL": "C.UTF-8",
            "CONSOLE_URL": console.url,
            "CONSOLE_TOKEN": token_of("submit"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        }

        def play(*arguments: str) -> tuple[int, str, str]:
            named = {"job": VENDOR_JOB_NAME, "repository": VENDOR_REPOSITORY_NAME, "ticket": "OPS-4711"}
            command: list[str | Path] = ["ansible-playbook", PLAY, "-e", json.dumps(named), *arguments]
            done = programs.run(command, env=environment, timeout=300)
            said = done.stdout + done.stderr
            assert token_of("submit") not in said
            changed = re.search(r"changed=(\d+)", done.stdout.rpartition("PLAY RECAP")[2])
            return done.returncode, changed[1] if changed else "", said

        status, changed, said = play("--check")
        assert (status, changed, "would be removed" in said) == (0, "0", True), said
        assert len(em.links(VENDOR_JOB_ID)) == 1
        em.set_running(VENDOR_JOB_ID, running=True)
        status, _, said = play()
        assert (status, "was not removed" in said) == (2, True), said
        em.set_running(VENDOR_JOB_ID, running=False)
        status, changed, said = play()
        assert (status, changed, em.links(VENDOR_JOB_ID)) == (0, "1", []), said
        status, changed, said = play()
        assert (status, changed) == (0, "0"), said
        status, _, said = play("-e", "job=")
        assert (status, "Not ordered (400): " in said, "job.name" in said) == (2, True, True), said
        status, _, said = play("-e", "job=Nowhere")
        assert (status, "no job is named" in said) == (2, True), said
