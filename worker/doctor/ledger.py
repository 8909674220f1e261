"""Examines the ledger's database. Creates nothing and changes nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from worker.doctor.findings import Finding, doubtful, good, wrong
from worker.ledger import Inspection, InspectionError, Pause
from worker.ledger.database import URL_VARIABLE, file_problem, open_engine, problem_in, read_url
from worker.ledger.schema import known_schema, number_of
from worker.ledger.tables import ledger_schema
from worker.settings import LedgerSettings
from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

#: A larger difference between the clocks, in seconds, is a finding. `not_after` and the times in events use the
#: workers' clocks; leases and time-outs use the database's clock alone.
MOST_SECONDS_APART = 5.0

#: Network file systems, on which SQLite's locks are not reliable (https://www.sqlite.org/howtocorrupt.html).
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "9p", "afs", "gfs2", "ocfs2", "beegfs"}
)


async def examine(settings: LedgerSettings, clock: Clock) -> AsyncIterator[Finding]:
    """Connect, and check the schema, the permissions, and the clock or the file system.

    Raises:
        SettingsInvalidError: the URL cannot be parsed.
    """
    url = read_url(settings.url)
    postgresql = url.get_backend_name() == "postgresql"
    for finding in await asyncio.to_thread(
        lambda: list(_examine_postgresql(url, clock) if postgresql else _examine_sqlite(url))
    ):
        yield finding
    for pause in await asyncio.to_thread(lambda: _pauses(settings, clock)):
        why = f": {pause.reason}" if pause.reason else ""
        yield doubtful(
            "paused",
            f"{pause.enterprise_manager}, by {pause.paused_by or 'a user'} since {pause.paused_at:%Y-%m-%d %H:%M} UTC"
            f"{why}; its commands stay on their queue",
            f"unlink-worker resume {pause.enterprise_manager}",
        )


def _pauses(settings: LedgerSettings, clock: Clock) -> tuple[Pause, ...]:
    try:
        return Inspection(settings, clock).pauses()
    except InspectionError:  # there is no schema yet, or an earlier finding names the problem
        return ()


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _examine_postgresql(url: URL, clock: Clock) -> Iterator[Finding]:
    engine = open_engine(url, clock)
    where = f"{url.host or 'localhost'}:{url.port or 5432}, database {url.database}"
    try:
        with engine.connect() as connection:
            version = connection.scalar(text("SHOW server_version"))
            yield good("reachable", f"PostgreSQL {version} at {where}")
            yield from _schema_of(connection)
            yield _clocks(connection, clock)
    except SQLAlchemyError as error:
        yield wrong(
            "reachable", f"PostgreSQL at {where}: {problem_in(error)}", f"correct {URL_VARIABLE}, or the server"
        )
    finally:
        engine.dispose()


def _schema_of(connection: Connection) -> Iterator[Finding]:
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        may = connection.scalar(text("SELECT has_schema_privilege(current_schema(), 'CREATE')"))
        yield _no_schema(may=bool(may))
        return
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    needed = connection.scalar(text(f"SELECT max(usable_from) FROM {ledger_schema.name}"))  # noqa: S608 - our own name
    yield _schema(revision, needed)
    tables = text(
        "SELECT string_agg(tablename, ', ') FROM pg_tables WHERE schemaname = current_schema() "
        "AND NOT has_table_privilege(quote_ident(tablename), 'SELECT, INSERT, UPDATE, DELETE') "
        "AND tablename IN ('unlinks', 'steps', 'ledger_schema')"
    )
    if denied := connection.scalar(tables):
        yield wrong("permissions", f"may not read and write {denied}", "GRANT ALL ON these tables to the worker's user")
    else:
        yield good("permissions", "may read and write the ledger's tables")


def _clocks(connection: Connection, clock: Clock) -> Finding:
    before = clock.now().timestamp()
    there = float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0)
    apart = there - (before + clock.now().timestamp()) / 2
    seen = f"{abs(apart):.1f} s {'ahead of' if apart > 0 else 'behind'} this host's"
    if abs(apart) > MOST_SECONDS_APART:
        return wrong("clock", f"the database's is {seen}", "let both hosts keep time by NTP")
    return good("clock", f"the database's is {seen}")


# --- SQLite -----------------------------------------------------------------------------------------------------------


def _examine_sqlite(url: URL) -> Iterator[Finding]:
    path = Path(url.database or "").absolute()
    folder = path.parent
    problem = file_problem(url)
    if problem is not None and not folder.is_dir():
        yield wrong("reachable", problem, f"make it, or correct {URL_VARIABLE}")
        return
    kind = file_system_of(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        yield wrong(
            "file system", f"{folder} is on {kind}, where SQLite's locks do not hold", "use a local disk, or PostgreSQL"
        )
    elif kind is not None:
        yield good("file system", f"{folder} is on {kind}, which is local; for workers of this host alone")
    if problem is not None:
        yield wrong("permissions", problem, f"give file and folder to the worker's user, or correct {URL_VARIABLE}")
    if not path.exists():
        yield _no_schema(may=True)
        return
    if path.is_dir():
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)) as connection:
            yield good("reachable", f"SQLite {sqlite3.sqlite_version}, {path}")
            yield _sqlite_schema(connection)
    except sqlite3.Error as error:
        yield wrong(
            "reachable", f"{path}: {error}", f"see that it is a ledger that may be read; correct {URL_VARIABLE}"
        )


def _sqlite_schema(connection: sqlite3.Connection) -> Finding:
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone() is None:
        return _no_schema(may=True)
    (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or (None,)
    (needed,) = connection.execute(f"SELECT max(usable_from) FROM {ledger_schema.name}").fetchone()  # noqa: S608 - our own name
    return _schema(revision, needed)


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of a folder's file system; None if the system does not provide it.

    proc(5) describes the format of a line: the fifth field is the mount point, and the type follows a single dash.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    found: tuple[int, str] = (-1, "")
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = Path(fields.split(" ")[4].encode().decode("unicode_escape"))
        if folder.resolve().is_relative_to(point) and len(point.parts) >= found[0]:
            found = (len(point.parts), rest.split(" ")[0])
    return found[1] or None


# --- both -------------------------------------------------------------------------------------------------------------


def _no_schema(*, may: bool) -> Finding:
    if may:
        return good("schema", "none yet: the worker makes it at its start")
    return wrong("schema", "none yet, and this user may not make it", "GRANT CREATE ON SCHEMA to the worker's user")


def _schema(revision: str | None, needed: int | None) -> Finding:
    known, there = known_schema(), number_of(revision)
    if (needed or 0) > known:
        return wrong("schema", f"{there}, made by a newer version for newer versions alone", "run the newer version")
    if there > known:
        return doubtful("schema", f"{there}, made by a newer version; this one knows {known}, and can work with it")
    if there < known:
        return good("schema", f"{there}; this version brings it to {known} at its start")
    return good("schema", str(there))
