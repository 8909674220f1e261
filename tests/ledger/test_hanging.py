"""PostgreSQL hangs without dying: no connection breaks, and no answer comes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import psycopg
import pytest
from structlog.testing import capture_logs

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.ledger.postgresql import ANSWER_SECONDS
from worker.unlinks.ports.ledger import HeldElsewhere, Settled


@pytest.fixture
def freeze() -> Iterator[Callable[[Database], None]]:
    """Stop the backends that serve a database's workers; at the end they go on."""
    frozen: list[int] = []

    def freeze(database: Database) -> None:
        pids = database.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'unlink-worker' AND datname = current_database()"
        )
        for (pid,) in pids:
            os.kill(pid, signal.SIGSTOP)
            frozen.append(pid)
        assert frozen

    yield freeze
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)


async def test_a_server_that_does_not_answer_is_away_and_the_write_goes_on_with_another(
    postgresql_database: Database, freeze: Callable[[Database], None]
) -> None:
    """No command would be claimed for as long as one backend hangs, and the ledger would still count as available."""
    ledger = await postgresql_database.ledger()
    lease = await words.claim(ledger)
    seen: list[bool] = []
    ledger.on_availability(seen.append)
    freeze(postgresql_database)
    with capture_logs() as logs:
        async with asyncio.timeout(ANSWER_SECONDS + 10):
            await ledger.record(lease, Settled(Outcome.SUCCEEDED, b"event", words.noon))
    assert seen == [False, True]
    lost = next(entry for entry in logs if entry["event"] == "ledger.database_lost")
    assert lost["problem"] == f"the server did not answer for {ANSWER_SECONDS:g} s"


async def test_a_backend_that_hangs_with_the_lock_of_a_row_costs_the_lease_of_that_row_only(
    postgresql_database: Database,
) -> None:
    """A worker would renew no lease any more, say nothing, and lose all of its unlinks to other workers."""
    ledger, other = await postgresql_database.ledger(lease_seconds=3), await postgresql_database.ledger("worker-b")
    locked, free = await words.claim(ledger, "CHG-locked"), await words.claim(ledger, "CHG-free")
    renewals: list[bool] = []
    ledger.on_renewal(renewals.append)
    with psycopg.connect(postgresql_database.url, connect_timeout=10) as hung:
        hung.execute("SELECT 1 FROM unlinks WHERE key = 'CHG-locked' FOR UPDATE")
        os.kill(hung.info.backend_pid, signal.SIGSTOP)
        try:
            with capture_logs() as logs:
                await words.until(lambda: False in renewals)
                assert ledger.alive(locked)  # it is said before it is too late
                # A write of the locked key waits, and the others go on.
                settling = asyncio.create_task(ledger.record(locked, Settled(Outcome.SUCCEEDED, b"e", words.noon)))
                await words.until(lambda: not ledger.alive(locked))
                assert ledger.alive(free)
            held = await other.claim(words.claim_of("CHG-free"))
            assert isinstance(held, HeldElsewhere)
            assert held.seconds > 0
            assert ledger.up
            blocked = [entry for entry in logs if entry["event"] == "ledger.lease_blocked"]
            assert [entry["idempotency_key"] for entry in blocked] == ["CHG-locked"]
        finally:
            os.kill(hung.info.backend_pid, signal.SIGCONT)
    await settling
    renewals.clear()
    await words.until(lambda: renewals)
    assert renewals[0]


async def test_a_worker_can_stop_while_its_server_hangs(
    postgresql_database: Database, freeze: Callable[[Database], None]
) -> None:
    """A drain would wait for ever for the ledger's thread, until the worker is killed."""
    ledger = await postgresql_database.ledger()
    freeze(postgresql_database)
    claiming = asyncio.create_task(words.claim(ledger))
    await asyncio.sleep(0)
    async with asyncio.timeout(2 * ANSWER_SECONDS + 5):
        await ledger.close()
    claiming.cancel()
