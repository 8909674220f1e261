"""Two workers' transactions that need rows of each other do not wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from tests.ledger import words
from tests.ledger.conftest import Database
from worker.ledger.sql_ledger import SqlLedger
from worker.unlinks.ports.ledger import ClaimResult, HeldElsewhere, Intended, Lease

Writes = Sequence[Coroutine[Any, Any, object]]


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """Every error of every ledger's database during the test."""
    seen: list[str] = []

    def note(context: ExceptionContext) -> None:
        seen.append(f"{context.original_exception} in {context.statement} {context.parameters}")

    event.listen(Engine, "handle_error", note)
    yield seen
    event.remove(Engine, "handle_error", note)


@contextmanager
def _holding(database: Database, *keys: str) -> Iterator[None]:
    """Lock the rows of these keys."""
    with psycopg.connect(database.url, connect_timeout=10) as outsider:
        outsider.execute("SELECT 1 FROM unlinks WHERE key = ANY(%s) FOR UPDATE", [list(keys)])
        yield


async def _both_wait(database: Database) -> None:
    """Wait until both workers wait for a row."""
    await words.until(lambda: database.execute(words.WAITING) == [(2,)])


async def _claim(ledger: SqlLedger, key: str) -> ClaimResult:
    return await ledger.claim(words.claim_of(key))


async def _intend(ledger: SqlLedger, lease: Lease) -> bool:
    return await ledger.record(lease, Intended(words.intent_of(job=lease.key), words.noon))


async def _two_workers(database: Database) -> tuple[tuple[SqlLedger, Lease], tuple[SqlLedger, Lease]]:
    """Two workers, each with a key of its own: CHG-5 and CHG-9. Another one has all the gates that hold them up."""
    other = await database.ledger("worker-c")
    for gate in ("first-a", "first-b", "CHG-0-a", "CHG-0-b", "CHG-91-a", "CHG-91-b"):
        await words.claim(other, gate)
    one, two = await database.ledger("worker-a"), await database.ledger("worker-b")
    return (one, await words.claim(one, "CHG-5")), (two, await words.claim(two, "CHG-9"))


async def _together(
    database: Database, workers: Sequence[SqlLedger], gates: Sequence[str], writes: Sequence[Writes]
) -> list[object]:
    """Have each worker carry out its writes in one transaction, and hold both up at their gates, which are claims.

    Returns the answers.
    """
    with _holding(database, *gates):
        with _holding(database, "first-a", "first-b"):
            firsts = [
                asyncio.create_task(_claim(worker, first))
                for worker, first in zip(workers, ("first-a", "first-b"), strict=True)
            ]
            await _both_wait(database)
            tasks = [asyncio.create_task(write) for each in writes for write in each]
            await asyncio.sleep(0)  # they are queued: the next transaction takes all of them
        await asyncio.gather(*firsts)
        await _both_wait(database)
    return list(await asyncio.gather(*tasks))


async def test_renewals_and_claims_of_each_others_keys_do_not_deadlock(
    postgresql_database: Database, errors: list[str]
) -> None:
    """Duplicates of running commands would hold up all writes of both workers for a second at each renewal."""
    (one, _), (two, _) = await _two_workers(postgresql_database)

    await _together(
        postgresql_database,
        (one, two),
        ("CHG-0-a", "CHG-0-b"),
        (
            (one.renew(), _claim(one, "CHG-0-a"), _claim(one, "CHG-9")),
            (two.renew(), _claim(two, "CHG-0-b"), _claim(two, "CHG-5")),
        ),
    )

    assert errors == []


async def test_intents_and_claims_of_each_others_keys_do_not_deadlock(
    postgresql_database: Database, errors: list[str]
) -> None:
    """Duplicates of commands that are about to run would hold up all writes of both workers for a second."""
    (one, first), (two, second) = await _two_workers(postgresql_database)

    answers = await _together(
        postgresql_database,
        (one, two),
        ("CHG-91-a", "CHG-91-b"),
        (
            (_intend(one, first), _claim(one, "CHG-9"), _claim(one, "CHG-91-a")),
            (_intend(two, second), _claim(two, "CHG-5"), _claim(two, "CHG-91-b")),
        ),
    )

    assert [answers[0], answers[3]] == [True, True]
    assert all(isinstance(answer, HeldElsewhere) for answer in (*answers[1:3], *answers[4:]))
    assert errors == []


async def _queued_together(
    database: Database, worker: SqlLedger, first: str, writes: Writes
) -> list[asyncio.Task[object]]:
    """Have a worker carry out its writes in one transaction; `first` is a key that another one has."""
    ((waiting,),) = database.execute(words.WAITING)
    with _holding(database, first):
        before = asyncio.create_task(_claim(worker, first))
        await words.until(lambda: database.execute(words.WAITING) == [(waiting + 1,)])
        tasks = [asyncio.create_task(write) for write in writes]
        await asyncio.sleep(0)  # they are queued: the next transaction takes all of them
    await before
    return tasks


async def test_an_intent_that_waits_for_another_workers_job_does_not_deadlock(
    postgresql_database: Database, errors: list[str]
) -> None:
    """A duplicate beside unlinks of one job on two workers would hold up all writes of both for a second."""
    (one, first), (two, second) = await _two_workers(postgresql_database)
    gate, last = await words.claim(one, "CHG-6"), await words.claim(one, "CHG-7")
    job = "job 1"

    with _holding(postgresql_database, gate.key):
        intents = [(first, job), (gate, "job 2"), (last, "job 3")]
        ones = await _queued_together(
            postgresql_database,
            one,
            "first-a",
            [one.record(lease, Intended(words.intent_of(job=of), words.noon)) for lease, of in intents],
        )
        await words.until(lambda: postgresql_database.execute(words.WAITING) == [(1,)])
        twos = await _queued_together(
            postgresql_database,
            two,
            "first-b",
            [_claim(two, last.key), two.record(second, Intended(words.intent_of(job=job), words.noon))],
        )
        await words.until(
            lambda: all(task.done() for task in twos) or postgresql_database.execute(words.WAITING) == [(2,)]
        )
    await asyncio.gather(*ones, *twos)

    assert errors == []
    assert sorted([await ones[0], await twos[1]]) == [False, True]  # type: ignore[type-var] # both are bool


async def test_renewals_wait_for_no_claim(postgresql_database: Database, errors: list[str]) -> None:
    """A renewal of many leases beside duplicates of their commands would hold up all writes for a second."""
    holder, other = await postgresql_database.ledger("worker-a"), await postgresql_database.ledger("worker-b")
    # The index of leases and the table have the rows in this order.
    await words.claim(holder, "CHG-2")
    await words.claim(holder, "CHG-1")
    gate, third = "CHG-1-gate", await postgresql_database.ledger("worker-c")
    for key in (gate, "first"):
        await words.claim(third, key)

    with _holding(postgresql_database, gate):
        claims = await _queued_together(
            postgresql_database, other, "first", [_claim(other, key) for key in ("CHG-1", gate, "CHG-2")]
        )
        await words.until(lambda: postgresql_database.execute(words.WAITING) == [(1,)])
        await holder.renew()
        assert not any(claim.done() for claim in claims)
    await asyncio.gather(*claims)

    assert errors == []
