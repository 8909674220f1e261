"""How long a lease lasts: for a holder that is gone, and for one whose database is gone."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from tests.private_servers.postgresql import PrivatePostgresql
from worker.settings import LedgerSettings
from worker.unlinks.ports.ledger import Claimed, HeldElsewhere, Settled

DEFAULT_SECONDS = LedgerSettings.model_fields["lease_seconds"].default

#: For how long a holder that is alive keeps its leases without the ledger, in seconds.
OUTAGE_SECONDS = 10.0


@pytest.fixture
def postgresql_that_stops(postgresql: PrivatePostgresql) -> Iterator[PrivatePostgresql]:
    """The server that all tests share, started again at the end."""
    yield postgresql
    postgresql.start()


@pytest.mark.slow
async def test_a_lease_says_how_long_it_lasts_and_whether_it_is_renewed(database: Database) -> None:
    """A claim that waits for the end of a lease would come too early, too late, or wait for a worker that lives."""
    ledger, other = await database.ledger(lease_seconds=DEFAULT_SECONDS), await database.ledger("worker-b")
    lease = await words.claim(ledger)
    first = await other.claim(words.claim_of())
    assert isinstance(first, HeldElsewhere)
    assert 0 < first.seconds <= DEFAULT_SECONDS
    await ledger.renew()
    second = await other.claim(words.claim_of())
    assert isinstance(second, HeldElsewhere)
    assert second.until != first.until
    await ledger.close()  # it renews no more
    third = await other.claim(words.claim_of())
    fourth = await other.claim(words.claim_of())
    assert isinstance(third, HeldElsewhere)
    assert isinstance(fourth, HeldElsewhere)
    assert (third.until, third.seconds >= fourth.seconds) == (fourth.until, True)
    assert (await words.take_over(other)).lease.token == lease.token + 1


@pytest.fixture(params=["stopped", pytest.param("frozen", marks=pytest.mark.slow)])
def outage(
    request: pytest.FixtureRequest, postgresql_that_stops: PrivatePostgresql, postgresql_database: Database
) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Two ways to take the database away from its workers, and to bring it back."""
    if request.param == "stopped":
        yield postgresql_that_stops.stop, postgresql_that_stops.start
        return
    frozen: list[int] = []

    def freeze() -> None:
        backends = "SELECT pid FROM pg_stat_activity WHERE application_name = 'unlink-worker'"
        frozen.extend(pid for (pid,) in postgresql_database.execute(backends))
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)

    def thaw() -> None:
        while frozen:
            os.kill(frozen.pop(), signal.SIGCONT)

    yield freeze, thaw
    thaw()


async def test_a_holder_keeps_its_lease_through_ten_seconds_without_its_database(
    postgresql_database: Database, outage: tuple[Callable[[], None], Callable[[], None]]
) -> None:
    """Each restart of the database would take all unlinks in flight from workers that are there and at work."""
    take_away, bring_back = outage
    holder = await postgresql_database.ledger("worker-a", DEFAULT_SECONDS)
    other = await postgresql_database.ledger("worker-b", DEFAULT_SECONDS)
    lease = await words.claim(holder)
    found: list[object] = []

    async def claim_again_and_again() -> None:
        while True:
            found.append(await other.claim(words.claim_of()))

    claiming = asyncio.create_task(claim_again_and_again())
    renewed = asyncio.Event()
    holder.on_renewal(lambda well: renewed.set() if well else None)
    await renewed.wait()
    await asyncio.to_thread(take_away)
    await asyncio.sleep(OUTAGE_SECONDS)  # the outage itself
    await asyncio.to_thread(bring_back)
    renewed.clear()
    await renewed.wait()
    tried = len(found)
    await words.until(lambda: len(found) > tried)
    claiming.cancel()
    assert all(isinstance(result, HeldElsewhere) for result in found)
    assert holder.alive(lease)
    await holder.record(lease, Settled(Outcome.SUCCEEDED, b"event", words.noon))


async def test_after_an_outage_longer_than_a_lease_the_holder_that_is_back_keeps_it(
    postgresql_that_stops: PrivatePostgresql, postgresql_database: Database
) -> None:
    """A fail-over of a minute would take every unlink from its worker, and each would wait out a settling time."""
    holder = await postgresql_database.ledger("worker-a", 2)
    other = await postgresql_database.ledger("worker-b", 2)
    lease = await words.claim(holder)
    await asyncio.to_thread(postgresql_that_stops.stop)
    await words.until(lambda: not holder.up and not other.up)
    claiming = asyncio.create_task(other.claim(words.claim_of()))
    await words.until(lambda: not holder.alive(lease))
    await asyncio.sleep(1)  # what was left off for certainty; now the lease is over for the database, too
    await asyncio.to_thread(postgresql_that_stops.start)
    assert isinstance(await claiming, HeldElsewhere)
    await words.until(lambda: holder.alive(lease))
    assert isinstance(await other.claim(words.claim_of()), HeldElsewhere)
    await holder.record(lease, Settled(Outcome.SUCCEEDED, b"event", words.noon))


async def test_after_an_outage_a_lease_without_a_holder_is_taken_over_soon(
    postgresql_that_stops: PrivatePostgresql, postgresql_database: Database
) -> None:
    """The unlinks of a worker that died with the database would never be taken up again."""
    holder = await postgresql_database.ledger("worker-a", 2)
    other = await postgresql_database.ledger("worker-b", 2)
    lease = await words.claim(holder)
    await holder.close()
    await asyncio.to_thread(postgresql_that_stops.stop)
    await words.until(lambda: not other.up)
    await asyncio.sleep(2)  # the lease is over
    await asyncio.to_thread(postgresql_that_stops.start)
    first = await other.claim(words.claim_of())
    assert isinstance(first, HeldElsewhere)
    assert 0 < first.seconds <= 3
    result: object = first
    while isinstance(result, HeldElsewhere):
        await asyncio.sleep(result.seconds)
        result = await other.claim(words.claim_of())
    assert isinstance(result, Claimed)
    assert result.entry.lease.token == lease.token + 1
