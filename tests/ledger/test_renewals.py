"""Renewals go before all other writes, also when the database does not carry those out; and what they renew.

Leases and time-outs have nearly the proportions that they have by default: a lease of 11 s, a statement of 5 s at most,
and 2 s at most for a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from tests.ledger.test_slow_statements import DAMAGED, SLOW, trouble
from worker.ledger.sql_ledger import SqlLedger
from worker.unlinks.ports.ledger import Lease, Settled

LEASE_SECONDS = 5.5
STATEMENT_SECONDS = 2.5
LOCK_SECONDS = 1.0


@pytest.fixture
async def own_database(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """A database that no other test meets: its tables are changed."""
    statements, locks = f"SET statement_timeout = '{STATEMENT_SECONDS}s'", f"SET lock_timeout = '{LOCK_SECONDS}s'"
    monkeypatch.setattr("worker.ledger.postgresql._STATEMENT_TIMEOUT", f"{statements}; {locks}")
    monkeypatch.setattr("worker.ledger.postgresql._SESSION", ())
    database = Database("postgresql", postgresql_url)
    yield database
    await database.close()


async def settle(ledger: SqlLedger, lease: Lease) -> None:
    """Settle a key."""
    await ledger.record(lease, Settled(Outcome.SUCCEEDED, lease.key.encode(), words.noon))


async def ends_of_leases(ledger: SqlLedger, leases: list[Lease], working: asyncio.Future[Any]) -> set[str]:
    """The keys whose lease was over at any time until the work was done."""
    over: set[str] = set()
    while not working.done():
        over |= {lease.key for lease in leases if not ledger.alive(lease)}
        await asyncio.sleep(0.01)
    return over


@pytest.mark.parametrize("beside", [0, 20], ids=["alone", "with others"])
async def test_a_slow_statement_costs_no_other_lease(own_database: Database, beside: int) -> None:
    """One row that takes long would end all leases of its worker: its unlinks would go to other workers."""
    ledger = await own_database.ledger(lease_seconds=LEASE_SECONDS)
    slow = await words.claim(ledger, "CHG-0")
    kept = [await words.claim(ledger, f"kept-{n}") for n in range(5)]
    others = [await words.claim(ledger, f"other-{n}") for n in range(beside)]
    own_database.execute(trouble("unlinks", SLOW, when="NEW.key = 'CHG-0' AND NEW.stage = 'settled'"))
    failing = asyncio.ensure_future(settle(ledger, slow))
    ends = [asyncio.create_task(settle(ledger, lease)) for lease in others]
    assert await ends_of_leases(ledger, kept, failing) == set()
    with pytest.raises(DBAPIError, match="statement timeout"):
        await failing
    await asyncio.gather(*ends)


async def test_many_statements_that_are_a_little_slow_cost_no_lease(own_database: Database) -> None:
    """A slow disk would end all leases of a worker with much to write, although no statement takes too long."""
    ledger = await own_database.ledger(lease_seconds=LEASE_SECONDS)
    kept = [await words.claim(ledger, f"kept-{n}") for n in range(5)]
    others = [await words.claim(ledger, f"other-{n}") for n in range(40)]
    own_database.execute(trouble("unlinks", "PERFORM pg_sleep(0.2)", when="NEW.stage = 'settled'"))
    settling = asyncio.gather(*(settle(ledger, lease) for lease in others))
    assert await ends_of_leases(ledger, kept, settling) == set()
    await settling


async def test_locked_rows_cost_no_other_lease(own_database: Database) -> None:
    """A client that hangs in a transaction over some rows would end all leases of a worker."""
    ledger = await own_database.ledger(lease_seconds=LEASE_SECONDS)
    locked = [await words.claim(ledger, f"CHG-{n}") for n in range(4)]
    kept = [await words.claim(ledger, f"kept-{n}") for n in range(5)]
    with psycopg.connect(own_database.url, connect_timeout=10) as other:
        other.execute("SELECT 1 FROM unlinks WHERE key LIKE 'CHG-%' FOR UPDATE")
        settling = asyncio.gather(*(settle(ledger, lease) for lease in locked))
        waited = asyncio.ensure_future(asyncio.sleep(2 * LEASE_SECONDS))  # for so long, the rows are locked
        assert await ends_of_leases(ledger, kept, waited) == set()
    await settling


async def test_a_lease_that_could_not_be_released_keeps_other_workers_from_its_key_no_longer_than_that(
    own_database: Database,
) -> None:
    """A key would be held by nobody for as long as its worker renews other leases, and every redelivery would wait."""
    ledger, other = await own_database.ledger(lease_seconds=1), await own_database.ledger("worker-b")
    lease, kept = await words.claim(ledger), await words.claim(ledger, "CHG-kept")
    own_database.execute(trouble("unlinks", DAMAGED, when="NEW.worker IS NULL"))
    with pytest.raises(DBAPIError, match="invalid page"):
        await ledger.release(lease)
    own_database.execute("DROP TRIGGER trouble ON unlinks")
    with capture_logs() as logs:
        await words.take_over(other, lease.key)
    assert {"event": "ledger.lease_unused", "idempotency_key": "CHG-1", "log_level": "warning"} in logs
    assert ledger.alive(kept)


async def test_a_locked_row_is_known_as_such_beside_a_lease_that_is_used_no_more(own_database: Database) -> None:
    """A lease would count as taken over because its row was locked for a moment, and its unlink would be given up."""
    ledger = await own_database.ledger(lease_seconds=60)
    locked = await words.claim(ledger, "CHG-locked")
    unused = await words.claim(ledger, "CHG-unused")
    own_database.execute(trouble("unlinks", DAMAGED, when="NEW.worker IS NULL"))
    with pytest.raises(DBAPIError, match="invalid page"):
        await ledger.release(unused)
    with psycopg.connect(own_database.url, connect_timeout=10) as other:
        other.execute("SELECT 1 FROM unlinks WHERE key = 'CHG-locked' FOR UPDATE")
        await ledger.renew()
    assert ledger.alive(locked)
