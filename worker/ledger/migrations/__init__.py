"""Moving the ledger's schema forward.

The rule of every migration: **it only adds** - a table, an index, a column that may be null or has a default - so that
the previous version of the worker goes on running on the new schema while the new one is rolled out, and after a
roll-back. Nothing is renamed, retyped, narrowed or dropped, and no older row gets another meaning.

Where a change must break that rule one day, its migration also raises `ledger_schema.usable_from` to its own number.
Versions that know only a lower number then refuse to start (`SchemaTooNewError`), instead of doing harm.

A migration's number is that of its revision: `v0002_steps.py` is revision `0002`, schema 2.
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import func, inspect, select

from worker.ledger.database import allow_slow_statements
from worker.ledger.errors import InspectionError, SchemaTooNewError
from worker.ledger.tables import ledger_schema

if TYPE_CHECKING:
    from sqlalchemy import Connection

_log = structlog.get_logger()

#: An arbitrary number: the lock that every worker takes before it looks at the schema.
_LOCK: Final = 7_305_810_362_114_507_777

USABLE_FROM: Final = select(func.max(ledger_schema.c.usable_from))

#: Alembic keeps the migration that runs in a global of its own.
_one_at_a_time = threading.Lock()


def migrate(connection: Connection, to: str = "head") -> None:
    """Bring the schema to revision `to`, inside the transaction that the connection is in; leaves a newer one alone.

    Many workers may start at once: the first one migrates, and the others wait for its commit. On SQLite the
    transaction itself is the lock.

    Raises:
        SchemaTooNewError: a newer version has changed the schema in a way that this one cannot work with.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    config = _configuration(connection)
    scripts = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if present is not None and present not in known:
        _refuse_if_unusable(connection)
        _log.info("ledger.schema_is_newer", present=present, known=scripts.get_current_head())
        return
    with _one_at_a_time, allow_slow_statements(connection):
        command.upgrade(config, to)
    reached = MigrationContext.configure(connection).get_current_revision()
    if reached != present:
        _log.info("ledger.migrated", before=present, after=reached)


def require_current(connection: Connection) -> None:
    """See that this version can read the ledger, without changing anything.

    Raises:
        InspectionError: there is none, or it is of an older version.
        SchemaTooNewError: a newer version has changed it in a way that this one cannot work with.
    """
    scripts = ScriptDirectory.from_config(_configuration(connection))
    present, head = MigrationContext.configure(connection).get_current_revision(), scripts.get_current_head()
    if present is None:
        raise InspectionError("the database holds no ledger: no worker has run on it yet")
    if present not in {script.revision for script in scripts.walk_revisions()}:
        _refuse_if_unusable(connection)
    elif present != head:
        raise InspectionError(
            f"the ledger has schema {number_of(present)}, and this version reads {number_of(head)}: "
            "start a worker of this version first, or use the program of the workers' version"
        )


@cache
def known_schema() -> int:
    """The newest schema number that this version knows."""
    return number_of(ScriptDirectory(str(Path(__file__).parent)).get_current_head())


def number_of(revision: str | None) -> int:
    """A revision's schema number; 0 for an empty database."""
    return int(revision or 0)


def _refuse_if_unusable(connection: Connection) -> None:
    if inspect(connection).has_table(ledger_schema.name) and (problem := schema_problem(connection)):
        raise problem


def schema_problem(connection: Connection) -> SchemaTooNewError | None:
    """Why this version cannot work with the schema; None if it can."""
    needed = connection.scalar(USABLE_FROM) or 0
    return SchemaTooNewError(needed=needed, known=known_schema()) if needed > known_schema() else None


def _configuration(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    # A percent sign would be read as an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
