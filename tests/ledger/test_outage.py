"""The database goes away in the middle of the work, and comes back."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from tests.private_servers.postgresql import PrivatePostgresql
from worker.ledger import LedgerClosedError, Step
from worker.ledger.database import Trouble, open_engine, read_url, trouble_of
from worker.ledger.sql_ledger import SqlLedger
from worker.sandbox.processes.free_ports import free_port
from worker.settings import LedgerSettings, SettingsInvalidError
from worker.unlinks.ports.enterprise_manager import TaskTicket
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    Claimed,
    Intended,
    Settled,
    Stage,
    Submitted,
    Withdrawn,
)


@pytest.fixture
def postgresql_that_stops(postgresql: PrivatePostgresql) -> Iterator[PrivatePostgresql]:
    """The server that all tests share, started again at the end."""
    yield postgresql
    postgresql.start()


async def test_a_write_waits_for_a_database_that_was_stopped(
    postgresql_that_stops: PrivatePostgresql, postgresql_database: Database
) -> None:
    """An unlink in flight would fail, or be done without being recorded, because the database was restarted."""
    ledger = await postgresql_database.ledger()
    notified: list[bool] = []
    ledger.on_availability(notified.append)
    lease = await words.claim(ledger)
    with capture_logs() as logs:
        await asyncio.to_thread(postgresql_that_stops.stop)
        write = asyncio.create_task(ledger.record(lease, Intended(words.intent_of(), words.noon)))
        await words.until(lambda: not ledger.up)
        given_up = asyncio.create_task(ledger.claim(words.claim_of("CHG-2")))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert not write.done()
        await asyncio.to_thread(postgresql_that_stops.start)
        assert await write
    assert ledger.up
    assert notified == [False, True]
    assert [entry["event"] for entry in logs] == ["ledger.database_lost", "ledger.database_back"]
    password = make_url(postgresql_database.url).password
    assert password
    assert password not in str(logs)
    history = await ledger.history("CHG-1")
    assert history is not None
    assert [step.step for step in history.steps] == [Step.CLAIMED, Step.INTENDED]
    assert await ledger.history("CHG-2") is None


async def test_a_server_that_is_killed_loses_nothing_that_was_reported(
    postgresql_that_stops: PrivatePostgresql, postgresql_database: Database
) -> None:
    """A terminal event would be published whose end nobody remembers: the repeat would be a second unlink."""
    ledger = await postgresql_database.ledger()
    keys = [f"CHG-{n}" for n in range(200)]

    async def settle(key: str) -> None:
        lease = await words.claim(ledger, key)
        await ledger.record(lease, Settled(Outcome.SUCCEEDED, key.encode(), words.noon))

    work = asyncio.gather(*(settle(key) for key in keys))
    await asyncio.sleep(0)
    await asyncio.to_thread(postgresql_that_stops.kill)
    await asyncio.to_thread(postgresql_that_stops.start)
    await work
    for key in keys:
        assert await ledger.claim(words.claim_of(key)) == AlreadySettled(key.encode())


class DeafProxy:
    """A way to PostgreSQL on which the answer to a commit can be lost."""

    def __init__(self) -> None:
        self.lose_the_next_answer = False
        self.lost = 0

    @asynccontextmanager
    async def to(self, url: str) -> AsyncIterator[str]:
        """The URL of the same database, through the proxy."""
        target = make_url(url)

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server_reader, server_writer = await asyncio.open_connection(target.host, target.port)
            with suppress(ConnectionError):
                await asyncio.gather(self._up(reader, server_writer), self._down(server_reader, writer))
            for end in (writer, server_writer):
                end.close()

        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        yield target.set(port=port).render_as_string(hide_password=False)
        server.close()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while sent := await reader.read(65536):
            self._committing = b"COMMIT" in sent
            writer.write(sent)
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while answer := await reader.read(65536):
            if self._committing and self.lose_the_next_answer:
                self.lose_the_next_answer = False
                self.lost += 1
                break
            writer.write(answer)
        writer.close()

    _committing = False


async def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_done_twice(postgresql_database: Database) -> None:
    """A network that breaks at the wrong instant would make a worker give up its own unlink, or a job block itself."""
    proxy = DeafProxy()
    async with proxy.to(postgresql_database.url) as url:
        ledger = SqlLedger(LedgerSettings(url=SecretStr(url)), "worker-a", postgresql_database.clock)
        await ledger.start()
        proxy.lose_the_next_answer = True
        lease = await words.claim(ledger)
        assert ledger.alive(lease)
        for write in (
            ledger.record(lease, Intended(words.intent_of(), words.noon)),
            ledger.record(lease, Submitted(TaskTicket("task-1", "session"), words.noon)),
            ledger.record(lease, Settled(Outcome.SUCCEEDED, b"event", words.noon)),
        ):
            proxy.lose_the_next_answer = True
            assert await write in {True, None}
        proxy.lose_the_next_answer = True
        assert await ledger.claim(words.claim_of()) == AlreadySettled(b"event")
        assert proxy.lost == 5
        history = await ledger.history("CHG-1")
        await ledger.close()
    assert history is not None
    assert history.record is not None
    assert history.record.entry.sends == 1


async def test_a_worker_paused_in_a_transaction_holds_up_its_own_keys_and_only_for_seconds(
    postgresql_database: Database,
) -> None:
    """One frozen worker would stop every other one, for as long as it is frozen."""
    ledger = await postgresql_database.ledger()
    locked, free = await words.claim(ledger, "CHG-locked"), await words.claim(ledger, "CHG-free")
    paused = open_engine(read_url(postgresql_database.settings().url), postgresql_database.clock).connect()
    paused.execute(text("UPDATE unlinks SET attempts = 2 WHERE key = 'CHG-locked'"))
    with capture_logs() as logs:
        waiting = asyncio.create_task(ledger.record(locked, Settled(Outcome.SUCCEEDED, b"event", words.noon)))
        await ledger.record(free, Settled(Outcome.SUCCEEDED, b"event", words.noon))
        await words.until(lambda: logs)
        assert not waiting.done()
        assert ledger.up
        await waiting
    assert [(entry["event"], entry["idempotency_key"]) for entry in logs] == [("ledger.write_blocked", "CHG-locked")]
    with pytest.raises(DBAPIError) as refused:
        paused.execute(text("SELECT 1"))
    assert trouble_of(refused.value) is Trouble.AWAY
    paused.invalidate()
    paused.close()


@pytest.mark.slow
async def test_a_write_waits_while_another_program_has_locked_the_sqlite_file(sqlite_url: str) -> None:
    """A backup of the file, or a person's transaction, would fail the unlinks in flight."""
    database = Database("sqlite", sqlite_url)
    ledger = await database.ledger()
    with closing(sqlite3.connect(make_url(sqlite_url).database or "", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        claiming = asyncio.create_task(ledger.claim(words.claim_of()))
        await words.until(lambda: not ledger.up)
        assert not claiming.done()
        other.execute("ROLLBACK")
    assert isinstance(await claiming, Claimed)
    assert ledger.up
    await ledger.close()


async def test_starting_waits_for_a_database_that_is_not_there_yet(
    postgresql_that_stops: PrivatePostgresql, empty_postgresql_database: Database
) -> None:
    """A worker that starts before its database would die, and be restarted again and again."""
    await asyncio.to_thread(postgresql_that_stops.stop)
    with capture_logs() as logs:
        ledger = empty_postgresql_database.new()
        starting = asyncio.create_task(ledger.start())
        await words.until(lambda: logs)
        assert not starting.done()
        assert not ledger.up
        await asyncio.to_thread(postgresql_that_stops.start)
        await starting
    assert [entry["event"] for entry in logs] == ["ledger.database_lost", "ledger.migrated", "ledger.database_back"]
    await words.claim(ledger)
    await ledger.close()


async def test_a_worker_can_stop_while_its_database_is_away() -> None:
    """A worker that is to end would hang until it is killed."""
    settings = LedgerSettings(url=SecretStr(f"postgresql://unlink:x@127.0.0.1:{free_port()}/ledger"))
    ledger = SqlLedger(settings, "worker-a", words.SteppedClock())
    starting = asyncio.create_task(ledger.start())
    waiting = asyncio.create_task(ledger.claim(words.claim_of()))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(LedgerClosedError):
        await waiting
    await ledger.release_all()
    await ledger.close()
    with pytest.raises(LedgerClosedError):
        await ledger.claim(words.claim_of())


async def test_closing_finishes_what_waits(database: Database) -> None:
    """The last ends before a restart would be forgotten, though the database was there."""
    ledger = database.new()
    await ledger.start()
    lease = await words.claim(ledger)
    settling = asyncio.create_task(ledger.record(lease, Settled(Outcome.SUCCEEDED, b"event", words.noon)))
    await asyncio.sleep(0)
    await ledger.close()
    await settling
    assert not ledger.up
    assert await (await database.ledger()).claim(words.claim_of()) == AlreadySettled(b"event")


async def test_a_claim_that_nobody_waits_for_any_more_is_let_go(database: Database) -> None:
    """A key would be held for as long as the worker runs, by nobody, and no other worker could take it."""
    ledger, other = await database.ledger(), await database.ledger("worker-b")
    for n in range(20):
        claim = words.claim_of(f"CHG-{n}")
        claiming = asyncio.create_task(ledger.claim(claim))
        for _ in range(n):
            await asyncio.sleep(0.0002)
        claiming.cancel()
        with suppress(asyncio.CancelledError):
            if isinstance(await claiming, Claimed):
                continue  # it was faster than the cancellation
        await words.take_over(other, claim.key)


async def test_a_claim_that_fails_after_its_commit_is_let_go(database: Database) -> None:
    """After an error that nobody foresaw, a key would be held for as long as its worker runs, by nobody."""
    ledger, other = await database.ledger(), await database.ledger("worker-b")

    def fail(call: str, _seconds: float) -> None:
        if call == "claim":
            raise RuntimeError("a mistake")

    ledger.on_call(fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        await ledger.claim(words.claim_of())
    await words.take_over(other)


async def test_a_release_that_nobody_waits_for_any_more_is_carried_out(database: Database) -> None:
    """After the end of a hold, a key would be held by nobody for as long as its worker runs."""
    ledger, other = await database.ledger(), await database.ledger("worker-b")
    leases = [await words.claim(ledger, f"CHG-{n}") for n in range(20)]
    releasing = [asyncio.create_task(ledger.release(lease)) for lease in leases]
    await asyncio.sleep(0)
    for each in releasing:
        each.cancel()
    await asyncio.wait(releasing)
    for lease in leases:
        await words.take_over(other, lease.key)


async def test_what_has_happened_is_recorded_even_if_nobody_waits_for_it_any_more(database: Database) -> None:
    """A DELETE that never left would count as sent, and a task that Enterprise Manager began would not be followed."""
    ledger = await database.ledger()
    task = TaskTicket("task-1", "session")
    withdrawn, submitted = [f"withdrawn-{n}" for n in range(20)], [f"submitted-{n}" for n in range(20)]
    writing = []
    for key in (*withdrawn, *submitted):
        lease = await words.claim(ledger, key)
        await ledger.record(lease, Intended(words.intent_of(job=key), words.noon))
        change = Withdrawn(1) if key in withdrawn else Submitted(task, words.noon)
        writing.append(ledger.record(lease, change))
    tasks = [asyncio.create_task(write) for write in writing]
    await asyncio.sleep(0)
    for each in tasks:
        each.cancel()
    await asyncio.wait(tasks)
    entries = {key: await words.take_over(ledger, key) for key in (*withdrawn, *submitted)}
    assert {(entries[key].stage, entries[key].sends) for key in withdrawn} == {(Stage.CLAIMED, 0)}
    assert {(entries[key].stage, entries[key].task) for key in submitted} == {(Stage.SUBMITTED, task)}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://unlink:hush@hush@db/ledger",
        "postgresql://unlink:hush@db:hush/ledger",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_repeated(url: str) -> None:
    """A password would end up in the log of a worker that does not start."""
    with pytest.raises(SettingsInvalidError, match=r"^UNLINK_LEDGER__URL: ") as refused:
        SqlLedger(LedgerSettings(url=SecretStr(url)), "worker-a", words.SteppedClock())
    assert "hush" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


async def test_closing_starts_no_thread(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a host without a thread to spare, a drain would end in a stack trace, and log off nowhere."""

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ledger = await database.ledger()
    with monkeypatch.context() as host:
        host.setattr(threading.Thread, "start", start)
        await ledger.close()
