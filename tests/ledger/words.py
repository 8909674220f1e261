"""What the tests say to a ledger, and wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from worker.clock import SystemClock
from worker.ledger.sql_ledger import SqlLedger
from worker.unlinks.ports.enterprise_manager import Link, LinkedBackup
from worker.unlinks.ports.ledger import Claimed, Entry, Intent, Lease, NewClaim

noon = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
THE_LINK = Link("27a1d57f-7c15-43c6-9162-d05aff1c9bb9", "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec", "Repository 1")

#: How many sessions wait for a lock in a database of PostgreSQL.
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


class SteppedClock(SystemClock):
    """The system's clock, which a test may put forward. Sleeping takes its real time."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._jumped = 0.0

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._ahead += seconds

    def jump(self, seconds: float) -> None:
        """Set the time of day, as NTP or a person does; the monotonic clock does not notice."""
        self._jumped += seconds

    def now(self) -> datetime:
        """The time of day, as put forward."""
        return super().now() + timedelta(seconds=self._ahead + self._jumped)

    def monotonic(self) -> float:
        """Monotonic seconds, as put forward."""
        return super().monotonic() + self._ahead


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; the test's time limit ends it."""
    while not condition():  # noqa: ASYNC110 - what is waited for happens in a database, which sets no event
        await asyncio.sleep(0.01)


def claim_of(key: str = "CHG-1", fingerprint: str = "f" * 64, enterprise_manager: str = "default") -> NewClaim:
    """A claim."""
    return NewClaim(key, fingerprint, enterprise_manager, b'{"command":"unlink.v1"}', noon)


def intent_of(job: str = "d1b85018-2769-45be-89bc-03f66b60e6cb", link: str | None = None) -> Intent:
    """An intent."""
    chosen = THE_LINK if link is None else Link(link, THE_LINK.repository_uid)
    return Intent(job, "Copy job 1", chosen, (LinkedBackup("b-1", "uid-1", "Backup 1"), LinkedBackup("b-2")))


async def claim(ledger: SqlLedger, key: str = "CHG-1") -> Lease:
    """Claim a key that must be free, and return its lease."""
    result = await ledger.claim(claim_of(key))
    assert isinstance(result, Claimed)
    return result.entry.lease


async def take_over(ledger: SqlLedger, key: str = "CHG-1") -> Entry:
    """Claim a key as soon as its lease is over."""
    while not isinstance(result := await ledger.claim(claim_of(key)), Claimed):  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
    return result.entry
