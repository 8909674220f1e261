"""What is due together is committed together, and one write's trouble is not another's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, event

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.ledger.sql_ledger import SqlLedger
from worker.unlinks.ports.ledger import (
    Claimed,
    Intended,
    Lease,
    LeaseLostError,
    Settled,
)


@pytest.fixture
def commits() -> Iterator[list[object]]:
    """Every commit of every ledger during the test."""
    seen: list[object] = []

    def note(connection: object) -> None:
        seen.append(connection)

    event.listen(Engine, "commit", note)
    yield seen
    event.remove(Engine, "commit", note)


async def test_two_hundred_writes_at_once_share_a_few_commits(database: Database, commits: list[object]) -> None:
    """A worker with thousands in flight would be as slow as one disk flush after the other."""
    ledger = await database.ledger()
    commits.clear()
    await asyncio.gather(*(words.claim(ledger, f"CHG-{n}") for n in range(200)))
    assert len(commits) <= 3


async def test_a_write_that_fails_does_not_spoil_those_beside_it(database: Database) -> None:
    """One lost lease, one busy job or one strange key would fail every unlink that happens to be due with it."""
    ledger = await database.ledger()
    leases = [await words.claim(ledger, f"CHG-{n}") for n in range(20)]
    await ledger.record(await words.claim(ledger, "CHG-busy"), Intended(words.intent_of(job="busy"), words.noon))
    good = [ledger.record(lease, Intended(words.intent_of(job=lease.key), words.noon)) for lease in leases[:10]]
    busy = [ledger.record(lease, Intended(words.intent_of(job="busy"), words.noon)) for lease in leases[10:15]]
    lost = [ledger.record(Lease(lease.key, 99), Settled(Outcome.FAILED, b"", words.noon)) for lease in leases[15:]]
    strange = [ledger.claim(words.claim_of(f"\ud800{n}")) for n in range(3)]
    results = await asyncio.gather(*good, *busy, *lost, *strange, return_exceptions=True)
    assert results[:10] == [True] * 10
    assert results[10:15] == [False] * 5
    assert all(isinstance(result, LeaseLostError) for result in results[15:20])
    assert all(isinstance(result, UnicodeEncodeError) for result in results[20:])


async def test_a_listener_that_fails_leaves_no_caller_without_an_answer(database: Database) -> None:
    """A renewal whose listener fails would leave the claims of its transaction waiting for ever."""
    ledger = await database.ledger()

    def fail(well: bool) -> None:
        raise ValueError(f"a listener's fault, {well}")

    ledger.on_renewal(fail)
    renewal, *claims = await asyncio.gather(
        ledger.renew(), *(words.claim(ledger, f"CHG-{n}") for n in range(3)), return_exceptions=True
    )
    assert isinstance(renewal, ValueError)
    assert [claim.key for claim in claims if isinstance(claim, Lease)] == ["CHG-0", "CHG-1", "CHG-2"]


async def test_strange_names_of_other_systems_do_not_stop_an_unlink(database: Database) -> None:
    """A job whose name holds a character that the database cannot store could never be unlinked."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    intent = words.intent_of()
    strange = type(intent)(intent.job_id, "\ud800 and \0", intent.link, intent.linked_backups)
    assert await ledger.record(lease, Intended(strange, words.noon))
    result = await ledger.claim(words.claim_of())
    assert isinstance(result, Claimed)
    assert result.entry.intent is not None
    assert result.entry.intent.link == intent.link


async def test_workers_that_want_the_same_jobs_in_any_order_all_get_an_answer(database: Database) -> None:
    """Two workers' transactions would wait for each other, and every unlink with them."""
    ledgers = [await database.ledger(f"worker-{n}") for n in range(3)]
    for turn in range(5):
        jobs = [f"job-{turn}-{n}" for n in range(20)]

        async def ask(ledger: SqlLedger, job: str, key: str) -> bool:
            lease = await words.claim(ledger, key)
            return await ledger.record(lease, Intended(words.intent_of(job=job), words.noon))

        asked = [
            ask(ledger, job, f"CHG-{turn}-{worker}-{job}")
            for worker, ledger in enumerate(ledgers)
            for job in (jobs if worker % 2 else reversed(jobs))
        ]
        assert sum(await asyncio.gather(*asked)) == len(jobs)


@pytest.mark.slow
async def test_how_much_faster_it_is_together(database: Database) -> None:
    """Prints it (pytest -s); judges nothing, since machines differ."""
    ledger = await database.ledger()

    async def rate(name: str, at_once: int, rounds: int) -> float:
        began = time.perf_counter()
        for turn in range(rounds):
            await asyncio.gather(*(words.claim(ledger, f"{name}-{turn}-{n}") for n in range(at_once)))
        return at_once * rounds / (time.perf_counter() - began)

    alone = await rate("alone", at_once=1, rounds=100)
    together = await rate("together", at_once=200, rounds=5)
    print(  # noqa: T201 - what it is for
        f"\n{database.kind}: {alone:,.0f} writes/s with 1 waiting, {together:,.0f} with 200: "
        f"{together / alone:.1f} times as many"
    )
