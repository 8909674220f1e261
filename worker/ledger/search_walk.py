"""The walk over all keys, for those without search terms.

Versions before schema 6 write no terms: neither before the upgrade nor while they run beside this version. Once an hour
one of the workers therefore walks over all keys, in small transactions. Until the first walk has ended, a search may
lack older keys.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    select,
    type_coerce,
    update,
)

from worker.ledger.search_writes import TermWrites
from worker.ledger.tables import Now, search_terms, search_walk, unlinks, unsettled

#: How many keys one transaction passes, and how many rows without terms it reads, at most.
KEYS_IN_A_BITE: Final = 1000
ROWS_IN_A_BITE: Final = 200

#: From the end of a walk to the next.
_PAUSE_MICROSECONDS: Final = 60 * 60 * 1_000_000

#: No row while another worker is walking.
_POSITION: Final = (
    select(search_walk.c.position)
    .where(type_coerce(search_walk.c.next_at, BigInteger) <= Now())
    .with_for_update(skip_locked=True)
)
_WALKED_TO: Final = update(search_walk).values(position=bindparam("new_position"))
_WALKED_THROUGH: Final = update(search_walk).values(
    position="", completed_at=Now(), next_at=Now() + type_coerce(_PAUSE_MICROSECONDS, BigInteger)
)
COMPLETED_AT: Final = select(search_walk.c.completed_at)

_KEYS: Final = (
    select(unlinks.c.key).where(unlinks.c.key > bindparam("position")).order_by(unlinks.c.key).limit(KEYS_IN_A_BITE)
)


def _in_window(table: Table) -> ColumnElement[bool]:
    """The keys that this transaction passes. Applied to both tables: else PostgreSQL might read all of one of them."""
    return and_(table.c.key > bindparam("position"), table.c.key <= bindparam("to"))


_WITHOUT_TERMS: Final = (
    select(unlinks)
    .where(_in_window(unlinks), ~exists().where(search_terms.c.key == unlinks.c.key, _in_window(search_terms)))
    .order_by(unlinks.c.key)
    .limit(ROWS_IN_A_BITE)
)

#: Keys that an older version has settled, and this one had claimed.
_unfinished = select(search_terms.c.key).where(search_terms.c.finished_at.is_(None))
_WITH_OLD_TERMS: Final = select(unlinks).where(unlinks.c.key.in_(_unfinished), ~unsettled).limit(ROWS_IN_A_BITE)

#: Terms of keys that an older version has pruned.
_ORPHANS: Final = delete(search_terms).where(
    _in_window(search_terms), ~exists().where(unlinks.c.key == search_terms.c.key, _in_window(unlinks))
)


def walk(connection: Connection, terms: TermWrites) -> bool:
    """Walk over some keys, if it is time and no other worker does. Return whether the next call may follow at once."""
    position = connection.scalar(_POSITION)
    if position is None:
        return False
    if position == "":
        outdated = connection.execute(_WITH_OLD_TERMS).mappings().all()
        for row in outdated:
            terms.fill(row)
        if len(outdated) == ROWS_IN_A_BITE:
            return True
    keys = connection.execute(_KEYS, {"position": position}).scalars().all()
    if not keys:
        connection.execute(_WALKED_THROUGH)
        return False
    window = {"position": position, "to": keys[-1]}
    rows = connection.execute(_WITHOUT_TERMS, window).mappings().all()
    for row in rows:
        terms.fill(row)
    if len(rows) == ROWS_IN_A_BITE:
        window["to"] = rows[-1]["key"]
    connection.execute(_ORPHANS, window)
    connection.execute(_WALKED_TO, {"new_position": window["to"]})
    return True
