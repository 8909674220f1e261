"""The overview of all unlinks: those under way, and the recent ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, bindparam, func, select, type_coerce

from worker.ledger.presence import WorkerState, present
from worker.ledger.records import Pause
from worker.ledger.statements import PAUSES
from worker.ledger.tables import EPOCH, Now, search_terms, unlinks, unsettled

_HOUR: Final = 60 * 60 * 1_000_000

#: How many hours are counted.
HOURS: Final = 24


@dataclass(frozen=True, slots=True)
class UnderWay:
    """The unlinks of an Enterprise Manager that have not ended, and when the oldest of them was received.

    `tasks` counts those whose DELETE was answered with a task.
    """

    count: int
    tasks: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class Overview:
    """The state at `now`, by the ledger's clock.

    `ended` counts by outcome, for each of the last `HOURS` hours, the oldest first.
    """

    now: datetime
    workers: tuple[WorkerState, ...]
    pauses: tuple[Pause, ...]
    under_way: Mapping[str, UnderWay]
    ended: Mapping[str, tuple[int, ...]]


_NOW: Final = select(Now().label("now"))

_UNDER_WAY: Final = (
    select(
        unlinks.c.enterprise_manager,
        func.count().label("count"),
        func.count(unlinks.c.task_id).label("tasks"),
        func.min(unlinks.c.received_at).label("oldest"),
    )
    .where(unsettled)
    .group_by(unlinks.c.enterprise_manager)
)

_end = type_coerce(search_terms.c.finished_at, BigInteger)
_hours_ago: Any = (type_coerce(bindparam("now"), BigInteger) - _end) / type_coerce(_HOUR, BigInteger)
_ENDED: Final = (
    select(search_terms.c.outcome, _hours_ago.label("hours_ago"), func.count().label("number"))
    .where(_end > bindparam("since"), _end <= bindparam("now"), search_terms.c.outcome.is_not(None))
    .group_by(search_terms.c.outcome, _hours_ago)
)


def overview(connection: Connection) -> Overview:
    """Read it."""
    now = connection.execute(_NOW).scalar_one()
    ended: dict[str, list[int]] = {}
    for row in connection.execute(_ENDED, {"now": now, "since": now - HOURS * _HOUR}):
        hours = ended.setdefault(row.outcome, [0] * HOURS)
        hours[HOURS - 1 - min(int(row.hours_ago), HOURS - 1)] += row.number
    return Overview(
        now=EPOCH + timedelta(microseconds=now),
        workers=present(connection),
        pauses=tuple(Pause(**row) for row in connection.execute(PAUSES).mappings()),
        under_way={name: UnderWay(*counted) for name, *counted in connection.execute(_UNDER_WAY)},
        ended={outcome: tuple(hours) for outcome, hours in ended.items()},
    )
