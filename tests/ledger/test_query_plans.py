"""No statement reads a whole table: with ten million keys, it would stop every unlink for as long."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.clock import SystemClock
from worker.ledger import Criteria, Cursor, MemberCursor
from worker.ledger.batch_pages import batch_page
from worker.ledger.batch_states import batches_with_id, batches_with_key
from worker.ledger.database import open_engine, read_url
from worker.ledger.migrations import migrate
from worker.ledger.overview import overview
from worker.ledger.retention import Retention
from worker.ledger.step_feed import newest_step, steps_after, steps_with
from worker.ledger.tables import SEARCHED, metadata
from worker.ledger.transaction import Transaction
from worker.unlinks.batches import compose
from worker.unlinks.ports.enterprise_manager import TaskTicket
from worker.unlinks.ports.ledger import (
    BatchKey,
    CancelRequest,
    Claimed,
    Intended,
    Lease,
    MemberEnd,
    NewMember,
    Retry,
    SentAgain,
    Settled,
    Submitted,
    Withdrawn,
)

ROWS = 20_000
ENDED = 19_000
#: Tables with a row or two, or one a day: reading them whole is the fastest way.
SMALL = {"search_walk", "workers", "ledger_schema", "alembic_version", "pauses", "locks", "clock_marks"}
TABLES = set(metadata.tables) - SMALL
#: Indexes with the keys that have not ended, which are few.
SHORT = {"unlinks_unsettled_by_worker", "unlinks_one_in_flight_per_job", "search_terms_in_flight"}
#: A page of each column in which a value may stand.
MOST_SORTED = 400

_UNLINKS = """
    INSERT INTO unlinks (key, fingerprint, enterprise_manager, command, stage, token, lease_until, attempts,
        received_at, sends, outcome, event, finished_at, updated_at)
    VALUES (:key, 'f', 'default', :command, :stage, 1, 0, 1, :at, 0, :outcome, :command, :at, :at)
"""
_TERMS = f"""
    INSERT INTO search_terms (key, received_at, finished_at, {", ".join(SEARCHED)})
    VALUES (:key, :at, :at, {", ".join(f":{name}" for name in SEARCHED)})
"""  # noqa: S608 - names of columns
_STEPS = "INSERT INTO steps (key, at, worker, token, step) VALUES (:key, :at, 'w', 1, 'claimed')"
_CANCELLATIONS = (
    "INSERT INTO cancellations (key, enterprise_manager, run, requested_at) VALUES (:key, 'default', 1, :at)"
)
_BATCHES = """
    INSERT INTO batches (enterprise_manager, sender, id, size, members, joined_at)
    VALUES ('default', 'jira', :key, 2, 1, :at)
"""
_MEMBERS = """
    INSERT INTO batch_members (enterprise_manager, sender, batch, key, fingerprint, outcome, event_id, ended_at)
    VALUES ('default', 'jira', :key, :key, 'f', :outcome, CASE WHEN :stage = 'settled' THEN :key END, :at)
"""
#: A little after the year 2026 began, in microseconds.
_BEGIN = 1_770_000_000_000_000


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    """A connection to a ledger with many keys, of which most have ended."""
    engine = open_engine(read_url(database.settings().url), database.clock)
    rows = [
        {
            "key": f"K-{number:06}",
            "at": _BEGIN + number * 1_000_000,
            "stage": "settled" if number < ENDED else "claimed",
            "command": b'{"command": "unlink.v1"}',
            # A few values are common, most are rare.
            **{name: f"{name}-{number // 3}" for name in SEARCHED},
            "outcome": ("failed", "succeeded")[number % 8 > 0],
            "reason": "task_failed" if number % 8 == 0 else None,
        }
        for number in range(ROWS)
    ]
    with engine.begin() as connection:
        migrate(connection)
        for insert in (_UNLINKS, _TERMS, _STEPS, _CANCELLATIONS, _BATCHES, _MEMBERS):
            connection.execute(text(insert), rows)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
    yield engine
    engine.dispose()


class Plans:
    """Has each statement of a connection explained before it is carried out."""

    def __init__(self, connection: Connection) -> None:
        self.bad: list[str] = []
        self.explained = 0
        self._postgresql = connection.dialect.name == "postgresql"
        if self._postgresql:
            # These tables are still so small that reading them whole is often the fastest way.
            connection.exec_driver_sql("SET enable_seqscan = off")
        event.listen(connection, "before_cursor_execute", self._explain)

    def _explain(
        self,
        connection: Connection,
        cursor: Any,
        statement: str,
        parameters: Any,
        _context: object,
        many: bool,
    ) -> None:
        del cursor
        if not statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
            return
        explain = "EXPLAIN (FORMAT JSON) " if self._postgresql else "EXPLAIN QUERY PLAN "
        first = parameters[0] if many else parameters
        other = connection.connection.cursor()
        other.execute(explain + statement, first)
        rows = other.fetchall()
        other.close()
        self.explained += 1
        problems = _of_postgresql(rows[0][0][0]["Plan"]) if self._postgresql else _of_sqlite(rows)
        self.bad += [f"{problem}: {statement}" for problem in problems]


def _of_postgresql(node: Any, above: str = "") -> Iterator[str]:
    kind, table = node["Node Type"], node.get("Relation Name")
    if kind == "Seq Scan" and table not in SMALL:
        yield f"reads all of {table}"
    whole_index = kind.startswith("Index") and "Index Cond" not in node and above != "Limit"
    if whole_index and node["Index Name"] not in SHORT and table not in SMALL:
        yield f"reads all of {node['Index Name']}"
    if kind == "Sort" and node["Plan Rows"] > MOST_SORTED:
        yield f"sorts {node['Plan Rows']} rows"
    for child in node.get("Plans", ()):
        yield from _of_postgresql(child, kind)


def _of_sqlite(rows: Sequence[Any]) -> Iterator[str]:
    for *_, step in rows:
        scan = re.match(r"SCAN (?:TABLE )?(\w+)", step)
        if scan and scan[1] in TABLES and "USING" not in step:
            yield step


@pytest.mark.slow
def test_no_write_of_a_worker_reads_a_whole_table(engine: Engine) -> None:
    """Each claim and each end would take longer with every unlink that ever was."""
    with engine.connect() as connection, connection.begin():
        plans = Plans(connection)
        transaction = Transaction(connection, 0.0, "worker-a", 30.0)
        retention = Retention(SystemClock(), "boot")
        transaction.end_leases()
        for key in ("CHG-1", "CHG-2"):
            member = NewMember(BatchKey("default", "jira", "OPS-1"), 2, key, words.claim_of().fingerprint)
            transaction.join(member)
            result = transaction.claim(words.claim_of(key))
            assert isinstance(result, Claimed)
            lease = result.entry.lease
            ticket = TaskTicket("task-1", "session")
            for change in (
                Intended(words.intent_of(), words.noon),
                Withdrawn(1),
                Intended(words.intent_of(), words.noon),
                Submitted(ticket, words.noon),
                SentAgain(2),
                Submitted(ticket, words.noon),
                Settled(Outcome.SUCCEEDED, json.dumps({"data": {}}).encode(), words.noon),
            ):
                transaction.record(lease, change)
        transaction.claim(words.claim_of("CHG-1"))
        transaction.claim(words.claim_of("CHG-3"))
        request = CancelRequest("CHG-3", "default", "somebody", None, words.noon)
        transaction.cancel(request)
        transaction.mark_cancelled(request, 1)
        transaction.cancelled_by(Lease("CHG-3", 1))
        transaction.last_run("CHG-1")
        retry = Retry("CHG-3", "default", 1, "f" * 64)
        transaction.retry(retry)
        event = json.dumps({"data": {"changed": None}}).encode()
        transaction.record(Lease("CHG-3", 2), Settled(Outcome.TIMED_OUT, event, words.noon))
        assert isinstance(transaction.retry(retry), Claimed)
        transaction.renew()
        transaction.has_decided("CHG-3", "f")
        transaction.end_members("CHG-1")
        for _ in range(2):  # composed, and as stored
            assert len(transaction.ended_batches("CHG-1", compose)) == 1
        rejected = MemberEnd("CHG-4", Outcome.REJECTED, "id", words.noon)
        full = NewMember(BatchKey("default", "jira", "OPS-2"), 1, "CHG-4", "f")
        transaction.count_rejected(full, rejected, given_up=False)
        assert transaction.join(replace(full, key="CHG-5")) is None
        transaction.history("CHG-1")
        batches_with_id(connection, "OPS-1")
        batches_with_key(connection, "CHG-1")
        transaction.pause("default", None, None)
        transaction.resume("default")
        transaction.release_all()
        transaction.count_long_settled(1, retention)
        transaction.prune(1, retention)
        transaction.walk()
        overview(connection)
        transaction.finish()
    assert plans.explained > 40
    assert not plans.bad, "\n\n".join(plans.bad)


SEARCHES = (
    Criteria(),
    Criteria(key="K-000001"),
    Criteria(ticket="ticket-17"),
    Criteria(requester="requester-17"),
    Criteria(job="job_name-17"),
    Criteria(job="d1b85018-2769-45be-89bc-03f66b60e6cb"),
    Criteria(repository="repository_name-17"),
    Criteria(repository="d1b85018-2769-45be-89bc-03f66b60e6cb"),
    Criteria(outcome="succeeded"),
    Criteria(outcome="cancelled"),
    Criteria(reason="task_failed"),
    Criteria(batch="batch-3"),
    Criteria(batch="K-000003"),
    Criteria(since=datetime(2026, 2, 2, tzinfo=UTC)),
    Criteria(in_flight=True),
    Criteria(outcome="failed", requester="requester-17", job="job_name-17"),
    Criteria(in_flight=True, repository="d1b85018-2769-45be-89bc-03f66b60e6cb"),
)


@pytest.mark.slow
def test_no_search_reads_more_than_a_page_of_an_index(engine: Engine) -> None:
    """Somebody who looks for a ticket would keep the database busy for minutes."""
    with engine.connect() as connection, connection.begin():
        plans = Plans(connection)
        for criteria in SEARCHES:
            for after in (None, Cursor(words.noon, "K-000500")):
                Transaction(connection, 0.0, "reader", 0.0).find(criteria, after, 50)
    assert not plans.bad, "\n\n".join(plans.bad)
    assert plans.explained == 4 * 2 * len(SEARCHES)


@pytest.mark.slow
def test_nothing_that_the_console_polls_reads_a_whole_table(engine: Engine) -> None:
    """Each open page of a batch, and the poll for all streams, would read all of it every second."""
    with engine.connect() as connection, connection.begin():
        plans = Plans(connection)
        page = batch_page(connection, "K-000001", None, 50)
        batch_page(connection, "K-000001", MemberCursor(BatchKey("default", "jira", "K-000001"), "K"), 50)
        newest = newest_step(connection)
        (step, *_) = steps_after(connection, newest - 10, 5)
        assert steps_after(connection, newest - 10, 5, step.key)
        assert steps_with(connection, [newest - 1, newest])
    assert [each.key for each in page.members] == ["K-000001"]
    assert not plans.bad, "\n\n".join(plans.bad)


@pytest.mark.slow
def test_the_test_itself_sees_a_table_that_is_read_whole(engine: Engine) -> None:
    """It would say nothing about the statements."""
    with engine.connect() as connection, connection.begin():
        plans = Plans(connection)
        connection.exec_driver_sql("SELECT key FROM unlinks WHERE fingerprint = 'x'")
        connection.exec_driver_sql("SELECT key FROM steps WHERE worker = 'x' ORDER BY at")
    assert len({bad.rpartition(": ")[2] for bad in plans.bad}) == 2
