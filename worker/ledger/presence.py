"""The states of workers: each worker writes its own, and the console and the command line read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, Insert, RowMapping, bindparam, delete, select, type_coerce

from worker.ledger.statements import insert_into
from worker.ledger.tables import Now, workers

#: Rows of workers that were killed are kept so long, in microseconds.
_KEPT: Final = 60 * 60 * 1_000_000


@dataclass(frozen=True, slots=True)
class ManagerState:
    """How a worker finds an Enterprise Manager. `since`: when `up` changed last; `problem`: the last one, if down."""

    up: bool
    since: datetime
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerState:
    """The state of a worker. `seconds_ago`: when it was written, by the ledger's clock."""

    name: str
    version: str
    in_flight: int
    draining: bool
    enterprise_managers: Mapping[str, ManagerState] = field(default_factory=dict)
    started_at: datetime | None = None
    seen_at: datetime | None = None
    seconds_ago: float = 0.0


_CHANGING: Final = ("version", "seen_at", "in_flight", "draining", "enterprise_managers")


@cache
def _put(dialect: str) -> Insert:
    new = insert_into(dialect, workers).values(started_at=Now(), seen_at=Now())
    statement: Insert = new.on_conflict_do_update(
        index_elements=[workers.c.name],
        set_={name: new.excluded[name] for name in _CHANGING},
    )
    return statement


_seen = type_coerce(workers.c.seen_at, BigInteger)
_FORGET: Final = delete(workers).where(_seen < Now() - type_coerce(_KEPT, BigInteger))
_LEAVE: Final = delete(workers).where(workers.c.name == bindparam("of_worker"))
_ALL: Final = select(*workers.c, (Now() - _seen).label("age")).order_by(workers.c.name)


def put(connection: Connection, state: WorkerState) -> None:
    """Write a worker's row, and delete those of workers that have not written theirs for an hour."""
    managers = {
        name: {"up": each.up, "since": each.since.isoformat(), "problem": each.problem}
        for name, each in state.enterprise_managers.items()
    }
    row = {
        "name": state.name,
        "version": state.version,
        "in_flight": state.in_flight,
        "draining": state.draining,
        "enterprise_managers": json.dumps(managers),
    }
    connection.execute(_put(connection.dialect.name), row)
    connection.execute(_FORGET)


def leave(connection: Connection, name: str) -> None:
    """Delete the row of a worker that stops."""
    connection.execute(_LEAVE, {"of_worker": name})


def present(connection: Connection) -> tuple[WorkerState, ...]:
    """All workers that were seen within the last hour."""
    return tuple(_state_from(row) for row in connection.execute(_ALL).mappings())


def _state_from(row: RowMapping) -> WorkerState:
    managers: dict[str, Any] = json.loads(row["enterprise_managers"])
    return WorkerState(
        name=row["name"],
        version=row["version"],
        in_flight=row["in_flight"],
        draining=row["draining"],
        enterprise_managers={
            name: ManagerState(each["up"], datetime.fromisoformat(each["since"]), each["problem"])
            for name, each in managers.items()
        },
        started_at=row["started_at"],
        seen_at=row["seen_at"],
        seconds_ago=max(row["age"], 0) / 1_000_000,
    )
