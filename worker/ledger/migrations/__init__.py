"""Moving the ledger's schema forward.

The rule of every migration: **it only adds** - a table, an index, a column that may be null or has a default - so that
the previous version of the worker still works on the new schema, during a rolling update and after a rollback. Nothing
is renamed, retyped, narrowed or dropped, and the meaning of older rows does not change. There is no way back either,
and so no `downgrade`: the ledger is the memory of what was done.

If a change must break that rule one day, its migration also raises `ledger_schema.usable_from` to its own number.
Versions that know only a lower number then refuse to start (`SchemaTooNewError`), instead of doing harm.

A migration's number is that of its revision: `v0002_steps.py` is revision `0002`, schema 2.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import structlog
from sqlalchemy import Connection, func, select

from worker.ledger.schema import FOLDER, known_schema, number_of, present_revision, refuse_if_unusable

_log = structlog.get_logger()

#: An arbitrary number: the lock that every worker takes before it looks at the schema.
_LOCK: Final = 7_305_810_362_114_507_777

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
    present = present_revision(connection)
    if number_of(present) > known_schema():
        refuse_if_unusable(connection)
        _log.info("ledger.schema_is_newer", present=present, known=known_schema())
        return
    if number_of(present) < known_schema() or to != "head":
        with _one_at_a_time, _allowing_slow_statements(connection):
            _upgrade(connection, to)
    reached = present_revision(connection)
    if reached != present:
        _log.info("ledger.migrated", before=present, after=reached)


def _upgrade(connection: Connection, to: str) -> None:
    # Imported where it is used: most workers start on a ledger that has every migration.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    # A percent sign would be read as an interpolation.
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    command.upgrade(config, to)


def _allowing_slow_statements(connection: Connection) -> AbstractContextManager[None]:
    if connection.dialect.name != "postgresql":
        return nullcontext()
    from worker.ledger.postgresql import allow_slow_statements  # noqa: PLC0415 - as in `database`

    return allow_slow_statements(connection)
