"""The recorded steps of all keys in the order in which they were written, for those who follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, CursorResult, bindparam, case, func, select

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
_FED: Final = select(steps, _of_end.label("event")).outerjoin(unlinks, unlinks.c.key == steps.c.key)
_AFTER: Final = _FED.where(steps.c.id > bindparam("after")).order_by(steps.c.id).limit(bindparam("most"))
_OF_KEY_AFTER: Final = _AFTER.where(steps.c.key == bindparam("of_key"))
_THESE: Final = _FED.where(steps.c.id.in_(bindparam("ids", expanding=True))).order_by(steps.c.id)
_NEWEST: Final = select(func.coalesce(func.max(steps.c.id), 0))


def steps_after(connection: Connection, after: int, most: int, key: str | None = None) -> Sequence[FedStep]:
    """The next steps after this one, of all keys or of one.

    A step with a lower ID may be committed later, because PostgreSQL's sequences count outside of transactions.
    """
    given = {"after": after, "most": most}
    if key is None:
        return _fed(connection.execute(_AFTER, given))
    return _fed(connection.execute(_OF_KEY_AFTER, given | {"of_key": key}))


def steps_with(connection: Connection, ids: Sequence[int]) -> Sequence[FedStep]:
    """Those of these steps that there are."""
    return _fed(connection.execute(_THESE, {"ids": ids}))


def _fed(result: CursorResult[Any]) -> Sequence[FedStep]:
    return [FedStep(row["id"], row["key"], step_from(row), row["event"]) for row in result.mappings()]


def newest_step(connection: Connection) -> int:
    """The ID of the newest step; 0 if there is none."""
    return int(connection.execute(_NEWEST).scalar_one())
