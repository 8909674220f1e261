"""What is forgotten, and when: by the ledger's clock, and in bounded bites."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

import pytest

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.ledger import Step
from worker.ledger.database import open_engine, read_url
from worker.ledger.sql_ledger import SqlLedger
from worker.ledger.statements import KEYS_AT_ONCE, STEPS_AT_ONCE
from worker.ledger.transaction import Transaction
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    CancelRequest,
    CancelRequestedError,
    Claimed,
    Intended,
    Lease,
    Settled,
)

EVENT = b'{"specversion":"1.0"}'
CENTURY = timedelta(days=36525)


@pytest.fixture
async def ledger(database: Database) -> SqlLedger:
    """A worker's ledger."""
    return await database.ledger()


async def settle(ledger: SqlLedger, database: Database, key: str) -> None:
    """Have a key end now, by the worker's clock."""
    lease = await words.claim(ledger, key)
    await ledger.record(lease, Settled(Outcome.SUCCEEDED, EVENT, database.clock.now()))


async def test_what_ended_long_ago_is_deleted_and_nothing_else(database: Database, ledger: SqlLedger) -> None:
    """The database would grow for ever; or a recent command could be run a second time."""
    await settle(ledger, database, "CHG-old")
    database.age(2)
    await settle(ledger, database, "CHG-recent")
    database.age(89)
    await settle(ledger, database, "CHG-new")
    await words.claim(ledger, "CHG-unsettled")
    assert await ledger.prune(90) == 1
    assert await ledger.history("CHG-old") is None
    assert await ledger.claim(words.claim_of("CHG-recent")) == AlreadySettled(EVENT)
    assert await ledger.history("CHG-unsettled") is not None
    again = await ledger.claim(words.claim_of("CHG-old"))
    assert isinstance(again, Claimed)
    assert again.entry.lease.token == 1


async def test_requests_are_pruned_with_their_keys_and_when_nothing_ever_came(
    database: Database, ledger: SqlLedger
) -> None:
    """A key used again after its retention would be cancelled by a request of last year; a recent request must last."""

    async def cancel(key: str) -> None:
        await ledger.cancel(CancelRequest(key, "default", "j.doe", "wrong repository", words.noon))

    for key in ("CHG-settled", "CHG-unmet", "CHG-running"):
        await cancel(key)
    await words.claim(ledger, "CHG-running")
    await settle(ledger, database, "CHG-settled")
    database.age(91)
    await cancel("CHG-young")
    await settle(ledger, database, "CHG-new")
    assert await ledger.prune(90) == 1
    assert await ledger.history("CHG-settled") is None
    assert await ledger.history("CHG-unmet") is None
    young = await ledger.history("CHG-young")
    assert young is not None
    assert young.cancellations
    with pytest.raises(CancelRequestedError):
        await ledger.record(Lease("CHG-running", 1), Intended(words.intent_of(), words.noon))
    for key in ("CHG-settled", "CHG-unmet"):
        assert await ledger.record(await words.claim(ledger, key), Intended(words.intent_of(job=key), words.noon))
        history = await ledger.history(key)
        assert history is not None
        assert [step.step for step in history.steps] == [Step.CLAIMED, Step.INTENDED]


@pytest.mark.parametrize("host", ["1970", "a century ahead"])
async def test_a_worker_whose_clock_is_wrong_makes_no_fresh_key_forgotten(
    database: Database, ledger: SqlLedger, host: str
) -> None:
    """A key that is forgotten too early can run again, and a request to cancel it has no effect."""
    await settle(ledger, database, "CHG-before")
    back = -56.5 * 365 * 24 * 3600 if host == "1970" else CENTURY.total_seconds()
    database.clock.advance(back)
    if host == "1970":
        await settle(ledger, database, "CHG-fresh")
        await ledger.cancel(CancelRequest("CHG-unmet", "default", None, None, database.clock.now()))
        assert await ledger.prune(90) == 0
        database.clock.advance(-back)
    assert await ledger.prune(90) == 0
    assert await ledger.claim(words.claim_of("CHG-before")) == AlreadySettled(EVENT)
    if host == "1970":
        assert await ledger.claim(words.claim_of("CHG-fresh")) == AlreadySettled(EVENT)
        assert await ledger.history("CHG-unmet") is not None


async def test_one_transaction_deletes_a_bounded_part(database: Database, ledger: SqlLedger) -> None:
    """A key that waited for days has thousands of steps: to delete them all would exceed the time of one statement."""
    for n in range(KEYS_AT_ONCE + 1):
        await settle(ledger, database, f"CHG-{n}")
    database.age(91)
    await settle(ledger, database, "CHG-new")
    database.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) "
        "INSERT INTO steps (key, at, worker, token, step) SELECT 'CHG-0', 0, 'worker-a', 1, 'released' FROM n"
    )

    def steps() -> int:
        return int(database.execute("SELECT count(*) FROM steps")[0][0])

    before = steps()
    with closing(open_engine(read_url(database.settings().url), database.clock).connect()) as connection:
        bites = []
        more = True
        while more:
            with connection.begin():
                pruned, more = Transaction(connection, 0.0, "worker-a", 30.0).prune(90)
            bites.append((pruned, before - (before := steps()) <= STEPS_AT_ONCE))
    assert bites == [(0, True), (KEYS_AT_ONCE, True), (1, True)]
    assert before == 2
