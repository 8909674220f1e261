"""One ledger, two databases: what the tests of the ledger share."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from tests.ledger.words import SteppedClock
from worker.ledger.sql_ledger import SqlLedger
from worker.settings import LedgerSettings

Kind = Literal["sqlite", "postgresql"]

#: So long that no holder renews it during a test.
LEASE_SECONDS = 600.0


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
        """Make all that has ended, and every request to cancel and join, so many days older."""
        by = round(days * 24 * 60 * 60 * 1_000_000)
        self.execute(f"UPDATE unlinks SET finished_at = finished_at - {by}, updated_at = updated_at - {by}")  # noqa: S608
        self.execute(f"UPDATE batches SET joined_at = joined_at - {by}")  # noqa: S608 - a number
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


def _url(kind: Kind, request: pytest.FixtureRequest) -> str:
    if kind == "postgresql":
        return str(request.getfixturevalue("reused_postgresql_url"))
    return str(request.getfixturevalue("sqlite_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """Each of the two, one after the other."""
    database = Database(request.param, _url(request.param, request))
    yield database
    await database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """Each of the two, without tables."""
    if request.param == "postgresql":
        url = str(request.getfixturevalue("empty_postgresql_url"))
    else:
        url = f"sqlite:///{tmp_path / 'empty.sqlite'}"
    database = Database(request.param, url)
    yield database
    await database.close()


@pytest.fixture
async def empty_postgresql_database(empty_postgresql_url: str) -> AsyncIterator[Database]:
    """PostgreSQL alone, without tables."""
    database = Database("postgresql", empty_postgresql_url)
    yield database
    await database.close()


@pytest.fixture
async def postgresql_database(reused_postgresql_url: str) -> AsyncIterator[Database]:
    """PostgreSQL alone."""
    database = Database("postgresql", reused_postgresql_url)
    yield database
    await database.close()
