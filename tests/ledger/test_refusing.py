"""A ledger that a worker cannot use ends the worker's start at once, in words for a person."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from tests import programs
from tests.ledger import words
from tests.ledger.conftest import Database
from tests.ledger.test_migrations import engine_of, leave_a_newer_schema
from worker.ledger.schema import known_schema
from worker.sandbox.processes.free_ports import free_port
from worker.unlinks.ports.ledger import HeldElsewhere


def run_on(ledger_url: str) -> subprocess.CompletedProcess[str]:
    """`unlink-worker run`, whose broker and Enterprise Manager are not there."""
    environment = {
        "PATH": os.environ["PATH"],
        "UNLINK_BROKER__URL": f"amqp://guest:guest@127.0.0.1:{free_port()}",
        "UNLINK_LEDGER__URL": ledger_url,
        "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__URL": f"https://127.0.0.1:{free_port()}",
        "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__USERNAME": "user",
        "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__PASSWORD": "password",
        "UNLINK_HTTP__PORT": str(free_port()),
    }
    program = Path(sys.executable).with_name("unlink-worker")
    return programs.run([program, "run"], env=environment)


def refusal_of(ended: subprocess.CompletedProcess[str]) -> str:
    """What it says on standard error beside its log."""
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.slow
def test_a_missing_folder_is_named_with_its_setting(tmp_path: Path) -> None:
    """`run` would wait for ever, with a message that names neither."""
    folder = tmp_path / "missing"
    refusal = refusal_of(run_on(f"sqlite:///{folder}/ledger.db"))
    assert f"UNLINK_LEDGER__URL: there is no folder {folder}" in refusal


def test_a_folder_that_may_not_be_written_to_is_named_with_its_setting() -> None:
    """As above; /proc takes no file from anyone, not even from root."""
    assert "UNLINK_LEDGER__URL: may not write in /proc" in refusal_of(run_on("sqlite:////proc/ledger.db"))


def test_a_schema_that_is_too_new_is_refused_in_one_line(database: Database) -> None:
    """A roll-back past a breaking version would end in a stack trace."""
    leave_a_newer_schema(database, usable_from=99)
    refusal = refusal_of(run_on(database.url)).strip().splitlines()[-1]
    assert refusal.startswith("the ledger's database needs a worker that knows schema 99 or later")


async def test_a_running_worker_stops_claiming_when_the_schema_becomes_too_new(database: Database) -> None:
    """It would go on writing rows that the newer workers misread."""
    ledger = await database.ledger(lease_seconds=1.5)
    lease = await words.claim(ledger)
    seen: list[bool] = []
    ledger.on_availability(seen.append)
    with capture_logs() as logs:
        with engine_of(database).begin() as connection:
            connection.execute(text(f"UPDATE ledger_schema SET usable_from = {known_schema() + 1}"))  # noqa: S608
        await words.until(lambda: not ledger.up)
        assert isinstance(await ledger.claim(words.claim_of("CHG-2")), HeldElsewhere)
        await ledger.renew()
        assert ledger.alive(lease)
    assert seen == [False]
    (refusal,) = (entry for entry in logs if entry["log_level"] != "info")
    assert refusal["event"] == "ledger.schema_too_new"
    assert f"schema {known_schema() + 1} or later" in refusal["problem"]
    assert await ledger.history("CHG-2") is None
