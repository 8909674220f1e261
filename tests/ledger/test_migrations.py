"""The schema moves forward, whatever it was and whoever else starts at the same time."""

from __future__ import annotations

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, text

from contracts.commands import UnlinkCommand
from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from tests.ledger.partial_indexes import one_in_flight_per_job, unsettled_by_worker
from worker.ledger import SchemaTooNewError
from worker.ledger.database import open_engine, read_url
from worker.ledger.migrations import migrate
from worker.ledger.schema import known_schema
from worker.ledger.tables import metadata
from worker.unlinks.ports.enterprise_manager import TaskTicket
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    Claimed,
    Intended,
    NewClaim,
    Settled,
    Stage,
    Submitted,
)

_IN_FLIGHT = """
    INSERT INTO unlinks (key, fingerprint, enterprise_manager, command, stage, token, worker, lease_until, attempts,
        received_at, job_id, job_name, link_id, repository_uid, linked_backups, sent_at, sends, updated_at)
    VALUES ('CHG-1', :fingerprint, 'default', :command, 'intended', 3, 'gone', 1, 3,
        1772366400123456, 'job', 'Copy job 1', 'link', 'uid', '[["b-1", null, null]]', 1772366400123456, 1, 0)
"""
_SETTLED = """
    INSERT INTO unlinks (key, fingerprint, enterprise_manager, command, stage, token, lease_until, attempts,
        received_at, sends, outcome, event, finished_at, updated_at)
    VALUES ('CHG-2', :fingerprint, 'default', :command, 'settled', 1, 0, 1,
        1772366400123456, 0, 'succeeded', :command, 1772366400123456, 0)
"""


def engine_of(database: Database) -> Engine:
    """An engine beside the ledgers'."""
    return open_engine(read_url(database.settings().url), database.clock)


def insert_older_rows(connection: Connection) -> None:
    """What a worker of the first schema left: one unlink under way, one that has ended."""
    claim = words.claim_of()
    for statement in (_IN_FLIGHT, _SETTLED):
        connection.execute(text(statement), {"fingerprint": claim.fingerprint, "command": claim.command})


@pytest.fixture
def database(empty_database: Database) -> Database:
    """What a first worker finds."""
    return empty_database


async def test_an_older_fingerprint_becomes_that_of_the_content(database: Database) -> None:
    """A repeat of a command that an earlier version took would be rejected as another one's key."""
    command = UnlinkCommand.model_validate_json(
        b'{"command": "unlink.v1", "idempotency_key": "CHG-2", "requested_by": "somebody", "job": {"name": "a"},'
        b' "repository": {"name": "b"}}'
    )
    body = command.model_dump_json().encode()
    with engine_of(database).begin() as connection:
        migrate(connection, "0004")
        connection.execute(text(_SETTLED), {"fingerprint": "older", "command": body})
    ledger = await database.ledger()
    claim = NewClaim("CHG-2", command.fingerprint, "default", body, words.noon)
    assert await ledger.claim(claim) == AlreadySettled(body)


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008"])
async def test_an_older_schema_with_its_rows_is_brought_forward(database: Database, revision: str) -> None:
    """An upgrade of the worker would lose the memory of what was done, and do it again."""
    engine = engine_of(database)
    with engine.begin() as connection:
        migrate(connection, revision)
        insert_older_rows(connection)
    ledger = await database.ledger()
    result = await ledger.claim(words.claim_of())
    assert isinstance(result, Claimed)
    entry = result.entry
    assert (entry.stage, entry.lease.token, entry.attempts) == (Stage.INTENDED, 4, 4)
    assert entry.received_at == words.noon
    assert entry.intent is not None
    assert entry.intent.linked_backups[0].object_in_job_id == "b-1"
    await ledger.record(entry.lease, Submitted(TaskTicket("task-1", "session"), words.noon))
    await ledger.record(entry.lease, Settled(Outcome.SUCCEEDED, b"event", words.noon))
    assert await ledger.claim(words.claim_of("CHG-2")) == AlreadySettled(words.claim_of().command)


@pytest.mark.filterwarnings("ignore:.*expression-based index .?batch_members_by_batch")
async def test_the_migrated_schema_is_the_one_that_the_statements_are_made_for(database: Database) -> None:
    """A column or the index that keeps jobs apart would be missing in production, and only there."""
    await database.ledger()
    with engine_of(database).connect() as connection:
        assert {one_in_flight_per_job, unsettled_by_worker} <= metadata.tables["unlinks"].indexes
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


async def test_many_workers_may_start_on_an_empty_database_at_once(database: Database) -> None:
    """The first roll-out of several replicas would fail half of the time."""
    ledgers = await asyncio.gather(*(database.ledger(f"worker-{n}") for n in range(6)))
    for n, ledger in enumerate(ledgers):
        await words.claim(ledger, f"CHG-{n}")


def leave_a_newer_schema(database: Database, *, usable_from: int) -> None:
    """What a later version may do: it only adds."""
    with engine_of(database).begin() as connection:
        migrate(connection)
        connection.execute(text("ALTER TABLE unlinks ADD COLUMN priority INTEGER"))
        connection.execute(text("CREATE TABLE cancels (key TEXT PRIMARY KEY)"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0099'"))
        connection.execute(text("UPDATE ledger_schema SET usable_from = :number"), {"number": usable_from})


async def test_on_a_newer_schema_that_only_adds_the_worker_runs(database: Database) -> None:
    """A roll-out in steps, or a roll-back, would stop every worker of the previous version."""
    leave_a_newer_schema(database, usable_from=1)
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    assert await ledger.record(lease, Intended(words.intent_of(), words.noon))
    await ledger.record(lease, Settled(Outcome.SUCCEEDED, b"event", words.noon))
    assert await ledger.claim(words.claim_of()) == AlreadySettled(b"event")


async def test_on_a_schema_that_it_cannot_work_with_the_worker_refuses_to_start(database: Database) -> None:
    """An old worker would write rows that the new ones misread."""
    leave_a_newer_schema(database, usable_from=99)
    known = known_schema()
    with pytest.raises(
        SchemaTooNewError, match=f"needs a worker that knows schema 99 or later; this one knows {known}"
    ):
        await database.ledger()


async def test_a_ledger_opens_sqlite_so_that_commits_survive_a_power_cut(
    database: Database,
) -> None:
    """The last commits before a power cut would be gone, and their unlinks done again."""
    with engine_of(database).connect() as connection:
        if database.kind == "sqlite":
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        else:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
