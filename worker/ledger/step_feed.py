"""The recorded steps of all keys in the order in which they were written, for those who follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, bindparam, case, func, select

from worker.ledger.records import RecordedStep, Step
from worker.ledger.rows import step_from
from worker.ledger.tables import steps, unlinks


@dataclass(frozen=True, slots=True)
class FedStep:
    """A step of a key. `event`: the key's terminal event, if the step is an end that no later run has replaced."""

    id: int
    key: str
    step: RecordedStep
    event: bytes | None


_of_end = case((steps.c.step == Step.SETTLED.value, unlinks.c.event), else_=None)
_AFTER: Final = (
    select(steps, _of_end.label("event"))
    .outerjoin(unlinks, unlinks.c.key == steps.c.key)
    .where(steps.c.id > bindparam("after"))
    .order_by(steps.c.id)
    .limit(bindparam("most"))
)
_NEWEST: Final = select(func.coalesce(func.max(steps.c.id), 0))


def steps_after(connection: Connection, after: int, most: int) -> Sequence[FedStep]:
    """The next steps after this one. A step with a lower ID may be committed later: PostgreSQL's sequences do so."""
    rows = connection.execute(_AFTER, {"after": after, "most": most}).mappings()
    return [FedStep(row["id"], row["key"], step_from(row), row["event"]) for row in rows]


def newest_step(connection: Connection) -> int:
    """The ID of the newest step; 0 if there is none."""
    return int(connection.execute(_NEWEST).scalar_one())
