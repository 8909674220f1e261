"""A write that the database cannot carry out costs its own key, and no other, wherever in the transaction it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.ledger.postgresql import BoundedConnection
from worker.ledger.sql_ledger import SqlLedger
from worker.unlinks.ports.ledger import AlreadySettled, Lease, Settled

BAD = "CHG-bad"

SLOW = "PERFORM pg_sleep(60)"
DAMAGED = "RAISE EXCEPTION 'invalid page in block 7' USING ERRCODE = 'XX001'"
GREEDY = "RAISE EXCEPTION 'out of memory' USING ERRCODE = '53200'"
FULL = "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'"


EACH = "BEFORE INSERT OR UPDATE"
AT_COMMIT = "AFTER INSERT OR UPDATE"


def trouble(table: str, what: str, *, when: str = f"NEW.key = '{BAD}'", timing: str = EACH) -> str:
    """Statements that make the database fail at some rows of a table."""
    constraint, deferred = ("CONSTRAINT ", "DEFERRABLE INITIALLY DEFERRED ") if timing == AT_COMMIT else ("", "")
    return f"""
        CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {what}; RETURN NEW; END $$;
        CREATE {constraint}TRIGGER trouble {timing} ON {table} {deferred}FOR EACH ROW WHEN ({when})
          EXECUTE FUNCTION trouble()
    """


@pytest.fixture
async def own_database(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """A database that no other test meets: its tables are changed. Statements may take 0.3 s."""
    monkeypatch.setattr("worker.ledger.postgresql._STATEMENT_TIMEOUT", "SET statement_timeout = '300ms'")
    database = Database("postgresql", postgresql_url)
    yield database
    await database.close()


async def settle(ledger: SqlLedger, lease: Lease) -> None:
    """Settle a key."""
    await ledger.record(lease, Settled(Outcome.SUCCEEDED, lease.key.encode(), words.noon))


PLACES = [
    ("row", "unlinks", EACH),
    ("history", "steps", EACH),
    ("search terms", "search_terms", EACH),
    ("commit", "unlinks", AT_COMMIT),
]
TROUBLES = [
    ("slow", SLOW, "statement timeout"),
    ("damaged", DAMAGED, "invalid page"),
    ("greedy", GREEDY, "out of memory"),
]


async def others_go_on(ledger: SqlLedger, failing: asyncio.Task[None], leases: list[Lease]) -> None:
    """Settle these, and then claim others until the write that cannot be carried out has failed."""
    async with asyncio.timeout(10):
        await asyncio.gather(*(settle(ledger, each) for each in leases))
    more = 0
    while not failing.done():
        await words.claim(ledger, f"CHG-more-{more}")
        more += 1


@pytest.mark.parametrize(
    ("table", "timing", "what", "problem"),
    [
        pytest.param(table, timing, what, problem, id=f"{how}, in the {where}")
        for where, table, timing in PLACES
        for how, what, problem in TROUBLES
        if (timing, what) != (AT_COMMIT, SLOW)  # PostgreSQL applies no timeout to a commit: the next test has it
    ],
)
async def test_a_write_that_always_fails_is_the_only_one(
    own_database: Database, table: str, timing: str, what: str, problem: str
) -> None:
    """One row that the database cannot change would stop every unlink of every worker, for ever."""
    ledger = await own_database.ledger()
    bad = await words.claim(ledger, BAD)
    leases = [await words.claim(ledger, f"CHG-{n}") for n in range(20)]
    own_database.execute(trouble(table, what, timing=timing))
    with capture_logs() as logs:
        failing = asyncio.create_task(settle(ledger, bad))
        await others_go_on(ledger, failing, leases)
    with pytest.raises(DBAPIError, match=problem):
        await failing
    assert ledger.up
    assert [(entry["event"], entry["idempotency_key"]) for entry in logs] == [("ledger.write_blocked", BAD)]
    assert await ledger.claim(words.claim_of("CHG-0")) == AlreadySettled(b"CHG-0")


@pytest.mark.parametrize(("table", "timing"), [("search_terms", EACH), ("unlinks", AT_COMMIT)])
async def test_where_no_timeout_of_statements_holds_the_workers_own_deadline_finds_the_write(
    own_database: Database, table: str, timing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a pooler that drops settings, one slow row would cost each transaction its connection, for ever."""
    monkeypatch.setattr("worker.ledger.postgresql._STATEMENT_TIMEOUT", "SELECT 1")
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 0.5)
    ledger = await own_database.ledger()
    bad = await words.claim(ledger, BAD)
    leases = [await words.claim(ledger, f"CHG-{n}") for n in range(3)]
    own_database.execute(trouble(table, f"PERFORM pg_sleep(5); {DAMAGED}", timing=timing))
    failing = asyncio.create_task(settle(ledger, bad))
    await others_go_on(ledger, failing, leases)
    with pytest.raises(DBAPIError, match="did not answer"):
        await failing
    assert ledger.up


@pytest.mark.parametrize("what", [SLOW, FULL], ids=["slow", "full"])
async def test_while_nothing_can_be_written_every_write_waits(own_database: Database, what: str) -> None:
    """An hour of a slow or full disk would use up the attempts of every command."""
    ledger = await own_database.ledger(lease_seconds=600)
    leases = [await words.claim(ledger, f"CHG-{n}") for n in range(10)]
    own_database.execute(trouble("unlinks", what, when="true"))
    with capture_logs() as logs:
        settling = [asyncio.create_task(settle(ledger, each)) for each in leases]
        await words.until(lambda: not ledger.up)
        for _ in range(5):  # what only reads says nothing about writes
            await ledger.look_around()
            assert not ledger.up
    assert not any(task.done() for task in settling)
    assert [entry["event"] for entry in logs].count("ledger.database_lost") == 1
    own_database.execute("DROP TRIGGER trouble ON unlinks")
    await asyncio.gather(*settling)
    assert ledger.up
