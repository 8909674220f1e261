"""Connections to PostgreSQL. Imported only where it is used: psycopg takes long to import.

Every wait has an end: connecting, a network that swallows packets, a server that does not answer, a statement, a lock,
and a transaction whose worker was paused in the middle of it (the server ends it, so that its locks do not stop the
other workers).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from psycopg.errors import _WaitTimeout
from sqlalchemy import Connection, Engine, create_engine, event

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from sqlalchemy.engine import URL
    from sqlalchemy.engine.interfaces import DBAPIConnection

#: How often a wait for the server checks its deadline, in seconds.
_POLL_SECONDS: Final = 0.1

Answer = TypeVar("Answer")

#: libpq's parameters where the URL does not say otherwise: seconds, but milliseconds for `tcp_user_timeout`
#: (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS).
_CONNECTION: Final = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "application_name": "unlink-worker",
}

#: How long the server may take for one answer, in seconds. The server ends statements earlier (`statement_timeout`),
#: unless it hangs.
ANSWER_SECONDS: Final = 7.0
#: How long the server may take for one answer, in seconds, where a statement may be slow, as in a migration.
SLOW_ANSWER_SECONDS: Final = 3600.0

#: How long one statement may take before the server ends it. A longer one would put the leases of all unlinks at risk.
_STATEMENT_TIMEOUT: Final = "SET statement_timeout = '5s'"

#: Set by statement, not as start-up options, which poolers between worker and server may refuse.
_SESSION: Final = (
    "SET lock_timeout = '2s'",
    "SET idle_in_transaction_session_timeout = '5s'",
    # A server may be set up to report commits that are not on its disk yet; the ledger cannot have that.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
)


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed if the server does not answer for `answer_seconds`."""

    answer_seconds = ANSWER_SECONDS

    def wait(self, gen: PQGen[Answer], interval: float = _POLL_SECONDS, timeout: float | None = None) -> Answer:
        """As the base class, with a deadline.

        Raises:
            psycopg.OperationalError: no answer came in time; the connection is closed.
        """
        try:
            return super().wait(gen, interval, timeout or self.answer_seconds)
        except _WaitTimeout:
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the server did not answer for {self.answer_seconds:g} s") from None


def open_postgresql(url: URL, pool: dict[str, Any], *, read_only: bool = False) -> Engine:
    """An engine whose every wait has an end. Connects to nothing yet."""
    defaults = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    engine = create_engine(url, hide_parameters=True, connect_args=defaults, **pool)
    event.listen(engine, "do_connect", _connect_with_deadlines)
    event.listen(engine, "connect", _prepare)
    if read_only:
        event.listen(engine, "begin", _begin_read_only)
    return engine


def _begin_read_only(connection: Connection) -> None:
    connection.exec_driver_sql("SET TRANSACTION READ ONLY")


def _connect_with_deadlines(
    dialect: object, record: object, arguments: tuple[Any, ...], options: dict[str, Any]
) -> BoundedConnection:
    del dialect, record
    return BoundedConnection.connect(*arguments, **options)


@contextmanager
def allow_slow_statements(connection: Connection) -> Iterator[None]:
    """Let the statements of this transaction take up to an hour: an index on a big table needs longer than others."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, BoundedConnection):
        yield
        return
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    driver.answer_seconds = SLOW_ANSWER_SECONDS
    try:
        yield
    finally:
        driver.answer_seconds = ANSWER_SECONDS


def _prepare(connection: DBAPIConnection, record: object) -> None:
    del record
    cursor = connection.cursor()
    for statement in (_STATEMENT_TIMEOUT, *_SESSION):
        cursor.execute(statement)
    cursor.close()
    connection.commit()
