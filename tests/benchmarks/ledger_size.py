"""How long claim, settle, search and prune take on ledgers of different sizes, on SQLite and PostgreSQL.

Run as `python -m tests.benchmarks.ledger_size --rows 10000 1000000`; a row needs about 4 kB on disk. Each call
is a transaction of its own. The keys of the ledger have ended, in the course of 90 days.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, Engine, text

from contracts.events import Outcome
from tests.private_servers.postgresql import PrivatePostgresql
from worker.clock import SystemClock, boot_id
from worker.ledger import Criteria, Inspection
from worker.ledger.database import open_engine, read_url
from worker.ledger.migrations import migrate
from worker.ledger.retention import Retention
from worker.ledger.transaction import Transaction
from worker.settings import LedgerSettings
from worker.unlinks.ports.enterprise_manager import Link, TaskTicket
from worker.unlinks.ports.ledger import Claimed, Intended, Intent, NewClaim, Settled, Submitted

#: How often each call is timed.
TIMES = 200

#: How many rows are made in one statement.
_AT_ONCE = 50_000

#: How long a statement that makes rows may take.
_SLOW_SECONDS = 3600.0

_DAY = 24 * 60 * 60 * 1_000_000
_COMMAND = json.dumps({"command": "unlink.v1", "reason": "x" * 100, "ticket": {"system": "jira", "id": "OPS-1"}})
_EVENT = json.dumps({"specversion": "1.0", "data": {"summary": "x" * 1000}})

_NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :last)",
    "postgresql": "WITH n AS (SELECT i FROM generate_series(CAST(:first AS BIGINT), CAST(:last AS BIGINT) - 1) AS i)",
}
_UNLINKS = """
    INSERT INTO unlinks (key, fingerprint, enterprise_manager, command, stage, token, lease_until, attempts,
        received_at, sends, outcome, event, finished_at, updated_at, run, may_act)
    {numbers} SELECT 'bench:' || i, 'f', 'default', CAST(:command AS {bytes}), 'settled', 1, 0, 1, :now - :step * i,
        1, 'succeeded', CAST(:event AS {bytes}), :now - :step * i, :now - :step * i, 1, {false} FROM n
"""
_TERMS = """
    INSERT INTO search_terms (key, received_at, finished_at, ticket, requester, user_id, job_id, job_name, link_id,
        repository_uid, repository_name, outcome, reason)
    {numbers} SELECT 'bench:' || i, :now - :step * i, :now - :step * i, 'ops-' || (i / 3), 'user-' || (i % 50),
        'servicenow', 'job-id-' || (i % 500), 'job-' || (i % 500), 'link-' || (i % 20000), 'uid-' || (i % 100),
        'repository-' || (i % 100), CASE WHEN i % 20 = 0 THEN 'failed' ELSE 'succeeded' END,
        CASE WHEN i % 20 = 0 THEN 'task_failed' END FROM n
"""
_STEPS = """
    INSERT INTO steps (key, at, worker, token, step)
    {numbers} SELECT 'bench:' || i, :now, 'w', 1, 'settled' FROM n
"""

SEARCHES = {
    "by ticket": Criteria(ticket="ops-77"),
    "by job": Criteria(job="job-7"),
    "by outcome": Criteria(outcome="failed"),
    "in flight": Criteria(in_flight=True),
    "job and outcome": Criteria(job="job-20", outcome="failed"),
    "newest": Criteria(),
}


def fill(engine: Engine, rows: int) -> None:
    """Make the ledger so large."""
    dialect = engine.dialect.name
    words = {
        "numbers": _NUMBERS[dialect],
        "bytes": "BLOB" if dialect == "sqlite" else "BYTEA",
        "false": "0" if dialect == "sqlite" else "FALSE",
    }
    common = {"step": 89 * _DAY // rows, "now": int(time.time() * 1_000_000)}
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        if dialect == "sqlite":
            driver.execute("PRAGMA synchronous = OFF")
            driver.execute("PRAGMA cache_size = -1000000")
        for first in range(0, rows, _AT_ONCE):
            numbers = {**common, "first": first, "last": min(first + _AT_ONCE, rows)}
            with connection.begin():
                _allow_slow(connection)
                connection.execute(text(_UNLINKS.format(**words)), {**numbers, "command": _COMMAND, "event": _EVENT})
                connection.execute(text(_TERMS.format(**words)), {**numbers})
                connection.execute(text(_STEPS.format(**words)), {**numbers})
    with engine.connect() as connection:
        if dialect == "postgresql":
            connection.exec_driver_sql("SET statement_timeout = 0")
            driver = connection.connection.driver_connection
            driver.answer_seconds = _SLOW_SECONDS
        else:
            connection.exec_driver_sql("PRAGMA analysis_limit = 1000")
        connection.commit()
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")


def _allow_slow(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
        driver: Any = connection.connection.driver_connection
        driver.answer_seconds = _SLOW_SECONDS


@contextmanager
def filled(database: str, rows: int, console: Console) -> Iterator[tuple[Engine, str]]:
    """A ledger of this size, new and private, and its URL; prints how long it took to make."""
    with ExitStack() as stack:
        if database == "postgresql":
            url = stack.enter_context(PrivatePostgresql()).create_database("ledger")
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="unlink-benchmark-"))
            url = f"sqlite:///{Path(folder) / 'ledger.db'}"
        engine = open_engine(read_url(SecretStr(url)), SystemClock())
        with engine.begin() as connection:
            migrate(connection)
        began = time.monotonic()
        fill(engine, rows)
        console.print(f"{database}: {rows} rows made in {time.monotonic() - began:.0f} s")
        yield engine, url


class Timings:
    """Milliseconds by call."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    def time(self, name: str, call: Callable[[], object]) -> Any:
        """Time one call, and give back what it gives."""
        began = time.perf_counter()
        result = call()
        self.of.setdefault(name, []).append((time.perf_counter() - began) * 1000)
        return result


def measure(engine: Engine, url: str) -> Timings:
    """Time every kind of call."""
    timings = Timings()
    clock = SystemClock()
    retention = Retention(clock, boot_id())
    keys = (f"new:{number}" for number in itertools.count())
    with engine.connect() as connection:

        def transact(carry_out: Callable[[Transaction], Any]) -> Any:
            with connection.begin():
                transaction = Transaction(connection, 0.0, "bench", 30.0)
                result = carry_out(transaction)
                transaction.finish()
            return result

        for key in itertools.islice(keys, TIMES):
            claim = NewClaim(key, "f", "default", _COMMAND.encode(), clock.now(), "servicenow")
            result = timings.time("claim", lambda claim=claim: transact(lambda on: on.claim(claim)))  # type: ignore[misc]
            assert isinstance(result, Claimed)
            lease = result.entry.lease
            intent = Intent(f"job-{key}", "job", Link("link", "uid", "repository"))
            for name, change in (
                ("intend", Intended(intent, clock.now())),
                ("submitted", Submitted(TaskTicket("task-1", "session"), clock.now())),
                ("settle", Settled(Outcome.SUCCEEDED, _EVENT.encode(), clock.now())),
            ):
                timings.time(name, lambda lease=lease, change=change: transact(lambda on: on.record(lease, change)))  # type: ignore[misc]
            timings.time("renew", lambda: transact(Transaction.renew))
        for _ in range(3):
            timings.time("prune, a part", lambda: transact(lambda on: on.prune(89 - 1, retention)))
    inspection = Inspection(LedgerSettings(url=SecretStr(url)), clock)
    for name, criteria in SEARCHES.items():
        for _ in range(TIMES // 10):
            timings.time(f"search: {name}", lambda criteria=criteria: inspection.find(criteria, limit=50))  # type: ignore[misc]
    return timings


def main() -> None:
    """Print the median and the 95th percentile of each call, for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    options = parser.parse_args()
    console = Console()
    for database in options.databases:
        results: dict[int, Timings] = {}
        for rows in options.rows:
            with filled(database, rows, console) as (engine, url):
                results[rows] = measure(engine, url)
        table = Table("call", *(f"{rows} rows: median, p95" for rows in results), title=f"{database}, milliseconds")
        for name in next(iter(results.values())).of:
            table.add_row(name, *(_shown(timings.of[name]) for timings in results.values()))
        console.print(table)


def _shown(milliseconds: list[float]) -> str:
    highest = statistics.quantiles(milliseconds, n=20)[-1] if len(milliseconds) > 1 else milliseconds[0]
    return f"{statistics.median(milliseconds):8.2f} {highest:8.2f}"


if __name__ == "__main__":
    main()
