"""Locks: one holder at a time, who loses it after a while. The console takes one to read the dead letters."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, Connection, bindparam, delete, type_coerce

from worker.ledger.statements import insert_into
from worker.ledger.tables import LeaseNow, locks

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import ReturningInsert

_end: Any = LeaseNow() + bindparam("microseconds", type_=BigInteger())
_RELEASE: Final = delete(locks).where(locks.c.name == bindparam("of_name"), locks.c.holder == bindparam("of_holder"))


@cache
def _take(dialect: str) -> ReturningInsert[Any]:
    new = insert_into(dialect, locks).values(until=_end)
    statement: ReturningInsert[Any] = new.on_conflict_do_update(
        index_elements=[locks.c.name],
        set_={"holder": new.excluded.holder, "until": new.excluded.until},
        where=type_coerce(locks.c.until, BigInteger) <= LeaseNow(),
    ).returning(locks.c.holder)
    return statement


def take(connection: Connection, name: str, holder: str, seconds: float) -> bool:
    """Take a lock for so long. Return whether it was free."""
    row = {"name": name, "holder": holder, "microseconds": round(seconds * 1_000_000)}
    return connection.execute(_take(connection.dialect.name), row).first() is not None


def release(connection: Connection, name: str, holder: str) -> None:
    """Release a lock, unless somebody else has it by now."""
    connection.execute(_RELEASE, {"of_name": name, "of_holder": holder})
