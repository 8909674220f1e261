"""Every command of the pages about assumptions and about the simulated Enterprise Manager, typed as it is written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.documents import blocks_of
from worker.sandbox.processes.free_ports import free_port
from worker.sandbox.processes.worker_process import surroundings
from worker.sandbox.simulated_enterprise_manager import SimulatedEnterpriseManager

ROOT = Path(__file__).parents[2]
EM = "UNLINK_ENTERPRISE_MANAGERS__LAB__"

#: Brief enough for a test: the page says that a minute is the default.
BRIEF = " --watch-seconds 1"

pytestmark = pytest.mark.slow


def commands_of(page: str) -> list[str]:
    """The commands of a page in `docs`, in their order; inline code is left out."""
    text = re.sub(r"`[^`]+`", "", (ROOT / "docs" / page).read_text())
    return [block.command for block in blocks_of(text) if block.language == "sh"]


class Reader:
    """Who reads a page, and types its commands into a shell in a folder of his own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        programs = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        self.settings = settings
        self._folder = folder
        self._surroundings = surroundings() | {"PATH": programs, "HOME": str(folder), "PYTHONPATH": str(ROOT)}

    def type(self, command: str) -> str:
        """Type a command, and wait for its end. Returns what it printed."""
        ended = subprocess.run(["bash", "-c", command], **self._started, capture_output=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return str(ended.stdout)

    @contextmanager
    def begin(self, command: str) -> Iterator[dict[str, str]]:
        """Type a command that runs until it is stopped. Returns the first line that it printed."""
        with subprocess.Popen(["bash", "-c", f"exec {command}"], **self._started, stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            yield json.loads(program.stdout.readline())
            program.terminate()
            assert program.wait(30) == 0

    def uses(self, about: dict[str, str]) -> None:
        """Set the worker's settings to what the simulated one printed."""
        password = Path(about["password_file"]).read_text().strip()
        self.settings = settings_for(about["url"], about["username"], password, about["ca_file"])

    @property
    def _started(self) -> dict[str, Any]:
        return {"env": self._surroundings | self.settings, "cwd": self._folder, "text": True}


def settings_for(url: str, username: str, password: str, ca_file: str) -> dict[str, str]:
    """The worker's settings for an Enterprise Manager."""
    return {f"{EM}URL": url, f"{EM}USERNAME": username, f"{EM}PASSWORD": password, f"{EM}CA_FILE": ca_file}


def found(printed: str) -> dict[str, str]:
    """The results by name, of the output as JSON."""
    (checks,) = json.loads(printed).values()
    return {check["assumption"]: check["result"] for check in checks}


def test_the_commands_of_the_page_about_assumptions(tmp_path: Path) -> None:
    """Else who wants to contribute a recording would fail at a command that this project wrote."""
    look, trial, record, replay = commands_of("assumptions.md")
    with SimulatedEnterpriseManager.start() as em:
        job = em.add_job(name="Lab copy", links=[em.add_repository("Lab repository")])
        reader = Reader(tmp_path, **settings_for(em.url, em.username, em.password, str(em.ca_file)))
        assert "nothing was changed" in reader.type(look)
        assert found(reader.type(f"{trial}{BRIEF} --output json"))["absent_link_404"] == "confirmed"
        assert len(em.links(job)) == 1
        recorded = found(reader.type(f"{record} --output json"))
    with reader.begin(replay.replace("/tmp/em", str(tmp_path / "em"))) as about:  # noqa: S108 - as the page has it
        reader.uses(about)
        assert found(reader.type(f"{look} --output json")) == recorded


def test_the_commands_of_the_page_about_the_simulated_one(tmp_path: Path) -> None:
    """Else nobody outside this project could start it."""
    install, start, curl = commands_of("simulated-enterprise-manager.md")
    assert (ROOT / install.rpartition(" ")[2]).exists()
    reader = Reader(tmp_path)
    with reader.begin(start.replace("9398", str(free_port()))) as about:
        reader.settings = {"control_url": about["control_url"]}
        assert "result" in reader.type(f"set -e; {curl}")
        reader.uses(about)
        assert (
            found(reader.type("unlink-worker doctor --assumptions --output json"))["links_of_other_jobs"] == "confirmed"
        )


def test_the_page_about_further_operations_has_no_command() -> None:
    """Else it would be one that nobody has tried."""
    assert commands_of("further-operations.md") == []
