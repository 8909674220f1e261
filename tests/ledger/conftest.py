"""One ledger, two databases: what the tests of the ledger share."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from worker.clock import SystemClock
from worker.ledger.sql_ledger import SqlLedger
from worker.settings import LedgerSettings
from worker.unlinks.ports.enterprise_manager import Link, LinkedBackup
from worker.unlinks.ports.ledger import Claimed, Entry, Intent, Lease, NewClaim

Kind = Literal["sqlite", "postgresql"]

#: So long that no holder renews it during a test.
LEASE_SECONDS = 600.0
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


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


class Database:
    """A database of one kind, and the workers' ledgers on it."""

    def __init__(self, kind: Kind, url: str) -> None:
        self.kind = kind
        self.url = url
        self.clock = SteppedClock()
        self._opened = AsyncExitStack()

    def settings(self, lease_seconds: float = LEASE_SECONDS) -> LedgerSettings:
        """Settings that lead to it."""
        return LedgerSettings(url=SecretStr(self.url), lease_seconds=lease_seconds)

    def new(self, worker: str = "worker-a", lease_seconds: float = LEASE_SECONDS, boot: str | None = None) -> SqlLedger:
        """A worker's ledger, not started."""
        return SqlLedger(self.settings(lease_seconds), worker, self.clock, boot=boot)

    async def ledger(
        self, worker: str = "worker-a", lease_seconds: float = LEASE_SECONDS, boot: str | None = None
    ) -> SqlLedger:
        """A worker's ledger, started; closed at the end of the test."""
        ledger = self.new(worker, lease_seconds, boot)
        await ledger.start()
        self._opened.push_async_callback(ledger.close)
        return ledger

    def let_leases_run_out(self) -> None:
        """Make it so long later, for the clock that measures leases and for those of the workers."""
        self.clock.advance(LEASE_SECONDS + 1)
        if self.kind == "postgresql":
            self.execute("UPDATE unlinks SET lease_until = lease_until - 3600000000")

    def age(self, days: float) -> None:
        """Make all that has ended, and every request to cancel, so many days older."""
        by = round(days * 24 * 60 * 60 * 1_000_000)
        self.execute(f"UPDATE unlinks SET finished_at = finished_at - {by}, updated_at = updated_at - {by}")  # noqa: S608
        self.execute(f"UPDATE cancellations SET requested_at = requested_at - {by}")  # noqa: S608 - a number

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement beside the ledgers."""
        if self.kind == "sqlite":
            with closing(sqlite3.connect(str(make_url(self.url).database), isolation_level=None)) as file:
                return file.execute(statement).fetchall()
        with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    async def close(self) -> None:
        """Close the ledgers."""
        await self._opened.aclose()


def _url(kind: Kind, request: pytest.FixtureRequest, folder: Path) -> str:
    if kind == "postgresql":
        return str(request.getfixturevalue("postgresql_url"))
    return f"sqlite:///{folder / 'ledger.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """Each of the two, one after the other."""
    database = Database(request.param, _url(request.param, request, tmp_path))
    yield database
    await database.close()


@pytest.fixture
async def postgresql_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """PostgreSQL alone."""
    database = Database("postgresql", _url("postgresql", request, tmp_path))
    yield database
    await database.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; the test's time limit ends it."""
    while not condition():  # noqa: ASYNC110 - what is waited for happens in a database, which sets no event
        await asyncio.sleep(0.01)


class Words:
    """What the tests say to a ledger."""

    noon = NOON
    until = staticmethod(until)
    clock = SteppedClock
    link = Link("27a1d57f-7c15-43c6-9162-d05aff1c9bb9", "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec", "Repository 1")

    @staticmethod
    def claim_of(key: str = "CHG-1", fingerprint: str = "f" * 64, enterprise_manager: str = "default") -> NewClaim:
        """A claim."""
        return NewClaim(key, fingerprint, enterprise_manager, b'{"command":"unlink.v1"}', NOON)

    @classmethod
    def intent_of(cls, job: str = "d1b85018-2769-45be-89bc-03f66b60e6cb", link: str | None = None) -> Intent:
        """An intent."""
        chosen = cls.link if link is None else Link(link, cls.link.repository_uid)
        return Intent(job, "Copy job 1", chosen, (LinkedBackup("b-1", "uid-1", "Backup 1"), LinkedBackup("b-2")))

    @classmethod
    async def claim(cls, ledger: SqlLedger, key: str = "CHG-1") -> Lease:
        """Claim a key that must be free, and return its lease."""
        result = await ledger.claim(cls.claim_of(key))
        assert isinstance(result, Claimed)
        return result.entry.lease

    @classmethod
    async def take_over(cls, ledger: SqlLedger, key: str = "CHG-1") -> Entry:
        """Claim a key as soon as its lease is over."""
        while not isinstance(result := await ledger.claim(cls.claim_of(key)), Claimed):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        return result.entry


@pytest.fixture
def words() -> type[Words]:
    """What the tests say to a ledger."""
    return Words
