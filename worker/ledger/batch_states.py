"""Batches as people ask for them: how many of their commands have come, and how many have ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, and_, bindparam, exists, func, select

from contracts.events import Outcome
from worker.ledger.tables import batch_members, batches

_members = batch_members.c
_of_one_batch = and_(
    _members.enterprise_manager == batches.c.enterprise_manager,
    _members.sender == batches.c.sender,
    _members.batch == batches.c.id,
)


@dataclass(frozen=True, slots=True)
class BatchState:
    """A batch of `size` commands, of which `members` have come. `ended` counts those that have ended, by outcome.

    `user_id` is the broker user who published the commands, verified by the broker.
    """

    enterprise_manager: str
    user_id: str | None
    id: str
    size: int
    members: int
    ended: Counter[Outcome]

    @property
    def missing(self) -> int:
        """How many commands have not come. The batch cannot end without them."""
        return self.size - self.members

    @property
    def under_way(self) -> int:
        """How many members have not ended."""
        return self.members - self.ended.total()

    @property
    def has_ended(self) -> bool:
        """Whether all commands have come, and none is under way."""
        return not self.missing and not self.under_way

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "id": self.id,
            "enterprise_manager": self.enterprise_manager,
            "user_id": self.user_id,
            "size": self.size,
            "members": self.members,
            "missing": self.missing,
            "under_way": self.under_way,
            "ended": {outcome.value: self.ended[outcome] for outcome in sorted(self.ended)},
        }

    @property
    def in_words(self) -> str:
        """For people, on one line."""
        missing = f", {self.missing} missing" if self.missing else ""
        under_way = f", {self.under_way} under way" if self.under_way else ""
        ends = "".join(f", {self.ended[outcome]} {outcome.replace('_', ' ')}" for outcome in sorted(self.ended))
        return f"{self.id}: {self.members} of {self.size} commands{missing}{under_way}{ends}"


_SHOWN: Final = (batches.c.enterprise_manager, batches.c.sender, batches.c.id, batches.c.size, batches.c.members)
_COUNTS: Final = (
    select(*_SHOWN, _members.outcome, func.count().label("count"))
    .join(batch_members, _of_one_batch)
    .group_by(*_SHOWN, _members.outcome)
    .order_by(batches.c.id, batches.c.enterprise_manager, batches.c.sender)
)
_BY_ID: Final = _COUNTS.where(func.lower(_members.batch) == bindparam("of_id"))
_of_key = batch_members.alias("of_key")
_BY_KEY: Final = _COUNTS.where(
    exists().where(
        _of_key.c.key == bindparam("of_key"),
        _of_key.c.enterprise_manager == batches.c.enterprise_manager,
        _of_key.c.sender == batches.c.sender,
        _of_key.c.batch == batches.c.id,
        _of_key.c.fingerprint.is_not(None),
    )
)


def batches_with_id(connection: Connection, batch: str) -> tuple[BatchState, ...]:
    """The batches with this ID, without regard to case: senders and Enterprise Managers have their own."""
    return _states(connection, _BY_ID, {"of_id": batch.lower()})


def batches_with_key(connection: Connection, key: str) -> tuple[BatchState, ...]:
    """The batches that a key has joined."""
    return _states(connection, _BY_KEY, {"of_key": key})


def _states(connection: Connection, statement: Any, parameters: dict[str, str]) -> tuple[BatchState, ...]:
    states: dict[tuple[str, str, str], BatchState] = {}
    for row in connection.execute(statement, parameters).mappings():
        of = (row["enterprise_manager"], row["sender"], row["id"])
        new = BatchState(of[0], of[1] or None, of[2], row["size"], row["members"], Counter())
        state = states.setdefault(of, new)
        if row["outcome"] is not None:
            state.ended[Outcome(row["outcome"])] += row["count"]
    return tuple(states.values())
