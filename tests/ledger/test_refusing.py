"""A ledger that a worker cannot use ends the worker's start at once, in words for a person."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from structlog.testing import capture_logs

from contracts.events import Outcome
from tests import programs
from tests.ledger import words
from tests.ledger.conftest import Database
from tests.ledger.test_migrations import engine_of, leave_a_newer_schema
from tests.rights import without_the_rights_of_root
from worker.doctor.findings import Finding
from worker.doctor.ledger import examine
from worker.ledger import WorkerState
from worker.ledger.schema import known_schema
from worker.ledger.sql_ledger import SqlLedger
from worker.ledger.tables import metadata
from worker.sandbox.processes.free_ports import free_port
from worker.settings import LedgerSettings, SettingsInvalidError
from worker.unlinks.batches import compose
from worker.unlinks.ports.enterprise_manager import TaskTicket
from worker.unlinks.ports.ledger import (
    BatchKey,
    CancelRequest,
    Change,
    HeldElsewhere,
    Intended,
    Lease,
    LeaseLostError,
    Ledger,
    MemberEnd,
    NewMember,
    Retry,
    SentAgain,
    Settled,
    Submitted,
    Withdrawn,
)


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


def unusable(path: Path, how: str) -> str:
    """Make the ledger's file unusable, and return what is said of it."""
    if how == "a folder":
        path.mkdir()
        return f"{path} is no file"
    if how == "another file":
        path.write_text("not a database, but a text that somebody wrote")
        path.chmod(0o666)
        return f"{path} is no SQLite database"
    path.touch()
    path.chmod(0o666)
    beside = path.with_name(f"{path.name}-wal") if how == "its log" else path
    beside.touch()
    beside.chmod(0o444)
    return f"may not write {beside}"


@pytest.mark.parametrize("how", ["a folder", "another file", "not writable", "its log"])
def test_a_file_that_cannot_be_a_ledger_is_named_with_its_setting(how: str) -> None:
    """`run` would wait for ever, with a message that names no setting."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        path = Path(folder, "ledger.db")
        said = unusable(path, how)
        with without_the_rights_of_root(), pytest.raises(SettingsInvalidError) as refused:
            SqlLedger(LedgerSettings(url=SecretStr(f"sqlite:///{path}")), "worker-a", words.SteppedClock())
        assert str(refused.value) == f"UNLINK_LEDGER__URL: {said}"


def test_doctor_says_the_same_of_a_file_that_cannot_be_a_ledger() -> None:
    """Two programs would give two reasons for one problem."""

    async def findings(path: Path) -> list[Finding]:
        settings = LedgerSettings(url=SecretStr(f"sqlite:///{path}"))
        return [each async for each in examine(settings, words.SteppedClock())]

    asyncio.run(findings(Path("/nowhere/ledger.db")))  # what it imports may not be read without the rights of root
    for how in ("a folder", "another file", "not writable", "its log"):
        with TemporaryDirectory() as folder:
            Path(folder).chmod(0o777)
            path = Path(folder, "ledger.db")
            said = unusable(path, how)
            with without_the_rights_of_root():
                assert said in [each.seen for each in asyncio.run(findings(path))], how


def test_a_schema_that_is_too_new_is_refused_in_one_line(database: Database) -> None:
    """A roll-back past a breaking version would end in a stack trace."""
    leave_a_newer_schema(database, usable_from=99)
    refusal = refusal_of(run_on(database.url)).strip().splitlines()[-1]
    assert refusal.startswith("the ledger's database needs a worker that knows schema 99 or later")


def move_on(database: Database) -> None:
    """A newer version changes the schema so that this one cannot work with it."""
    with engine_of(database).begin() as connection:
        connection.execute(text(f"UPDATE ledger_schema SET usable_from = {known_schema() + 1}"))  # noqa: S608


async def test_a_running_worker_stops_when_the_schema_becomes_too_new(database: Database) -> None:
    """It would go on writing rows that the newer workers misread."""
    ledger = await database.ledger(lease_seconds=1.5)
    lease = await words.claim(ledger)
    seen: list[bool] = []
    ledger.on_availability(seen.append)
    with capture_logs() as logs:
        move_on(database)
        await words.until(lambda: not ledger.up)
        assert isinstance(await ledger.claim(words.claim_of("CHG-2")), HeldElsewhere)
        # It is renewed no more: a newer worker takes over, and decides by the links.
        assert not ledger.alive(lease)
    assert seen == [False]
    (refusal,) = (entry for entry in logs if entry["log_level"] != "info")
    assert refusal["event"] == "ledger.schema_too_new"
    assert f"schema {known_schema() + 1} or later" in refusal["problem"]
    assert database.execute("SELECT count(*) FROM unlinks") == [(1,)]


LEASE = Lease("CHG-1", 1)
MEMBER = NewMember(BatchKey("default", None, "batch"), 2, "CHG-1", "f" * 64)
CANCEL = CancelRequest("CHG-1", "default", "j.doe", None, words.noon)
END = MemberEnd("CHG-1", Outcome.REJECTED, "id", words.noon)
STATE = WorkerState("worker-a", "1.0", 1, draining=False)
CHANGES: dict[str, Change] = {
    "intend": Intended(words.intent_of(), words.noon),
    "withdraw": Withdrawn(1),
    "send_again": SentAgain(2),
    "submitted": Submitted(TaskTicket("task-1", "session"), words.noon),
    "settle": Settled(Outcome.SUCCEEDED, b"event", words.noon),
}
#: What the core calls must not go on as if it were written: the delivery goes to a newer worker.
REFUSED: dict[str, Callable[[SqlLedger], Awaitable[object]]] = {
    "cancel": lambda ledger: ledger.cancel(CANCEL),
    "cancelled_by": lambda ledger: ledger.cancelled_by(LEASE),
    "count_rejected": lambda ledger: ledger.count_rejected(MEMBER, END),
    "end_members": lambda ledger: ledger.end_members("CHG-1"),
    "ended_batches": lambda ledger: ledger.ended_batches("CHG-1", compose),
    "has_decided": lambda ledger: ledger.has_decided("CHG-1", "f" * 64),
    "join": lambda ledger: ledger.join(MEMBER),
    "last_run": lambda ledger: ledger.last_run("CHG-1"),
    **{f"record {name}": partial(SqlLedger.record, lease=LEASE, change=change) for name, change in CHANGES.items()},
}
#: What does nothing, and what it returns.
IDLE: dict[str, tuple[Callable[[SqlLedger], Awaitable[object]], object]] = {
    "claim": (lambda ledger: ledger.claim(words.claim_of()), HeldElsewhere()),
    "retry": (lambda ledger: ledger.retry(Retry("CHG-1", "default", 1, "f" * 64)), HeldElsewhere()),
    "release": (lambda ledger: ledger.release(LEASE), None),
    "release_all": (lambda ledger: ledger.release_all(), None),
    "renew": (lambda ledger: ledger.renew(), None),
    "prune": (lambda ledger: ledger.prune(0), 0),
    "walk": (lambda ledger: ledger.walk(), False),
    "report_status": (lambda ledger: ledger.report_status(STATE), None),
}


def test_each_call_of_the_port_is_among_those() -> None:
    """A call that is added later would write into a schema that this version does not know."""
    port = {name for name, call in vars(Ledger).items() if inspect.iscoroutinefunction(call)}
    assert port <= {name.split()[0] for name in (*REFUSED, *IDLE)}


@pytest.mark.parametrize("call", [*REFUSED, *IDLE])
async def test_nothing_is_read_or_written_once_the_schema_is_too_new(database: Database, call: str) -> None:
    """A row that this version writes, or reads, would be one that it misunderstands."""
    ledger = await database.ledger()
    await words.claim(ledger)
    await settle(ledger, await words.claim(ledger, "CHG-0"))
    database.age(100)
    move_on(database)
    before = contents(database)
    await ledger.look_around()
    if call in REFUSED:
        with pytest.raises(LeaseLostError, match="needs a worker that knows schema"):
            await REFUSED[call](ledger)
    else:
        idle, answer = IDLE[call]
        assert await idle(ledger) == answer
    assert contents(database) == before


async def test_a_write_that_is_queued_behind_the_look_is_refused(database: Database) -> None:
    """What is asked between the look and its answer would still be written."""
    ledger = await database.ledger()
    move_on(database)
    before = contents(database)
    _, joined, pruned = await asyncio.gather(
        ledger.look_around(), ledger.join(MEMBER), ledger.prune(0), return_exceptions=True
    )
    assert isinstance(joined, LeaseLostError)
    assert pruned == 0
    assert contents(database) == before


async def settle(ledger: SqlLedger, lease: Lease) -> None:
    """Settle a key."""
    await ledger.record(lease, CHANGES["settle"])


def contents(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """All rows of the ledger."""
    return {name: sorted(database.execute(f"SELECT * FROM {name}"), key=str) for name in metadata.tables}  # noqa: S608
