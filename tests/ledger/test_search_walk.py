"""Keys of versions that wrote no search terms are made searchable, some at a time, whatever else runs meanwhile."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import text

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.ledger import Criteria, Inspection, search_walk
from worker.ledger.database import open_engine, read_url
from worker.ledger.migrations import migrate
from worker.ledger.search_writes import TermWrites
from worker.ledger.sql_ledger import SqlLedger
from worker.unlinks.ports.ledger import Claimed, Settled

_INSERT = """
    INSERT INTO unlinks (key, fingerprint, enterprise_manager, command, stage, token, lease_until, attempts,
        received_at, sends, outcome, event, finished_at, updated_at)
    VALUES (:key, 'f', 'default', :command, :stage, 1, 0, 1, :received_at, 0, :outcome, :event, :finished_at, 0)
"""


def insert(database: Database, *numbers: int, stage: str = "settled") -> None:
    """What a worker of schema 5 leaves."""
    ended = stage == "settled"
    rows: list[dict[str, Any]] = [
        {
            "key": f"CHG-{number:05}",
            "command": json.dumps({"command": "unlink.v1", "ticket": {"id": f"OPS-{number}"}}).encode(),
            "stage": stage,
            "received_at": number,
            "outcome": "failed" if ended else None,
            "event": b'{"data": {"reason": {"code": "task_failed"}}}' if ended else None,
            "finished_at": number if ended else None,
        }
        for number in numbers
    ]
    with open_engine(read_url(database.settings().url), database.clock).begin() as connection:
        connection.execute(text(_INSERT), rows)


def migrate_to(database: Database, revision: str) -> None:
    """Create the schema of an older version."""
    with open_engine(read_url(database.settings().url), database.clock).begin() as connection:
        migrate(connection, revision)


def found(database: Database, **criteria: Any) -> list[str]:
    """The keys that are found."""
    page = Inspection(database.settings(), database.clock).find(Criteria(**criteria))
    return [record.entry.lease.key for record in page.records]


def complete(database: Database) -> bool:
    """What a search says of itself."""
    return Inspection(database.settings(), database.clock).find(Criteria()).complete


async def walk_through(ledger: SqlLedger) -> int:
    """Walk to the end; in how many bites."""
    bites = 1
    while await ledger.walk():
        bites += 1
    return bites


async def walk_again(database: Database, ledger: SqlLedger) -> None:
    """Walk as an hour later."""
    database.execute("UPDATE search_walk SET next_at = 0")
    await walk_through(ledger)


async def test_older_keys_are_made_searchable_in_bites(empty_database: Database) -> None:
    """After an upgrade the audit would begin with the upgrade; or the upgrade would stop every unlink for minutes."""
    migrate_to(empty_database, "0005")
    insert(empty_database, *range(650))
    ledger = await empty_database.ledger()
    assert not complete(empty_database)
    assert await walk_through(ledger) >= 650 / search_walk.ROWS_IN_A_BITE
    assert complete(empty_database)
    assert found(empty_database, ticket="ops-649", outcome="failed", reason="task_failed") == ["CHG-00649"]
    assert empty_database.execute("SELECT count(*) FROM search_terms") == [(650,)]


async def test_a_new_ledger_is_complete(empty_database: Database) -> None:
    """Every search in a new installation would come with a warning."""
    await empty_database.ledger()
    assert complete(empty_database)


async def test_what_an_older_version_writes_meanwhile_is_found_after_the_next_walk(database: Database) -> None:
    """During a roll-out, half of the keys would be lost to every search for ever."""
    ledger = await database.ledger()
    await walk_through(ledger)
    insert(database, 1)
    insert(database, 2, stage="claimed")
    await words.claim(ledger, "CHG-3")
    # The older version takes over what this one has claimed, and settles it.
    database.execute("UPDATE unlinks SET stage = 'settled', outcome = 'failed', finished_at = 1 WHERE key = 'CHG-3'")
    await walk_again(database, ledger)
    assert found(database, outcome="failed") == ["CHG-3", "CHG-00001"]
    assert found(database, in_flight=True) == ["CHG-00002"]
    # It prunes one.
    database.execute("DELETE FROM unlinks WHERE key = 'CHG-00001'")
    assert found(database, outcome="failed") == ["CHG-3"]
    await walk_again(database, ledger)
    assert database.execute("SELECT count(*) FROM search_terms") == [(2,)]


async def test_a_walk_takes_nothing_back_that_a_worker_writes_meanwhile(empty_postgresql_database: Database) -> None:
    """A key that has ended would be shown as under way."""
    database = empty_postgresql_database
    migrate_to(database, "0005")
    insert(database, 1, stage="claimed")
    ledger = await database.ledger()
    with open_engine(read_url(database.settings().url), database.clock).begin() as connection:
        terms = TermWrites(connection)
        search_walk.walk(connection, terms)
        result = await ledger.claim(words.claim_of("CHG-00001", fingerprint="f"))
        assert isinstance(result, Claimed)
        await ledger.record(result.entry.lease, Settled(Outcome.SUCCEEDED, b"{}", words.noon))
        terms.write()
    assert found(database, outcome="succeeded") == ["CHG-00001"]


async def test_of_several_workers_one_walks(postgresql_database: Database) -> None:
    """Each worker would read the whole ledger every hour, or wait for the one that does."""
    database = postgresql_database
    first, second = await database.ledger("worker-a"), await database.ledger("worker-b")
    insert(database, *range(5))
    database.execute("UPDATE search_walk SET next_at = 0")
    with open_engine(read_url(database.settings().url), database.clock).begin() as connection:
        connection.execute(text("SELECT * FROM search_walk FOR UPDATE"))
        assert not await second.walk()
    assert await first.walk()
    await walk_through(second)
    assert len(found(database)) == 5
