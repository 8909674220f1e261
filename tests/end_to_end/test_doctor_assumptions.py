"""`unlink-worker doctor --assumptions`: what is expected of Enterprise Manager, with its settings alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.preloaded.preloaded import run_program
from tests.waiting import wait_until
from worker.sandbox.processes.worker_process import surroundings
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_NAME, SimulatedEnterpriseManager

WITHOUT = "without names and addresses"

EM = "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__"


class Said:
    """What the doctor said, its lines put together again, and its exit status."""

    def __init__(self, ended: subprocess.CompletedProcess[str]) -> None:
        self.status = ended.returncode
        self.output = ended.stdout
        self.text = " ".join(ended.stdout.split())
        self.error = " ".join(ended.stderr.split())


Doctor = Callable[..., Said]


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimulatedEnterpriseManager]:
    """One for all tests of this module."""
    with SimulatedEnterpriseManager.start() as em:
        yield em


@pytest.fixture
def em(simulated: SimulatedEnterpriseManager) -> Iterator[SimulatedEnterpriseManager]:
    """The same, behaving as by default."""
    before = asdict(simulated.behaviour)
    yield simulated
    simulated.change_behaviour(**before)


@pytest.fixture
def settings(em: SimulatedEnterpriseManager) -> dict[str, str]:
    """The settings of that Enterprise Manager, and no others."""
    return {
        f"{EM}URL": em.url,
        f"{EM}USERNAME": em.username,
        f"{EM}PASSWORD": em.password,
        f"{EM}CA_FILE": str(em.ca_file),
    }


@pytest.fixture
def doctor(settings: dict[str, str]) -> Doctor:
    """Asks the doctor for the assumptions, with changed settings."""

    def ask(*arguments: str, **changes: str) -> Said:
        return Said(
            run_program("doctor", "--assumptions", *arguments, settings={"COLUMNS": "80", **settings, **changes})
        )

    return ask


def test_the_assumptions_need_no_settings_but_those_of_enterprise_manager(
    em: SimulatedEnterpriseManager, doctor: Doctor
) -> None:
    """Else who only has an Enterprise Manager could not report how it differs."""
    em.change_behaviour(json_keys="camel")
    said = doctor("--output", "json")
    assert said.status == 0, said.error
    (checks,) = json.loads(said.output).values()
    (found,) = [check for check in checks if check["assumption"] == "pascal_case_keys"]
    assert (found["result"], "the key" in found["seen"]) == ("different", True)
    assert em.sessions == []
    assert VENDOR_JOB_NAME not in said.output
    assert em.url not in said.output


def test_the_assumptions_are_a_table_for_people(em: SimulatedEnterpriseManager, doctor: Doctor) -> None:
    """Else nobody would read forty objects of JSON."""
    em.change_behaviour(links_of_other_jobs="404")
    em.add_job(name="Backup", job_type="Backup")
    said = doctor()
    assert said.status == 0, said.error
    for reported in ("links_of_other_jobs different", "but: status 404", "nothing was changed", "front_page confirmed"):
        assert reported in said.text
    assert all(len(line) <= 80 for line in said.output.splitlines())


def test_a_recording_is_written_once_and_says_so(
    em: SimulatedEnterpriseManager, doctor: Doctor, tmp_path: Path
) -> None:
    """Else a user would attach nothing, or lose an earlier recording."""
    file = tmp_path / "recording.json"
    said = doctor("--record", str(file))
    assert (said.status, said.error) == (0, f"Recorded in {file} ({file.stat().st_size} characters), {WITHOUT}.")
    assert VENDOR_JOB_NAME not in file.read_text()
    assert em.username not in file.read_text()
    again = doctor("--record", str(file))
    assert (again.status, again.error) == (2, f"{file} exists; --record writes a new file.")


@pytest.mark.slow
def test_a_trial_on_the_link_of_a_laboratory_says_that_the_link_is_back(
    em: SimulatedEnterpriseManager, doctor: Doctor
) -> None:
    """Else nobody would dare to have a link removed, or know that it has come back."""
    job = em.add_job(name="Laboratory", links=[em.add_repository("Shelf")])
    link = ("--with-job", "Laboratory", "--with-repository", "Shelf")
    said = doctor("--watch-seconds", "1", *link)
    assert said.status == 0, said.error
    assert "absent_link_404 confirmed" in said.text
    assert "nothing was changed" not in said.text
    assert "The link is there again, with a new ID in its job; 6 edits" in " ".join(said.error.split())
    assert len(em.links(job)) == 1
    refused = doctor("--with-job", "Laboratory", "--with-repository", "Nobody")
    assert (refused.status, refused.output) == (2, "")
    assert "No trial was made, and nothing was changed: the job has 0 links" in " ".join(refused.error.split())


@pytest.mark.slow
def test_a_signal_puts_the_link_of_a_laboratory_back(em: SimulatedEnterpriseManager, settings: dict[str, str]) -> None:
    """Else a supervisor that stops the command would leave the laboratory without its link."""
    job = em.add_job(name="Laboratory", links=[em.add_repository("Shelf")])
    em.change_behaviour(edit_seconds=0.3)
    command = [sys.executable, "-m", "worker", "doctor", "--assumptions", "--with-job", job]
    with subprocess.Popen(
        [*command, "--with-repository", "Shelf"], env=surroundings() | settings, stderr=subprocess.PIPE
    ) as trial:
        wait_until(lambda: not em.links(job), "a removed link")
        for _ in range(3):
            trial.send_signal(signal.SIGTERM)
        _, error = trial.communicate(timeout=60)
    assert trial.returncode == 1
    assert b"The link is there again" in error
    assert len(em.links(job)) == 1


def test_an_enterprise_manager_that_cannot_be_asked_fails_the_command(doctor: Doctor) -> None:
    """Else a script would take silence for forty confirmed assumptions."""
    said = doctor(**{f"{EM}PASSWORD": "hunter2"})
    assert said.status == 1
    assert f"check {EM}USERNAME and {EM}PASSWORD" in said.error
    assert "hunter2" not in said.output + said.error
