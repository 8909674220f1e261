"""The batches of a transaction: which keys belong together, and how each of them ended.

The row of a batch is locked while a member joins it, so that no more members join than its size allows. The rows of a
key's members are written while the key's own row is locked, except by the batch's own writes, so that they contain the
latest end.

The event of an ended batch is stored with the batch, so that a repeat does not read all members again. Whatever changes
a member of an ended batch deletes the stored event while it holds the batch's row. Versions before schema 14 do not; so
an event that is older than the end of the member that is asked for is composed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    RowMapping,
    and_,
    bindparam,
    delete,
    exists,
    insert,
    or_,
    select,
    type_coerce,
    update,
)

from contracts.batches import BatchEnded
from contracts.commands import Ticket
from contracts.events import Outcome
from worker.ledger.key_rows import KeyRows
from worker.ledger.search_terms import content_of, whole_of
from worker.ledger.statements import KEYS_AT_ONCE, OLDEST_KEPT, STEPS_AT_ONCE, insert_into
from worker.ledger.tables import LaterNow, batch_members, batches, unlinks
from worker.unlinks.ports.ledger import BatchKey, EndedBatch, MemberEnd, NewMember, Stage

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import ReturningInsert

_members = batch_members.c

#: Columns of a member that has not ended.
_NO_END: Final[dict[str, Any]] = dict.fromkeys(("outcome", "event_id", "ended_at", "ticket", "correlation_id"))


def _same_batch(of: Any) -> ColumnElement[bool]:
    """The condition that a member is of a batch, which columns of `batches` or parameters identify."""
    return and_(_members.enterprise_manager == of[0], _members.sender == of[1], _members.batch == of[2])


_NAMED: Final[tuple[BindParameter[str], ...]] = tuple(
    bindparam(name) for name in ("of_enterprise_manager", "of_sender", "of_batch")
)
#: Members of the batch that the parameters of `named_batch` name.
of_named_batch = _same_batch(_NAMED)
_batch_row = and_(batches.c.enterprise_manager == _NAMED[0], batches.c.sender == _NAMED[1], batches.c.id == _NAMED[2])
_of_key: BindParameter[str] = bindparam("of_key")
_is_rejected = _members.fingerprint.is_(None)


@cache
def _put(dialect: str) -> ReturningInsert[Any]:
    """Insert a batch, or lock the row that is there. Its first size holds."""
    new = insert_into(dialect, batches).values(members=0, joined_at=LaterNow())
    statement: ReturningInsert[Any] = new.on_conflict_do_update(
        index_elements=[batches.c.enterprise_manager, batches.c.sender, batches.c.id],
        set_={"joined_at": new.excluded.joined_at},
    ).returning(batches.c.size, batches.c.members)
    return statement


_MEMBER: Final = select(batch_members).where(of_named_batch, _members.key == _of_key)
_ADD: Final = insert(batch_members)
_COUNT: Final = update(batches).where(_batch_row).values(members=batches.c.members + 1)
_REJECTED: Final = select(_members.key).where(of_named_batch, _is_rejected).limit(1)
_EVICT: Final = delete(batch_members).where(of_named_batch, _members.key == _of_key, _is_rejected)
_CHANGE: Final = update(batch_members).where(of_named_batch, _members.key == _of_key)
_STORE_EVENT: Final = update(batches).where(_batch_row)
_FORGET_EVENT: Final = _STORE_EVENT.values(event=None)
_LOCK_BATCH: Final = select(batches.c.id).where(_batch_row).with_for_update()

_IS_MEMBER: Final = select(_members.key).where(_members.key == _of_key).limit(1)

#: A key's row, locked: no run of it ends or begins meanwhile. SQLite has one writer at a time.
_LOCKED: Final = (
    select(unlinks.c.fingerprint, unlinks.c.stage, unlinks.c.outcome, unlinks.c.event, unlinks.c.finished_at)
    .where(unlinks.c.key == _of_key)
    .with_for_update()
)
_of_content = and_(_members.key == _of_key, _members.fingerprint == bindparam("of_fingerprint"))
_has_another_end = _members.event_id != bindparam("new_event_id")
_END: Final = update(batch_members).where(_of_content, or_(_members.event_id.is_(None), _has_another_end))
#: The batches in which the key counts with another end than its latest.
_WITH_ANOTHER_END: Final = select(_members.enterprise_manager, _members.sender, _members.batch.label("id")).where(
    _of_content, _has_another_end
)
_content_of_key = select(unlinks.c.fingerprint).where(unlinks.c.key == _of_key).scalar_subquery()
_REOPEN: Final = (
    update(batch_members).where(_members.key == _of_key, _members.fingerprint == _content_of_key).values(**_NO_END)
)

_other = batch_members.alias("other")
_under_way = exists().where(
    _other.c.enterprise_manager == batches.c.enterprise_manager,
    _other.c.sender == batches.c.sender,
    _other.c.batch == batches.c.id,
    _other.c.event_id.is_(None),
)
_BATCHES_OF_KEY: Final = (
    select(batches, _members.ended_at.label("member_ended_at"))
    .join(batch_members, _same_batch((batches.c.enterprise_manager, batches.c.sender, batches.c.id)))
    .where(_members.key == _of_key)
    .order_by(batches.c.enterprise_manager, batches.c.sender, batches.c.id)
)
#: Batches that have all of their members, none of them under way.
_COMPLETE: Final = _BATCHES_OF_KEY.where(batches.c.members == batches.c.size, ~_under_way)
_ENDS: Final = select(batch_members).where(of_named_batch).order_by(_members.key)

# --- pruning --------------------------------------------------------------------------------------------------------

#: A key of the batch that the ledger still has. A scalar subquery, which PostgreSQL evaluates for each batch; for an
#: EXISTS it would join whole tables.
_kept_key = (
    select(_members.key)
    .join(unlinks, unlinks.c.key == _members.key)
    .where(_same_batch((batches.c.enterprise_manager, batches.c.sender, batches.c.id)))
    .limit(1)
    .scalar_subquery()
)
#: Batches that no key has joined for the retention time, and of which the ledger has no key any more. Locked; batches
#: that a key joins now are skipped.
_LONG_JOINED: Final = (
    select(batches)
    .where(type_coerce(batches.c.joined_at, BigInteger) < OLDEST_KEPT, _kept_key.is_(None))
    .order_by(batches.c.joined_at)
    .limit(KEYS_AT_ONCE)
    .with_for_update(skip_locked=True)
)
_PRUNE_MEMBERS: Final = delete(batch_members).where(
    of_named_batch, _members.key.in_(select(_members.key).where(of_named_batch).limit(STEPS_AT_ONCE))
)
_PRUNE: Final = delete(batches).where(_batch_row)


class Batching(KeyRows):
    """The part of a transaction that writes batches."""

    def join(self, member: NewMember) -> int | None:
        """Let a key join a batch. None if it is a member now; else the batch's size, which differs or is reached."""
        named = named_batch(member.batch)
        size, count = self._locked_batch(member)
        if size != member.size:
            return size
        row = self._member(named, member.key)
        if row is not None:
            if row["fingerprint"] is None:
                self._change(named, member.key, **_accepted(member), **_NO_END)
            return None
        if count < size:
            self.connection.execute(_COUNT, named)
        elif not self._takes_a_place(named):
            return size
        self._add(named, member.key, **_accepted(member), **_NO_END)
        return None

    def count_rejected(self, member: NewMember, end: MemberEnd, *, given_up: bool) -> None:
        """Count a rejected command as an ended member, unless a command that was accepted made its key a member.

        `given_up`: nothing more is done for the command, so it counts even if its key is under way.
        """
        named = named_batch(member.batch)
        size, count = self._locked_batch(member)
        row = self._member(named, member.key)
        columns = {"fingerprint": None, **_end_columns(end)}
        if row is not None:
            if row["event_id"] == end.event_id:
                return  # of a redelivery, with the time of the first
            if row["fingerprint"] is None or self._counts_as_rejected(row, member, given_up=given_up):
                self._change(named, member.key, **columns)
                self._put_accepted_back(member)
        elif count < size:
            self.connection.execute(_COUNT, named)
            self._add(named, member.key, **columns)

    def _put_accepted_back(self, member: NewMember) -> None:
        """Count the command that claimed the key, not the rejected one, if it names the batch, too."""
        of_key = self._row(member.key)
        if of_key is None or of_key["fingerprint"] == member.fingerprint:
            return
        named = content_of(of_key["command"]).get("batch")
        of = (of_key["enterprise_manager"], of_key["user_id"], named.get("id") if isinstance(named, dict) else None)
        if of == (member.batch.enterprise_manager, member.batch.user_id, member.batch.id):
            self._change(named_batch(member.batch), member.key, fingerprint=of_key["fingerprint"], **_NO_END)
            self.end_members(member.key)

    def end_members(self, key: str) -> None:
        """Record the end of a settled key in its batches."""
        if self.connection.scalar(_IS_MEMBER, {"of_key": key}) is None:
            return
        row = self.connection.execute(_LOCKED, {"of_key": key}).mappings().one_or_none()
        if row is not None and row["stage"] == Stage.SETTLED:
            end = _end_of(key, Outcome(row["outcome"]), bytes(row["event"]), row["finished_at"])
            of_content = {"of_key": key, "of_fingerprint": row["fingerprint"], "new_event_id": end.event_id}
            self._forget_events(self.connection.execute(_WITH_ANOTHER_END, of_content).mappings().all())
            self.connection.execute(_END, {**of_content, **_end_columns(end)})

    def _reopen_members(self, key: str) -> None:
        """Mark the key as under way again in each of its batches, because another run begins."""
        self._forget_events(self.connection.execute(_BATCHES_OF_KEY, {"of_key": key}).mappings().all())
        self.connection.execute(_REOPEN, {"of_key": key})

    def ended_batches(self, key: str, compose: Callable[[EndedBatch], BatchEnded]) -> tuple[BatchEnded, ...]:
        """The events of the batches of a key of which all members have ended: as stored, or composed and stored."""
        complete = self.connection.execute(_COMPLETE, {"of_key": key}).mappings().all()
        events = (_stored_event(row) or self._compose(row, compose) for row in complete)
        return tuple(event for event in events if event is not None)

    def _compose(self, row: RowMapping, compose: Callable[[EndedBatch], BatchEnded]) -> BatchEnded | None:
        """Compose the event of a batch, and store it. None if a member has begun another run meanwhile.

        No member of an ended batch changes while the batch's row is locked.
        """
        batch = _key_of(row)
        named = named_batch(batch)
        self.connection.execute(_LOCK_BATCH, named)
        members = self.connection.execute(_ENDS, named).mappings().all()
        if any(each["event_id"] is None for each in members):
            return None
        event = compose(EndedBatch(batch, row["size"], tuple(_member_end(each) for each in members)))
        self.connection.execute(_STORE_EVENT, {**named, "event": event.to_bytes()})
        return event

    def _forget_events(self, rows: Iterable[RowMapping]) -> None:
        for row in rows:
            self.connection.execute(_FORGET_EVENT, named_batch(_key_of(row)))

    def _prune_batches(self, age: Mapping[str, int]) -> bool:
        """Delete a bounded part of the batches without kept keys. Return whether there may be more."""
        long_joined = self.connection.execute(_LONG_JOINED, age).mappings().all()
        for row in long_joined:
            named = named_batch(_key_of(row))
            if self.connection.execute(_PRUNE_MEMBERS, named).rowcount == STEPS_AT_ONCE:
                return True
            self.connection.execute(_PRUNE, named)
        return len(long_joined) == KEYS_AT_ONCE

    # --- rows -------------------------------------------------------------------------------------------------------

    def _locked_batch(self, member: NewMember) -> tuple[int, int]:
        """The size of a batch, and how many members it has."""
        batch = member.batch
        columns = {
            "enterprise_manager": batch.enterprise_manager,
            "sender": batch.user_id or "",
            "id": batch.id,
            "size": member.size,
        }
        size, members = self.connection.execute(_put(self.connection.dialect.name), columns).one()
        return size, members

    def _member(self, named: Mapping[str, str], key: str) -> RowMapping | None:
        return self.connection.execute(_MEMBER, {**named, "of_key": key}).mappings().one_or_none()

    def _takes_a_place(self, named: Mapping[str, str]) -> bool:
        """Take the place of a rejected command, if there is one."""
        rejected = self.connection.scalar(_REJECTED, named)
        if rejected is None:
            return False
        self.connection.execute(_FORGET_EVENT, named)
        return self.connection.execute(_EVICT, {**named, "of_key": rejected}).rowcount == 1

    def _change(self, named: Mapping[str, str], key: str, **columns: Any) -> None:
        """Change a member of a locked batch."""
        self.connection.execute(_FORGET_EVENT, named)
        self.connection.execute(_CHANGE, {**named, "of_key": key, **columns})

    def _add(self, named: Mapping[str, str], key: str, **columns: Any) -> None:
        of_batch = {name.removeprefix("of_"): value for name, value in named.items()}
        self.connection.execute(_ADD, {**of_batch, "key": key, **columns})

    def _counts_as_rejected(self, row: RowMapping, member: NewMember, *, given_up: bool) -> bool:
        """Whether a member that was accepted is rejected now: its key is another content's, or was never claimed."""
        if row["fingerprint"] != member.fingerprint:
            return False
        of_key = self._row(member.key)
        if of_key is None or of_key["fingerprint"] != member.fingerprint:
            return True
        return given_up and of_key["stage"] != Stage.SETTLED


def named_batch(batch: BatchKey) -> dict[str, str]:
    """The parameters of `of_named_batch`."""
    return {
        "of_enterprise_manager": batch.enterprise_manager,
        "of_sender": batch.user_id or "",
        "of_batch": batch.id,
    }


def _key_of(row: RowMapping) -> BatchKey:
    return BatchKey(row["enterprise_manager"], row["sender"] or None, row["id"])


def _stored_event(row: RowMapping) -> BatchEnded | None:
    """The stored event of a batch; None if there is none, or it is of other ends or of another version."""
    if row["event"] is None:
        return None
    try:
        event = BatchEnded.model_validate_json(row["event"])
    except ValidationError:
        return None
    return event if row["member_ended_at"] <= event.time else None


def _accepted(member: NewMember) -> dict[str, Any]:
    return {"fingerprint": member.fingerprint}


def _end_of(key: str, outcome: Outcome, event: bytes, finished_at: datetime) -> MemberEnd:
    """The end of a key, from its event. An event of another version may lack a field."""
    data = content_of(event)
    event_id, correlation_id = (whole_of(event) or {}).get("id"), data.get("correlation_id")
    return MemberEnd(
        key=key,
        outcome=outcome,
        event_id=event_id if isinstance(event_id, str) and event_id else key,
        ended_at=finished_at,
        ticket=_ticket_of(data),
        correlation_id=correlation_id if isinstance(correlation_id, str) else None,
    )


def _ticket_of(data: Mapping[str, Any]) -> str | None:
    """The ticket as text that the event of the batch can be composed of."""
    ticket = data.get("ticket")
    try:
        Ticket.model_validate(ticket)
    except ValidationError:
        return None
    return json.dumps(ticket, sort_keys=True)


def _end_columns(end: MemberEnd) -> dict[str, Any]:
    return {
        "outcome": end.outcome.value,
        "event_id": end.event_id,
        "ended_at": end.ended_at,
        "ticket": end.ticket,
        "correlation_id": end.correlation_id,
    }


def _member_end(row: RowMapping) -> MemberEnd:
    return MemberEnd(
        key=row["key"],
        outcome=Outcome(row["outcome"]),
        event_id=row["event_id"],
        ended_at=row["ended_at"],
        ticket=row["ticket"],
        correlation_id=row["correlation_id"],
    )
