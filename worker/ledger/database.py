"""Access to the database: an engine for SQLite or PostgreSQL (`postgresql`), and the meaning of its errors."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

from worker.ledger.tables import lend_clocks
from worker.settings import SettingsInvalidError
from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    from pydantic import SecretStr
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import PoolProxiedConnection

URL_VARIABLE: Final = "UNLINK_LEDGER__URL"

#: The first bytes of an SQLite file that is not empty (https://www.sqlite.org/fileformat.html#the_database_header).
_SQLITE_BEGINNING: Final = b"SQLite format 3\0"

_DISK_IS_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

#: How long SQLite waits for another process's transaction, in milliseconds.
_SQLITE_BUSY_MILLISECONDS: Final = 10_000

#: SQLSTATEs of a database that is there, but cannot serve now: classes 08 (connection), 57 (operator intervention), and
#: single ones.
_AWAY_CLASSES: Final = ("08", "57")
_AWAY_STATES: Final = frozenset(
    {
        "25006",  # read-only: a standby that is not promoted yet
        "25P03",  # ended for being idle in a transaction: this worker was paused
        "25P04",  # ended for the length of its transaction
        "28000",  # refused; passwords are rotated, and pg_hba.conf is corrected, while we wait
        "28P01",
        "3D000",  # no such database (yet)
    }
)

#: A conflict with another transaction: a serialisation failure, a deadlock, a lock that was not granted in time.
_CONTENDED_STATES: Final = frozenset({"40001", "40P01", "55P03"})

#: SQLSTATEs that one statement may cause, as well as the state of the whole database: 57014 (`query_canceled`, by
#: `statement_timeout` or by an administrator), classes 53 (resources: memory that one statement needs, or a full disk),
#: 58 (system error) and XX (internal error: a damaged row, or a damaged database).
_SUSPECT: Final = ("57014", "53", "58", "XX")

_SQLITE_AWAY: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_NOTADB,
    }
)

#: As `_SUSPECT`.
_SQLITE_SUSPECT: Final = frozenset(
    {sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL}
)

#: A small pool of connections. A lost one is replaced; a caller waits for a free one for this many seconds.
_POOL: Final[dict[str, Any]] = {
    "poolclass": QueuePool,
    "pool_size": 4,
    "max_overflow": 4,
    "pool_timeout": 5.0,
    "pool_pre_ping": True,
}


class Trouble(Enum):
    """What to do about a database's error."""

    #: The database cannot serve now: wait until it can.
    AWAY = auto()
    #: A conflict with another transaction: try again.
    CONTENDED = auto()
    #: A statement took longer than it may, met a damaged row or lacked resources: it is the cause, or the database is.
    SUSPECT = auto()
    #: Another transaction was first; a second try will see its result.
    RACED = auto()
    #: The statement is wrong; a second try does not help.
    FAULT = auto()


def read_url(setting: SecretStr) -> URL:
    """The setting as SQLAlchemy's URL, for psycopg 3 if it is PostgreSQL.

    Raises:
        SettingsInvalidError: it cannot be read, or names no file. The message does not repeat it.
    """
    try:
        url = make_url(setting.get_secret_value())
    except (SQLAlchemyError, ValueError):
        url = None
    # A password with an unescaped @ ends up in the host's name, and would be logged with it.
    if url is None or "@" in (url.host or ""):
        raise SettingsInvalidError(
            f"{URL_VARIABLE}: cannot be read as a URL; special characters in a user name or password must be "
            "written as %XX"
        )
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.database in {None, "", ":memory:"}:
        raise SettingsInvalidError(
            f"{URL_VARIABLE}: names no file; write sqlite:///relative/path or sqlite:////absolute/path"
        )
    return url


def file_problem(url: URL) -> str | None:
    """Why an SQLite file cannot be a ledger, for a person; None if it can, and for PostgreSQL.

    A full disk is not such a reason: the ledger waits until there is space.
    """
    if url.get_backend_name() != "sqlite":
        return None
    path = Path(url.database or "").absolute()
    folder = path.parent
    try:
        if not folder.is_dir():
            return f"there is no folder {folder}"
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return None if error.errno in _DISK_IS_FULL else f"may not write in {folder}"
    # The two others are parts of the database while it is open, and after a crash.
    beside = (_problem_of(path.with_name(path.name + suffix)) for suffix in ("-wal", "-shm"))
    return _problem_of(path, _SQLITE_BEGINNING) or next((problem for problem in beside if problem), None)


def _problem_of(path: Path, first: bytes = b"") -> str | None:
    try:
        with path.open("r+b") as file:
            is_other = file.read(len(first)) not in {b"", first}
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        return f"{path} is no file"
    except OSError as error:
        return None if error.errno in _DISK_IS_FULL else f"may not write {path}"
    return f"{path} is no SQLite database" if is_other else None


def open_engine(
    url: URL,
    clock: Clock,
    *,
    lease_now: Callable[[], int] | None = None,
    read_only: bool = False,
    pooled: bool = False,
) -> Engine:
    """An engine that has not connected yet. It has a pool only with `pooled`: the ledger keeps its one connection.

    On SQLite, `clock` gives the time of day, and `lease_now`, which only claims need, measures leases. `read_only`: its
    transactions write nothing, and take no lock that a worker would wait for.
    """
    pool = _POOL if pooled else {"poolclass": NullPool}
    if url.get_backend_name() == "postgresql":
        from worker.ledger.postgresql import open_postgresql  # noqa: PLC0415 - psycopg takes long to import

        return open_postgresql(url, pool, read_only=read_only)
    engine = create_engine(url, hide_parameters=True, **pool)

    def prepare_sqlite(connection: DBAPIConnection, record: object) -> None:
        del record
        # The driver would begin transactions by itself, and deferred ones; `begin_immediate` does it instead.
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout = {_SQLITE_BUSY_MILLISECONDS}",
            "journal_mode = WAL",
            # WAL's default, NORMAL, may lose the last commits when the power fails.
            "synchronous = FULL",
        ):
            connection.execute(f"PRAGMA {pragma}")
        lend_clocks(connection, clock, lease_now)

    event.listen(engine, "connect", prepare_sqlite)
    # Not by a listener of the event "begin": with one, SQLAlchemy looks for listeners of all events at each statement,
    # which takes a quarter of the Python calls of a statement.
    engine.dialect.do_begin = _begin_deferred if read_only else _begin_immediate  # type: ignore[assignment,method-assign]
    return engine


def _begin_immediate(connection: PoolProxiedConnection) -> None:
    # The write lock first: a transaction that reads and then writes could otherwise find that it read something old,
    # which no busy time-out helps against (https://www.sqlite.org/isolation.html).
    connection.cursor().execute("BEGIN IMMEDIATE")


def _begin_deferred(connection: PoolProxiedConnection) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only = ON")
    cursor.execute("BEGIN")


def trouble_of(error: BaseException) -> Trouble:
    """The meaning of an error in a transaction."""
    if not isinstance(error, DBAPIError):
        return Trouble.FAULT
    if error.connection_invalidated:
        return Trouble.AWAY
    if isinstance(error, IntegrityError):
        return Trouble.RACED
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_trouble(error.orig)
    return _postgresql_trouble(error)


def _sqlite_trouble(error: sqlite3.Error) -> Trouble:
    # The low byte is the primary code: https://www.sqlite.org/rescode.html#primary_result_codes_versus_extended_result_codes
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _SQLITE_SUSPECT:
        return Trouble.SUSPECT
    return Trouble.AWAY if code in _SQLITE_AWAY else Trouble.FAULT


def _postgresql_trouble(error: DBAPIError) -> Trouble:
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state is None:
        # Errors without a state are libpq's own: no connection, or one that broke.
        return Trouble.AWAY if isinstance(error, (OperationalError, InterfaceError)) else Trouble.FAULT
    if state.startswith(_SUSPECT):
        return Trouble.SUSPECT
    if state in _CONTENDED_STATES:
        return Trouble.CONTENDED
    if state in _AWAY_STATES or state.startswith(_AWAY_CLASSES):
        return Trouble.AWAY
    return Trouble.FAULT


def problem_in(error: BaseException) -> str:
    """An error of the database in one line, without SQL and its parameters."""
    original: Any = getattr(error, "orig", None) or error
    lines = str(original).strip().splitlines()
    return lines[0].strip() if lines else type(original).__name__
