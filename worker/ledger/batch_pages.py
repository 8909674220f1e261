"""The members of the batches with an ID, page by page, as the console shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, RowMapping, bindparam, select

from contracts.events import Outcome
from worker.ledger.batch_states import BatchState, batches_with_id
from worker.ledger.batches import named_batch, of_named_batch
from worker.ledger.records import Record
from worker.ledger.rows import record_from
from worker.ledger.search import ROWS, cancellations_of
from worker.ledger.tables import batch_members
from worker.unlinks.ports.ledger import BatchKey, CancelRequest


@dataclass(frozen=True, slots=True)
class BatchMember:
    """A member of a batch. `outcome` and `ended_at` are None while it is under way.

    `record` is the key's row; None if the command was rejected, or if the key was pruned.
    """

    batch: BatchKey
    key: str
    outcome: Outcome | None
    ended_at: datetime | None
    record: Record | None


@dataclass(frozen=True, slots=True)
class MemberCursor:
    """A place among the members of all batches with an ID: after this key of this batch."""

    batch: BatchKey
    key: str


@dataclass(frozen=True, slots=True)
class BatchPage:
    """The batches with an ID, and some of their members by batch and key. `next`: where the next page begins."""

    batches: tuple[BatchState, ...]
    members: tuple[BatchMember, ...]
    next: MemberCursor | None


_members = batch_members.c
_MEMBERS: Final = (
    select(batch_members)
    .where(of_named_batch, _members.key > bindparam("after"))
    .order_by(_members.key)
    .limit(bindparam("most"))
)


def batch_page(connection: Connection, batch: str, after: MemberCursor | None, limit: int) -> BatchPage:
    """Read the batches with an ID, and `limit` members from `after` on."""
    states = batches_with_id(connection, batch)
    found: list[tuple[BatchKey, RowMapping]] = []
    reached = after is None
    for state in states:
        of, key = BatchKey(state.enterprise_manager, state.user_id, state.id), ""
        if after is not None and not reached:
            if of != after.batch:
                continue
            reached, key = True, after.key
        most = limit + 1 - len(found)
        if most > 0:
            of_batch = {**named_batch(of), "after": key, "most": most}
            found += [(of, row) for row in connection.execute(_MEMBERS, of_batch).mappings()]
    members = _with_records(connection, found[:limit])
    last = members[-1] if len(found) > limit else None
    following = None if last is None else MemberCursor(last.batch, last.key)
    return BatchPage(states, tuple(members), following)


def _with_records(connection: Connection, found: list[tuple[BatchKey, RowMapping]]) -> list[BatchMember]:
    keys = [row["key"] for _, row in found]
    rows = {row["key"]: row for row in connection.execute(ROWS, {"of_keys": keys}).mappings()} if keys else {}
    cancellations = cancellations_of(connection, keys)
    return [
        BatchMember(
            batch=batch,
            key=row["key"],
            outcome=None if row["event_id"] is None else Outcome(row["outcome"]),
            ended_at=row["ended_at"],
            record=_record_of(row, rows.get(row["key"]), cancellations.get(row["key"], ())),
        )
        for batch, row in found
    ]


def _record_of(member: RowMapping, row: RowMapping | None, cancellations: Iterable[CancelRequest]) -> Record | None:
    """The key's record, unless the member is another command with the same key."""
    if row is None or row["fingerprint"] != member["fingerprint"]:
        return None
    return record_from(row, cancellations)
