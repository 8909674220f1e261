"""What a person meets who set something wrong: one readable line that names the remedy, no stack trace, no secret."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trustme

from tests.end_to_end.world import World
from tests.preloaded.preloaded import run_program

EM = "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__"


def run(world: World, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """The program's end, with changed settings."""
    return run_program(*arguments, settings=world.environment | changes)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("UNLINK_BROKRE__URL", "x", "UNLINK_BROKRE__URL: there is no such setting"),
        ("UNLINK_BROKER__URL", "amqp://u:hunter2@[bad/", "UNLINK_BROKER__URL"),
        ("UNLINK_LEDGER__URL", "mysql://u:hunter2@h/d", "must start with sqlite:// or postgresql://"),
        (f"{EM}CA_FILE", __file__, f"{EM}CA_FILE: holds no certificate in PEM format"),
    ],
)
def test_a_wrong_setting_ends_the_program_with_one_line(world: World, variable: str, value: str, said: str) -> None:
    """The line names the variable; the exit status is 2, so that no supervisor takes it for a crash to retry."""
    ended = run(world, "run", **{variable: value})
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{EM}PASSWORD": "hunter2"}, f"refused the user name or password: check {EM}USERNAME and {EM}PASSWORD"),
        ({f"{EM}URL": "https://127.0.0.1:1"}, f"is the port in {EM}URL right?"),
        ({f"{EM}URL": "https://nowhere.invalid:9398"}, f"{EM}URL"),
        ({f"{EM}CA_FILE": "OTHER_CA"}, f"into {EM}CA_FILE"),
    ],
)
def test_a_wrong_enterprise_manager_is_said_at_the_start(
    world: World, tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    """Before the first command comes, the log says in one line what to correct; the worker goes on trying."""
    other_ca = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other_ca))
    worker = world.start_worker({name: value.replace("OTHER_CA", str(other_ca)) for name, value in changes.items()})
    worker.wait_for_log("enterprise_manager.down")
    assert said in worker.log()
    assert worker.running
    assert "Traceback" not in worker.log()
    assert "hunter2" not in worker.log()


def test_a_wrong_broker_password_is_said(world: World) -> None:
    """The worker says what the broker refuses, and goes on trying."""
    worker = world.start_worker({"UNLINK_BROKER__URL": world.broker_url_with_password("hunter2")}, wait=False)
    worker.wait_for_log("broker.connection_failed")
    assert "refuses the user name or the password (403): correct UNLINK_BROKER__URL" in worker.log()
    assert "hunter2" not in worker.log()
    assert "Traceback" not in worker.log()


def test_unverified_tls_works_and_is_said_at_every_start(world: World) -> None:
    """Who switches verification off is served, and reminded each time."""
    del world.environment[f"{EM}CA_FILE"]
    worker = world.start_worker({f"{EM}VERIFY_TLS": "false"})
    worker.wait_for_log("enterprise_manager.tls_not_verified")
    worker.wait_for_log("enterprise_manager.logged_on")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--job", "a", "--repository", "b", "--link", "c"], 2, "exactly one of link and repository is needed"),
        (["--job", "a", "--link", "not-a-uuid"], 2, "repository.link_id"),
        (["--job", "a", "--repository", "b", "--timeout", "5"], 2, "timeout_seconds"),
        (["--job", "a", "--repository", "b", "--em", "nowhere"], 2, "no worker has ever served"),
    ],
)
def test_submit_says_what_is_wrong(world: World, arguments: list[str], status: int, said: str) -> None:
    """A mistake on the command line is told before anything is put on the queue."""
    ended = run(world, "submit", *arguments)
    assert (ended.returncode, said in ended.stderr) == (status, True), ended.stderr
    assert "Traceback" not in ended.stderr
