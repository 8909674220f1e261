"""Clocks that jump, differ, or stand still while the machine does."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.ledger import words
from tests.ledger.conftest import LEASE_SECONDS, Database
from tests.ledger.words import SteppedClock
from worker.clock import SystemClock, boot_id
from worker.unlinks.ports.ledger import Claimed, ClaimResult, Entry, HeldElsewhere, Intended

HOUR = 3600.0


def entry_of(result: ClaimResult) -> Entry:
    """The entry of a successful claim."""
    assert isinstance(result, Claimed)
    return result.entry


# --- leases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
async def test_a_time_of_day_that_jumps_ends_no_lease_early_and_none_late(database: Database, seconds: float) -> None:
    """NTP that corrects the clock would take all unlinks from their workers, or leave those of a dead one for hours."""
    holder, other = await database.ledger(), await database.ledger("worker-b")
    lease = await words.claim(holder)
    database.clock.jump(seconds)
    found = await other.claim(words.claim_of())
    assert isinstance(found, HeldElsewhere)
    assert LEASE_SECONDS / 2 < found.seconds <= LEASE_SECONDS
    await holder.close()
    database.let_leases_run_out()
    assert entry_of(await other.claim(words.claim_of())).lease.token == lease.token + 1


async def test_a_worker_that_starts_after_a_jump_counts_like_the_others(tmp_path: Path) -> None:
    """Each worker would measure the leases of the others by a clock of its own."""
    database = Database("sqlite", f"sqlite:///{tmp_path / 'ledger.db'}")
    await words.claim(await database.ledger())
    database.clock.jump(HOUR)
    found = await (await database.ledger("worker-b")).claim(words.claim_of())
    assert isinstance(found, HeldElsewhere)
    assert LEASE_SECONDS / 2 < found.seconds <= LEASE_SECONDS
    await database.close()


async def test_leases_of_an_earlier_boot_are_over(tmp_path: Path) -> None:
    """After a power failure on a host whose clock starts in 1970, no unlink would go on until the clock is set."""
    database = Database("sqlite", f"sqlite:///{tmp_path / 'ledger.db'}")
    await words.claim(await database.ledger(boot="first"))
    await words.claim(await database.ledger("worker-b", boot="first"), "CHG-2")
    await database.close()
    database.clock.jump(-50 * 365 * 24 * HOUR)
    booted = await database.ledger("worker-c", boot="second")
    for key in ("CHG-1", "CHG-2"):
        assert entry_of(await booted.claim(words.claim_of(key))).lease.token == 2
    beside = await database.ledger("worker-d", boot="second")
    assert isinstance(await beside.claim(words.claim_of()), HeldElsewhere)
    await database.close()


async def test_the_first_worker_that_counts_boots_leaves_leases_to_workers_of_an_earlier_version(
    tmp_path: Path,
) -> None:
    """In a rolling update, the new worker would take the unlinks of those that still run."""
    database = Database("sqlite", f"sqlite:///{tmp_path / 'ledger.db'}")
    await words.claim(await database.ledger(boot="first"))
    database.execute("DELETE FROM boots")
    found = await (await database.ledger("worker-b", boot="first")).claim(words.claim_of())
    assert isinstance(found, HeldElsewhere)
    await database.close()


async def test_without_the_id_of_a_boot_leases_are_measured_by_the_time_of_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a system without such an ID no worker would start."""
    monkeypatch.setattr("worker.ledger.sql_ledger.boot_id", lambda: None)
    database = Database("sqlite", f"sqlite:///{tmp_path / 'ledger.db'}")
    await words.claim(await database.ledger())
    other = await database.ledger("worker-b")
    assert isinstance(await other.claim(words.claim_of()), HeldElsewhere)
    database.clock.jump(HOUR)
    assert entry_of(await other.claim(words.claim_of())).lease.token == 2
    await database.close()


# --- a machine that stands still --------------------------------------------------------------------------------------


async def test_a_virtual_machine_that_was_stopped_does_not_rely_on_its_leases(database: Database) -> None:
    """A DELETE would leave after another worker has taken the unlink over: the monotonic clock stood still, too."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    database.clock.jump(LEASE_SECONDS)
    assert not ledger.alive(lease)
    await ledger.renew()
    assert ledger.alive(lease)
    database.clock.jump(-HOUR)
    assert ledger.alive(lease)


def test_seconds_in_suspension_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop that wakes up would think its leases alive that other workers took over hours ago."""
    assert boot_id()  # Linux: the clock that is tested is there
    reading = {time.CLOCK_MONOTONIC: 100.0, time.CLOCK_BOOTTIME: 100.0 + HOUR}
    monkeypatch.setattr(time, "clock_gettime", reading.__getitem__)
    assert SystemClock().monotonic() == 100.0 + HOUR


# --- the time since a DELETE ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
async def test_the_time_since_a_delete_is_the_ledgers_whatever_the_workers_clocks_say(
    database: Database, seconds: float
) -> None:
    """A worker whose clock is ahead would call an unlink timed out that was sent a moment ago."""
    holder = await database.ledger()
    lease = await words.claim(holder)
    await holder.record(lease, Intended(words.intent_of(), database.clock.now()))
    await holder.release(lease)
    database.clock.jump(seconds)
    entry = entry_of(await (await database.ledger("worker-b")).claim(words.claim_of()))
    assert entry.since_sent is not None
    assert 0 <= entry.since_sent < LEASE_SECONDS


async def test_of_a_row_of_an_earlier_version_the_time_since_the_delete_is_known_by_its_time_of_day(
    database: Database,
) -> None:
    """Each unlink that an earlier version has sent would get its whole time anew."""
    holder = await database.ledger()
    lease = await words.claim(holder)
    await holder.record(lease, Intended(words.intent_of(), SteppedClock().now()))
    database.execute("UPDATE unlinks SET sent_gap = NULL, sent_at = sent_at - 3600000000")
    entry = entry_of(await holder.claim(words.claim_of()))
    assert entry.since_sent is not None
    assert HOUR <= entry.since_sent < HOUR + LEASE_SECONDS


async def test_what_an_earlier_version_writes_beside_this_one_is_measured_as_well_as_can_be(database: Database) -> None:
    """In a rolling update, an unlink would be timed out by a moment that an earlier version left in the row."""
    holder = await database.ledger()
    lease = await words.claim(holder)
    await holder.record(lease, Intended(words.intent_of(), database.clock.now()))
    database.clock.advance(HOUR)
    moment = (database.clock.now() - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if database.kind == "sqlite":  # the clock of PostgreSQL cannot be put forward
        database.execute(f"UPDATE unlinks SET sent_at = {moment}")  # noqa: S608 - a number
    entry = entry_of(await holder.claim(words.claim_of()))
    assert entry.since_sent is not None
    assert 0 <= entry.since_sent < LEASE_SECONDS
