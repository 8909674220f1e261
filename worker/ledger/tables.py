"""The ledger's tables, as the newest migration leaves them, and the types of their columns."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    FromClause,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    literal_column,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.sql.compiler import SQLCompiler

#: A lease that ends here is over.
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: A time before this was taken from a clock that was not set.
CLOCK_IS_SET: Final = datetime(2020, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

#: SQLite's names for the host's clock and that of leases; `lend_clocks` defines them on each connection.
_HOST_CLOCK: Final = "unlink_now"
_LEASE_CLOCK: Final = "unlink_lease_now"


def to_microseconds(moment: datetime) -> int:
    """An aware datetime as whole microseconds since 1970, UTC: what the ledger stores, exact on both databases."""
    return (moment - EPOCH) // _MICROSECOND


class Moment(TypeDecorator[datetime]):
    """An aware datetime, stored as microseconds since 1970, UTC: SQLite has no type for it."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """To the database."""
        del dialect
        return None if value is None else to_microseconds(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        del dialect
        return None if value is None else EPOCH + int(value) * _MICROSECOND


def storable(text: str) -> str:
    """The text as a database can store it: NUL (PostgreSQL) and lone surrogates (both) become question marks."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


class ForeignText(TypeDecorator[str]):
    """Text that another system wrote, made storable: a strange name must not keep an unlink from being recorded."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """To the database."""
        del dialect
        return None if value is None else storable(value)


class Now(FunctionElement[int]):
    """The time of day in microseconds: by the database's clock on PostgreSQL, by the host's on SQLite.

    It is the moment of the statement, not that of the transaction's start, since a statement may have waited for a
    lock.
    """

    type = BigInteger()
    inherit_cache = True


class LeaseNow(FunctionElement[int]):
    """The present in microseconds by the clock of leases (`worker.ledger.lease_clock`), at the moment of the statement.

    Durations are measured by it: it is one clock for all workers, so that clocks of hosts that differ do no harm.
    """

    type = BigInteger()
    inherit_cache = True


class LaterNow(FunctionElement[int]):
    """The later of the two: the time from which a row is kept, even if the time of day is behind for a while."""

    type = BigInteger()
    inherit_cache = True


@compiles(Now, "postgresql")
@compiles(LeaseNow, "postgresql")
@compiles(LaterNow, "postgresql")
def _now_on_postgresql(element: Now | LeaseNow | LaterNow, compiler: SQLCompiler, **options: Any) -> str:
    del element, compiler, options
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


@compiles(Now, "sqlite")
def _now_on_sqlite(element: Now, compiler: SQLCompiler, **options: Any) -> str:
    del element, compiler, options
    return f"{_HOST_CLOCK}()"


@compiles(LeaseNow, "sqlite")
def _lease_now_on_sqlite(element: LeaseNow, compiler: SQLCompiler, **options: Any) -> str:
    del element, compiler, options
    return f"{_LEASE_CLOCK}()"


@compiles(LaterNow, "sqlite")
def _later_now_on_sqlite(element: LaterNow, compiler: SQLCompiler, **options: Any) -> str:
    del element, compiler, options
    return f"max({_HOST_CLOCK}(), {_LEASE_CLOCK}())"


def lend_clocks(connection: DBAPIConnection, clock: Clock, lease_now: Callable[[], int] | None) -> None:
    """Give an SQLite connection the worker's clock and the lease clock; without `lease_now`, `clock` serves as both."""

    def now() -> int:
        return to_microseconds(clock.now())

    connection.create_function(_HOST_CLOCK, 0, now)
    connection.create_function(_LEASE_CLOCK, 0, lease_now or now)


metadata = MetaData()

unlinks = Table(
    "unlinks",
    metadata,
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("enterprise_manager", Text, nullable=False),
    Column("command", LargeBinary, nullable=False),
    Column("stage", Text, nullable=False),
    # The fencing token: 1 at the first claim, one more at every claim after it.
    Column("token", BigInteger, nullable=False),
    Column("worker", Text),
    Column("lease_until", Moment, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("received_at", Moment, nullable=False),
    Column("job_id", Text),
    Column("job_name", ForeignText),
    Column("link_id", Text),
    Column("repository_uid", Text),
    Column("repository_name", ForeignText),
    Column("linked_backups", Text),
    Column("sent_at", Moment),
    Column("sends", Integer, nullable=False),
    Column("task_id", ForeignText),
    Column("task_session", ForeignText),
    Column("submitted_at", Moment),
    Column("outcome", Text),
    Column("event", LargeBinary),
    Column("finished_at", Moment),
    Column("updated_at", Moment, nullable=False),
    # When a request to cancel was marked in this row: a write that waited for the row's lock sees only changes of it.
    Column("cancel_heard_at", Moment),
    # The broker user who published the command that claimed the key, as the broker verified it.
    Column("user_id", ForeignText),
    # 1, and one more for each retry that started a run. The columns from here on describe the last run, not the key.
    Column("run", Integer, nullable=False),
    # By the ledger's clock; null in run 1.
    Column("run_began_at", Moment),
    # Who asked for the run in a retry's own words, and the broker user who published the retry.
    Column("retried_by", ForeignText),
    Column("retry_user_id", ForeignText),
    # Whether a DELETE of an earlier run may still be carried out.
    Column("may_act", Boolean, nullable=False),
    # How far the clock of leases was ahead of `sent_at` and `run_began_at` as these were written, in microseconds;
    # null where an earlier version wrote the row.
    Column("sent_gap", BigInteger),
    Column("run_began_gap", BigInteger),
)


def in_flight(rows: FromClause = unlinks) -> ColumnElement[bool]:
    """Rows whose DELETE may be under way.

    Literal, because the databases use a partial index only where they can see that the query's condition implies it.
    """
    return rows.c.stage.in_([literal_column("'intended'"), literal_column("'submitted'")])


unsettled = unlinks.c.stage != literal_column("'settled'")

#: For pruning.
by_end = Index("unlinks_by_end", unlinks.c.finished_at)

steps = Table(
    "steps",
    metadata,
    # SQLite counts up only an INTEGER primary key.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("key", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Column("worker", Text, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("step", Text, nullable=False),
    Column("detail", ForeignText),
    # The trace of the log lines that follow; of a step that begins or continues a run, else null.
    Column("trace_id", Text),
)

steps_by_key = Index("steps_by_key", steps.c.key)

#: Requests to cancel a run, also of keys that never came yet. With the Enterprise Manager in the primary key: a request
#: that names the wrong one must not keep out the one that names the right one.
cancellations = Table(
    "cancellations",
    metadata,
    Column("key", Text, primary_key=True),
    Column("enterprise_manager", Text, primary_key=True),
    Column("run", Integer, primary_key=True, autoincrement=False),
    Column("requested_by", ForeignText),
    Column("user_id", ForeignText),
    Column("reason", ForeignText),
    Column("requested_at", Moment, nullable=False),
)

#: For pruning.
cancellations_by_time = Index("cancellations_by_time", cancellations.c.requested_at)

#: Enterprise Managers whose queues no worker is to consume.
pauses = Table(
    "pauses",
    metadata,
    Column("enterprise_manager", Text, primary_key=True),
    Column("paused_by", ForeignText),
    Column("reason", ForeignText),
    Column("paused_at", Moment, nullable=False),
)

#: The terms by which each key is found: texts folded by `worker.ledger.search_terms.fold`; job and repository as the
#: command names them, and once they were read, as Enterprise Manager shows them. It is a separate table, so that its
#: indexes are created while it is empty, and so that PostgreSQL does not rewrite them with each update of `unlinks`.
search_terms = Table(
    "search_terms",
    metadata,
    Column("key", Text, primary_key=True),
    Column("received_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("ticket", ForeignText),
    Column("requester", ForeignText),
    Column("user_id", ForeignText),
    Column("job_id", ForeignText),
    Column("job_name", ForeignText),
    Column("link_id", ForeignText),
    Column("repository_uid", ForeignText),
    Column("repository_name", ForeignText),
    Column("outcome", Text),
    Column("reason", ForeignText),
    Column("batch", ForeignText),
)

search_terms_by_time = Index("search_terms_by_time", search_terms.c.received_at, search_terms.c.key)

#: For counting how unlinks ended lately.
search_terms_by_end = Index("search_terms_by_end", search_terms.c.finished_at, search_terms.c.outcome)

#: The columns that are searched for a value.
SEARCHED: Final = (
    "ticket",
    "requester",
    "user_id",
    "job_id",
    "job_name",
    "link_id",
    "repository_uid",
    "repository_name",
    "outcome",
    "reason",
    "batch",
)

#: How far the search for keys without search terms has come; one row. Versions before schema 6 write no terms.
search_walk = Table(
    "search_walk",
    metadata,
    Column("id", Integer, primary_key=True),
    # The last key that was looked at.
    Column("position", Text, nullable=False),
    Column("next_at", Moment, nullable=False),
    # When it last came to the end; until it has for the first time, a search may lack older keys.
    Column("completed_at", Moment),
)

#: Commands that belong together. A row is locked while a member joins, so that no more join than its size allows.
batches = Table(
    "batches",
    metadata,
    Column("enterprise_manager", Text, primary_key=True),
    # The broker user who published the commands, as the broker verified it; empty if they did not name one.
    Column("sender", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("size", Integer, nullable=False),
    # How many rows of `batch_members` it has.
    Column("members", Integer, nullable=False),
    # When a member joined last, by the ledger's clock.
    Column("joined_at", Moment, nullable=False),
    # The event of the ended batch, once it was composed; deleted by each change of a member.
    Column("event", LargeBinary),
)

#: For pruning.
batches_by_time = Index("batches_by_time", batches.c.joined_at)

#: The keys of each batch, and the latest end of each; without an end while it is under way.
batch_members = Table(
    "batch_members",
    metadata,
    Column("enterprise_manager", Text, primary_key=True),
    Column("sender", Text, primary_key=True),
    Column("batch", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    # Of the content; null where the command was rejected.
    Column("fingerprint", Text),
    Column("outcome", Text),
    Column("event_id", Text),
    Column("ended_at", Moment),
    # JSON.
    Column("ticket", ForeignText),
    Column("correlation_id", ForeignText),
)

batch_members_by_key = Index("batch_members_by_key", batch_members.c.key)

#: For the search. A batch's ID is ASCII.
batch_members_by_batch = Index("batch_members_by_batch", func.lower(batch_members.c.batch))

#: The status row of each worker, written every ten seconds. A worker deletes it when it stops, unless it is killed.
workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),
    Column("in_flight", Integer, nullable=False),
    Column("draining", Boolean, nullable=False),
    # JSON, an object by name: `up`, `since`, `problem`.
    Column("enterprise_managers", ForeignText, nullable=False),
)

#: Locks of programs beside the workers, each with the time at which its holder loses it.
locks = Table(
    "locks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until", Moment, nullable=False),
)

#: On SQLite: the boot of the host, and the time of day at which it seemed to be to its first worker.
boots = Table(
    "boots", metadata, Column("boot", Text, primary_key=True), Column("booted_at", BigInteger, nullable=False)
)

#: On SQLite: what the time of day was after how much running time of the host; see `worker.ledger.retention`.
clock_marks = Table(
    "clock_marks",
    metadata,
    Column("id", Integer, primary_key=True),
    # Microseconds for which the host had been running since the first mark, as far as is known.
    Column("running", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("boot", Text),
    Column("since_boot", BigInteger, nullable=False),
)

ledger_schema = Table(
    "ledger_schema",
    metadata,
    # The oldest schema number whose code may still use this database.
    Column("usable_from", Integer, nullable=False),
)
