from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests import programs
from tests.simulated_enterprise_manager.client import Client
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_LINK_ID,
    VENDOR_REPOSITORY_UID,
    ControlFailedError,
    Fault,
    LinkedBackup,
    LinkedRepository,
    SimulationControl,
    UnknownBehaviourError,
)

RECORDINGS = Path(__file__).parents[1] / "recordings"

PROGRAM = [sys.executable, "-m", "worker.sandbox.simulated_enterprise_manager"]


@contextmanager
def program(state: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The program, and what it printed when it was ready; killed at the end if it still runs."""
    arguments = [*PROGRAM, "--state-dir", str(state), *options]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield running, json.loads(running.stdout.readline())
        finally:
            running.kill()


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulationControl]:
    """The control of a program that runs for all tests of this file."""
    options = ["--behaviour", "edit_seconds=0", "--behaviour", 'success_messages=["Ok"]']
    with program(tmp_path_factory.mktemp("em"), *options) as (_, about):
        yield SimulationControl(about["control_url"])


def test_another_process_does_all_that_a_test_in_process_does(control: SimulationControl) -> None:
    """The demo and the chaos tests, which run it as a program, cannot steer it."""
    repository = control.add_repository("Far away", backup_server="vbr02")
    job = control.add_job(
        name="Far", links=[repository, LinkedRepository(VENDOR_LINK_ID, VENDOR_REPOSITORY_UID)], linked_backups=["b"]
    )
    assert control.links(job)[1] == LinkedRepository(VENDOR_LINK_ID, VENDOR_REPOSITORY_UID)
    assert control.linked_backups(job) == [LinkedBackup(control.linked_backups(job)[0].object_in_job_id, "b")]

    with closing(Client(control, "json")) as client:
        control.inject(Fault("status", path="/tasks", status=503))
        assert [fault.status for fault in control.faults] == [503]
        assert client.get("tasks").status == 503
        control.inject(Fault("status", times=None))
        control.clear_faults()
        assert client.end_of(client.unlink(job, VENDOR_LINK_ID))["result"]["message"] == "Ok"
        assert control.deletes_of(VENDOR_LINK_ID) == 1
        assert [link.repository_uid for link in control.links(job)] == [repository]
        assert control.linked_backups(job) == []
        again = control.add_link(job, VENDOR_REPOSITORY_UID)
        control.remove_link(job, again)
        assert len(control.links(job)) == 1

        control.refuse_connections()
        with pytest.raises(requests.ConnectionError):
            client.get("jobs")
        control.accept_connections()
        assert client.get("jobs").status == 200
        control.restart()
        assert client.get("jobs").status == 401
        client.token = client.log_on().headers["X-RestSvcSessionId"]
        assert len(control.sessions) == 1
        control.expire_sessions()
        assert client.get("jobs").status == 401
        assert control.requests[-1].status == 401
        control.forget_requests()
        assert control.count() == 0


def test_behaviour_is_changed_from_another_process(control: SimulationControl) -> None:
    """A switch that is set in the demo's process stays where it was in the server's."""
    control.behaviour.list_lag_seconds = 3
    control.change_behaviour(only_link="400")
    control.behaviour.change(absent_link="task_fails", role="Portal User")

    behaviour = control.behaviour
    assert (behaviour.list_lag_seconds, behaviour.only_link, behaviour.absent_link) == (3, "400", "task_fails")
    assert behaviour.edit_seconds == 0
    with pytest.raises(UnknownBehaviourError, match="absent_link"):
        control.change_behaviour(absent_link="maybe")


def test_only_the_links_that_went_lately_are_told(control: SimulationControl) -> None:
    """The longer a trial of chaos lasts, the longer would be what is asked for five times a second."""
    links = tuple(LinkedRepository(f"link-{number}", f"repository-{number}") for number in range(2))
    job = control.add_job(name="Lately", links=links)
    control.remove_link(job, "link-0")
    first = control.departures["link-0"]
    control.remove_link(job, "link-1")
    assert {"link-0", "link-1"} <= control.departures_since(first).keys()
    assert control.departures_since(first + 1e-9).keys() == {"link-1"}
    assert control.departures_since(first + 3600) == {}


def test_a_job_runs_and_stops_from_another_process(control: SimulationControl) -> None:
    """A busy job cannot be tried in the demo."""
    control.change_behaviour(role="Portal Administrator", running_job="400", list_lag_seconds=0)
    job = control.add_job(name="Busy", links=[VENDOR_REPOSITORY_UID, VENDOR_JOB_ID])
    control.set_running(job)
    with closing(Client(control, "xml")) as client:
        link = control.links(job)[0].object_in_job_id
        assert client.unlink(job, link).status == 400
        control.set_running(job, running=False)
        assert client.unlink(job, link).status == 202


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [("explode", {}), ("perform", {}), ("_new_link", {}), ("links", {}), ("links", {"job_id": "nowhere"})],
)
def test_an_operation_that_cannot_be_done_says_so(
    control: SimulationControl, operation: str, arguments: dict[str, Any]
) -> None:
    """A mistake in a chaos test goes unnoticed, or stops the server."""
    with pytest.raises(ControlFailedError, match=operation):
        control._perform(operation, **arguments)  # noqa: SLF001 - no public method makes this mistake


def test_a_page_in_a_browser_cannot_reach_the_control(control: SimulationControl) -> None:
    """A web page that the user has open steers the sandbox."""
    url = control._url  # noqa: SLF001 - where it listens

    assert requests.post(f"{url}restart", data="{}", timeout=10).status_code == 405
    assert requests.get(f"{url}restart", timeout=10).status_code == 405


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_ends_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """The sandbox leaves servers behind."""
    with program(tmp_path) as (running, _):
        running.send_signal(number)

        assert running.wait(10) == 0


@pytest.mark.slow
def test_a_program_that_is_started_again_is_still_trusted(tmp_path: Path) -> None:
    """A chaos test that restarts the server must configure every worker anew."""
    with program(tmp_path) as (first, about):
        first.kill()
    port = about["url"].rpartition(":")[2]

    with program(tmp_path, "--port", port) as (_, again):
        assert (again["url"], again["username"]) == (about["url"], about["username"])
        with closing(Client(SimulationControl(again["control_url"]), "xml")) as client:
            assert client.links(VENDOR_JOB_ID) == [VENDOR_LINK_ID]


def test_secrets_are_in_files_that_only_their_owner_reads(tmp_path: Path) -> None:
    """The password shows in a list of processes, in a log, or to another user of the machine."""
    with program(tmp_path) as (_, about):
        password = (tmp_path / "password").read_text()

        assert password not in json.dumps(about)
        assert about["password_file"] == str(tmp_path / "password")
        for name in ("password", "server.pem"):
            assert os.stat(tmp_path / name).st_mode & 0o077 == 0  # noqa: PTH116 - its mode is the point


def test_it_listens_at_the_configured_address_under_the_configured_name(tmp_path: Path) -> None:
    """In a container nobody reaches it, or its certificate is for another host."""
    password_file = tmp_path / "elsewhere"
    options = ["--host", "127.0.0.2", "--name", "em.example", "--password-file", str(password_file)]
    with program(tmp_path / "state", *options) as (_, about):
        assert about["url"].startswith("https://em.example:")
        port = int(about["url"].rpartition(":")[2])
        context = ssl.create_default_context(cafile=about["ca_file"])
        with socket.create_connection(("127.0.0.2", port), timeout=30) as connection:
            context.wrap_socket(connection, server_hostname="em.example").close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=30)
        assert about["control_url"].startswith("http://127.0.0.1:")
        assert about["password_file"] == str(password_file)
        assert password_file.read_text()
        assert not (tmp_path / "state" / "password").exists()


@pytest.mark.parametrize("option", ["absent_link=maybe", "colour=red"])
def test_a_switch_that_does_not_exist_ends_the_program_in_one_line(tmp_path: Path, option: str) -> None:
    """A misspelt switch leaves a curious user with a stack trace, or with another server than was asked for."""
    arguments = [*PROGRAM, "--state-dir", str(tmp_path), "--behaviour", option]

    ended = programs.run(arguments, timeout=20)

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"simulated Enterprise Manager: {option.partition('=')[0]}: ")
    assert ended.stderr.count("\n") == 1


def test_the_program_replays_a_recording(tmp_path: Path) -> None:
    """Else nobody could look at what a user recorded without writing a test first."""
    with program(tmp_path, "--replay", str(RECORDINGS / "vendor-page.json")) as (_, about):
        replayed = SimulationControl(about["control_url"])
        with closing(Client(replayed, "xml")) as client:
            assert client.links(VENDOR_JOB_ID) == [VENDOR_LINK_ID]
            assert client.end_of(client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID))["result"]["message"] == "Ok"
            assert client.links(VENDOR_JOB_ID) == []
            assert client.get("jobs").status == 404
