"""What is forgotten, and when: by the ledger's clock, and in bounded bites."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.ledger import Step
from worker.ledger.database import open_engine, read_url
from worker.ledger.retention import Retention
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

DAY = 24 * 3600.0
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


class Host:
    """A host with an SQLite ledger, on which one worker runs."""

    def __init__(self, path: Path) -> None:
        self.database = Database("sqlite", f"sqlite:///{path}")
        self.clock = self.database.clock
        self.ledger: SqlLedger

    async def boot(self, name: str) -> None:
        """Start the worker after a boot."""
        await self.database.close()
        self.ledger = await self.database.ledger(boot=name)

    async def end(self, key: str) -> None:
        """Have a key end now."""
        await settle(self.ledger, self.database, key)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    """It has been running for a day."""
    host = Host(tmp_path / "ledger.db")
    await host.boot("first")
    host.clock.advance(DAY)
    yield host
    await host.database.close()


@pytest.mark.parametrize("boot", ["first", "second"])
@pytest.mark.parametrize("days", [120, -120])
async def test_a_time_of_day_that_jumps_makes_no_fresh_key_forgotten(host: Host, days: float, boot: str) -> None:
    """A key that is forgotten too early can run again; one end after the jump was enough."""
    if days < 0:
        host.clock.jump(days * DAY)
    await host.end("CHG-fresh")
    await host.ledger.cancel(CancelRequest("CHG-unmet", "default", None, None, host.clock.now()))
    host.clock.jump(abs(days) * DAY)
    if boot == "second":
        await host.boot("second")
    await host.end("CHG-more")
    assert await host.ledger.prune(90) == 0
    assert await host.ledger.claim(words.claim_of("CHG-fresh")) == AlreadySettled(EVENT)
    assert await host.ledger.history("CHG-unmet") is not None


async def test_a_host_that_boots_with_a_clock_that_is_behind_forgets_nothing_once_it_is_corrected(host: Host) -> None:
    """As above: the clock of leases is behind as well, until the next boot."""
    host.clock.jump(-120 * DAY)
    await host.boot("second")
    await host.end("CHG-fresh")
    host.clock.jump(120 * DAY)
    await host.end("CHG-more")
    assert await host.ledger.prune(90) == 0
    await host.boot("third")
    await host.end("CHG-last")
    assert await host.ledger.prune(90) == 0
    assert await host.ledger.claim(words.claim_of("CHG-fresh")) == AlreadySettled(EVENT)


@pytest.mark.parametrize("days", [120, -120])
async def test_after_a_jump_keys_are_still_forgotten_in_time(host: Host, days: float) -> None:
    """A ledger whose clock was once corrected would grow for ever."""
    await host.end("CHG-old")
    host.clock.jump(days * DAY)
    await host.end("CHG-more")
    for _ in range(88):
        host.clock.advance(DAY)
        assert await host.ledger.prune(90) == 0
    forgotten = 0
    for _ in range(5 if days > 0 else 5 + 120):
        host.clock.advance(DAY)
        forgotten += await host.ledger.prune(90)
    await host.end("CHG-new")
    assert forgotten + await host.ledger.prune(90) == 2


async def test_a_host_that_was_off_for_long_keeps_its_keys_until_it_has_been_running_long_enough(host: Host) -> None:
    """Whether it was off for long, or its clock is wrong, cannot be told apart."""
    await host.end("CHG-old")
    host.clock.jump(300 * DAY)
    await host.boot("second")
    await host.end("CHG-more")
    assert await host.ledger.prune(90) == 0
    host.clock.advance(92 * DAY)
    await host.end("CHG-new")
    assert await host.ledger.prune(90) == 1


async def test_the_marks_of_the_clock_do_not_grow_with_each_look(host: Host) -> None:
    """A ledger would grow by a row with each prune."""
    for _ in range(20):
        await host.ledger.prune(90)
        host.clock.advance(DAY / 24)
    await host.boot("first")
    assert len(host.database.execute("SELECT * FROM clock_marks")) <= 3


async def test_on_postgresql_both_clocks_must_say_that_a_key_is_old(postgresql_database: Database) -> None:
    """A server whose clock has jumped ahead would forget every key that the next prune meets."""
    ledger = await postgresql_database.ledger()
    await settle(ledger, postgresql_database, "CHG-old")
    postgresql_database.age(91)
    await settle(ledger, postgresql_database, "CHG-new")
    postgresql_database.clock.jump(-3 * DAY)
    assert await ledger.prune(90) == 0
    postgresql_database.clock.jump(3 * DAY)
    assert await ledger.prune(90) == 1


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
    retention = Retention(database.clock, "boot")
    with closing(open_engine(read_url(database.settings().url), database.clock).connect()) as connection:
        bites = []
        more = True
        while more:
            with connection.begin():
                pruned, more = Transaction(connection, 0.0, "worker-a", 30.0).prune(90, retention)
            bites.append((pruned, before - (before := steps()) <= STEPS_AT_ONCE))
    assert bites == [(0, True), (KEYS_AT_ONCE, True), (1, True)]
    assert before == 2
