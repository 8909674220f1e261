"""A statement that takes too long holds up its own key, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.unlinks.ports.ledger import AlreadySettled, Settled

#: Makes every change of one key take longer than `statement_timeout`.
_SLOW = """
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN PERFORM pg_sleep(60); RETURN coalesce(NEW, OLD); END $$;
CREATE TRIGGER dawdle BEFORE UPDATE OR DELETE ON unlinks FOR EACH ROW WHEN (OLD.key = 'CHG-slow')
  EXECUTE FUNCTION dawdle()
"""


@pytest.fixture
async def own_database(postgresql_url: str) -> AsyncIterator[Database]:
    """A database that no other test meets: its tables are changed."""
    database = Database("postgresql", postgresql_url)
    yield database
    await database.close()


async def test_a_write_that_is_always_too_slow_fails_and_the_others_go_on(
    own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row that the database cannot change in time would stop every unlink of every worker, for ever."""
    monkeypatch.setattr("worker.ledger.postgresql._STATEMENT_TIMEOUT", "SET statement_timeout = '300ms'")
    ledger = await own_database.ledger()
    keys = [f"CHG-{n}" for n in range(20)]
    slow = await words.claim(ledger, "CHG-slow")
    leases = [await words.claim(ledger, key) for key in keys]
    own_database.execute(_SLOW)
    with capture_logs() as logs:
        failing = asyncio.create_task(ledger.record(slow, Settled(Outcome.SUCCEEDED, b"slow", words.noon)))
        await asyncio.gather(*(ledger.record(each, Settled(Outcome.SUCCEEDED, b"e", words.noon)) for each in leases))
        more = 0
        while not failing.done():
            await words.claim(ledger, f"CHG-more-{more}")
            more += 1
    with pytest.raises(DBAPIError, match="statement timeout"):
        await failing
    assert ledger.up
    assert {entry["event"] for entry in logs} <= {"ledger.write_blocked"}
    assert await ledger.claim(words.claim_of("CHG-0")) == AlreadySettled(b"e")


async def test_while_nothing_can_be_written_a_slow_write_waits(
    own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of a slow disk would use up the attempts of every command."""
    monkeypatch.setattr("worker.ledger.postgresql._STATEMENT_TIMEOUT", "SET statement_timeout = '300ms'")
    ledger = await own_database.ledger(lease_seconds=600)
    slow = await words.claim(ledger, "CHG-slow")
    own_database.execute(_SLOW)
    settling = asyncio.create_task(ledger.record(slow, Settled(Outcome.SUCCEEDED, b"slow", words.noon)))
    await words.until(lambda: not ledger.up)
    assert not settling.done()
    own_database.execute("DROP TRIGGER dawdle ON unlinks")
    await settling
    assert ledger.up
