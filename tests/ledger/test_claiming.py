"""A delivery that comes again finds its key held by another worker, which may be gone or may live."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tests.end_to_end.in_process import Handed
from tests.ledger import words
from tests.ledger.conftest import Database
from tests.steps import RecordedSteps
from worker.ledger.sql_ledger import SqlLedger
from worker.unlinks.claiming import claim_once_free, turn_seconds
from worker.unlinks.ports.ledger import Claimed, ClaimResult
from worker.unlinks.ports.steps import Reporter
from worker.unlinks.signals import Signal
from worker.unlinks.waiting import DeferredError, LeavingError, Waiting


class Claimant:
    """What claims for one delivery."""

    def __init__(self, database: Database) -> None:
        self._claim = words.claim_of()
        self.leaving = Signal()
        self.hold_until = float("inf")
        self.report = Reporter(RecordedSteps(), "default")
        self.waiting = Waiting(
            database.clock, lambda: self.hold_until, self.leaving, Signal(), self.report, heeds_cancel=False
        )

    async def claim(self, ledger: SqlLedger, *, redelivered: bool = True) -> ClaimResult:
        """Claim the key."""
        delivery = Handed(b"", self.waiting.clock.monotonic(), redelivered=redelivered)
        return await claim_once_free(lambda: ledger.claim(self._claim), [delivery], self.waiting, self.report)


async def test_a_holder_that_is_gone_is_waited_for_until_its_lease_ends(database: Database) -> None:
    """The unlinks of a killed worker would come back from a delay queue long after they could be taken over."""
    holder, other = await database.ledger(lease_seconds=3), await database.ledger("worker-b")
    await words.claim(holder)
    await holder.close()
    result = await Claimant(database).claim(other)
    assert isinstance(result, Claimed)
    assert result.entry.lease.token == 2


async def test_a_holder_that_lives_is_not_waited_for(database: Database) -> None:
    """A slot of this worker would be taken for as long as the other worker needs."""
    holder, other = await database.ledger(lease_seconds=30), await database.ledger("worker-b")
    lease = await words.claim(holder)
    with pytest.raises(DeferredError, match="another worker"):
        await Claimant(database).claim(other)
    assert holder.alive(lease)


async def test_a_holder_that_lets_its_key_go_is_followed_at_once(database: Database) -> None:
    """A rolling restart would keep each command waiting for the length of a lease."""
    holder, other = await database.ledger(lease_seconds=600), await database.ledger("worker-b")
    lease = await words.claim(holder)
    claiming = asyncio.create_task(Claimant(database).claim(other))
    await holder.release(lease)
    assert isinstance(await claiming, Claimed)


async def test_a_repeat_is_not_waited_for(database: Database) -> None:
    """A publisher that repeats itself would take a slot for seconds with each repeat."""
    holder, other = await database.ledger(lease_seconds=600), await database.ledger("worker-b")
    await words.claim(holder)
    await holder.close()
    with pytest.raises(DeferredError, match="another worker"):
        await Claimant(database).claim(other, redelivered=False)


async def test_the_hold_and_a_drain_end_the_wait_for_a_lease(database: Database) -> None:
    """A worker that is to stop would wait for the lease of another."""
    holder, other = await database.ledger(lease_seconds=600), await database.ledger("worker-b")
    await words.claim(holder)
    await holder.close()
    held, leaving = Claimant(database), Claimant(database)
    held.hold_until = database.clock.monotonic() + 0.1
    leaving.leaving.set()
    with pytest.raises(DeferredError, match="held as long"):
        await held.claim(other)
    with pytest.raises(LeavingError):
        await leaving.claim(other)


@pytest.mark.parametrize(
    ("age", "seconds"),
    [(0, 5), (50, 5), (300, 30), (86_400, 120), (-3600, 5)],
    ids=["new", "young", "old", "of yesterday", "from a clock that is ahead"],
)
def test_the_older_a_command_is_the_longer_is_its_turn(age: int, seconds: float) -> None:
    """Copies of a command that waited for long became thousands while confirms were lost."""
    now = datetime(2026, 11, 2, 12, tzinfo=UTC)
    young, delivery = Handed(b"", 0, arrived_at=now), Handed(b"", 0, arrived_at=now - timedelta(seconds=age))
    assert turn_seconds([young, delivery], now) == pytest.approx(seconds)
