"""Which schema a database has, and whether this version can work with it. Migrations are in `migrations`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, column, func, inspect, select, table

from worker.ledger.errors import InspectionError, SchemaTooNewError
from worker.ledger.tables import ledger_schema

#: The folder of the migrations, for Alembic.
FOLDER: Final = Path(__file__).parent / "migrations"

USABLE_FROM: Final = select(func.max(ledger_schema.c.usable_from))

#: Alembic's own table.
_REVISION: Final = table("alembic_version", column("version_num"))


def require_current(connection: Connection) -> None:
    """Require that this version can read the ledger. Changes nothing.

    Raises:
        InspectionError: there is none, or it is of an older version.
        SchemaTooNewError: a newer version has changed it in a way that this one cannot work with.
    """
    present = present_revision(connection)
    if present is None:
        raise InspectionError("the database holds no ledger: no worker has run on it yet")
    if number_of(present) > known_schema():
        refuse_if_unusable(connection)
    elif number_of(present) < known_schema():
        raise InspectionError(
            f"the ledger has schema {number_of(present)}, and this version reads {known_schema()}: "
            "start a worker of this version first, or use the program of the workers' version"
        )


def present_revision(connection: Connection) -> str | None:
    """The revision of the newest migration that the database has had; None if it has had none."""
    if not inspect(connection).has_table(_REVISION.name):
        return None
    revision: str | None = connection.scalar(select(_REVISION.c.version_num))
    return revision


@cache
def known_schema() -> int:
    """The newest schema number that this version knows: that of the last file of the migrations."""
    return max(int(file.name[1:5]) for file in (FOLDER / "versions").glob("v[0-9][0-9][0-9][0-9]_*.py"))


def number_of(revision: str | None) -> int:
    """A revision's schema number; 0 for an empty database."""
    return int(revision or 0)


def refuse_if_unusable(connection: Connection) -> None:
    """Raise `SchemaTooNewError` if a newer version has changed the schema so that this one cannot work with it."""
    if inspect(connection).has_table(ledger_schema.name) and (problem := schema_problem(connection)):
        raise problem


def schema_problem(connection: Connection) -> SchemaTooNewError | None:
    """Why this version cannot work with the schema; None if it can."""
    needed = connection.scalar(USABLE_FROM) or 0
    return SchemaTooNewError(needed=needed, known=known_schema()) if needed > known_schema() else None
