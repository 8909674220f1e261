"""Searching the ledger: what is asked for, and the statement that finds it.

Each criterion has an index of its own that holds the keys in the order of the results, so that a page costs the same
however many keys there are. Of several criteria, the database reads the index that it expects to be the shortest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import product
from typing import Final

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, select, tuple_, union

from worker.ledger.records import Record
from worker.ledger.rows import cancellation_from
from worker.ledger.search_terms import fold, fold_id
from worker.ledger.statements import WHOLE_ROW
from worker.ledger.tables import Moment, batch_members, cancellations, search_terms, storable, unlinks
from worker.unlinks.ports.ledger import CancelRequest

_UUID: Final = re.compile(r"(?:.*:)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


_AGE: Final = re.compile(r"(\d{1,6})([mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_since(text: str, now: datetime, zone: tzinfo | None = None) -> datetime:
    """A time such as `2026-03-01` or `2026-03-01T12:00+01:00`, or an age such as `90m`, `24h`, `7d`, `4w`.

    A time without an offset is in `zone`, or else in that of this host.

    Raises:
        ValueError: it is neither.
    """
    try:
        age = _AGE.fullmatch(text)
        if age is not None:
            return now - timedelta(**{_UNITS[age[2]]: int(age[1])})
        moment = datetime.fromisoformat(text)
        return (moment.replace(tzinfo=zone) if moment.tzinfo is None else moment).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is neither a time such as 2026-03-01 or 2026-03-01T12:00+01:00, nor an age such as 24h or 7d"
        ) from None


@dataclass(frozen=True, slots=True)
class Criteria:
    """What is searched for. All given criteria must hold. Texts must match as a whole; case does not matter.

    Args:
        key: the idempotency key.
        ticket: the ticket's ID.
        requester: who asked, as the command says, or as the broker verified it.
        job: the job's ID or name, as Enterprise Manager showed it, or as the command named it if it was not read.
        repository: the repository's UID, the link's ID, or the repository's name, likewise. Where no name of the job
            or of the repository is known otherwise, the labels `job` and `repository` count, which offboarding sets.
        outcome: what became of it.
        reason: the reason code.
        batch: the ID of a batch that the key has joined.
        since: only keys that were received then or later.
        in_flight: only keys that have not ended.
    """

    key: str | None = None
    ticket: str | None = None
    requester: str | None = None
    job: str | None = None
    repository: str | None = None
    outcome: str | None = None
    reason: str | None = None
    batch: str | None = None
    since: datetime | None = None
    in_flight: bool = False


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the results: after this key."""

    received_at: datetime
    key: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some results, newest first.

    `next` is where the next page begins; None if there is none. Not `complete`: keys from before an upgrade are still
    being made searchable, and may be missing.
    """

    records: tuple[Record, ...]
    next: Cursor | None
    complete: bool


_ORDER: Final = (search_terms.c.received_at.desc(), search_terms.c.key.desc())


def matching(criteria: Criteria, after: Cursor | None, limit: int) -> Select[tuple[str, datetime]]:
    """The keys and times of the next `limit` results, newest first.

    A value that may stand in one of several columns is looked up in each, and the results are merged: one condition
    with OR could not be answered in the order of an index.
    """
    always, alternatives = _conditions(criteria)
    if after is not None:
        place = tuple_(bindparam(None, after.received_at, type_=Moment()), after.key)
        always.append(tuple_(search_terms.c.received_at, search_terms.c.key) < place)
    found = [
        select(search_terms.c.key, search_terms.c.received_at).where(*always, *chosen).order_by(*_ORDER).limit(limit)
        for chosen in product(*alternatives)
    ]
    if len(found) == 1:
        return found[0]
    merged = union(*(select(each.subquery()) for each in found)).subquery()
    return (
        select(merged.c.key, merged.c.received_at)
        .order_by(merged.c.received_at.desc(), merged.c.key.desc())
        .limit(limit)
    )


def _conditions(criteria: Criteria) -> tuple[list[ColumnElement[bool]], list[list[ColumnElement[bool]]]]:
    """The conditions that must all hold, and the groups of which at least one condition each must hold."""
    terms = search_terms.c
    always: list[ColumnElement[bool]] = []
    for column, value in (
        (terms.ticket, criteria.ticket),
        (terms.outcome, criteria.outcome),
        (terms.reason, criteria.reason),
    ):
        if value is not None:
            always.append(column == fold(value))
    if criteria.key is not None:
        always.append(terms.key == criteria.key)
    if criteria.since is not None:
        always.append(terms.received_at >= criteria.since)
    if criteria.in_flight:
        always.append(terms.finished_at.is_(None))
    alternatives = []
    if criteria.requester is not None:
        alternatives.append([column == fold(criteria.requester) for column in (terms.requester, terms.user_id)])
    if criteria.job is not None:
        alternatives.append(_by_id_or_name(criteria.job, [terms.job_id], terms.job_name))
    if criteria.batch is not None:
        alternatives.append([terms.batch == fold(criteria.batch), terms.key.in_(_keys_of_batch(criteria.batch))])
    if criteria.repository is not None:
        ids = [terms.repository_uid, terms.link_id]
        alternatives.append(_by_id_or_name(criteria.repository, ids, terms.repository_name))
    return always, alternatives


def _keys_of_batch(batch: str) -> Select[tuple[str]]:
    """Keys that joined the batch, also after they were claimed: then the stored command does not name it.

    A batch has 10,000 keys at most, so that they can be sorted. A rejected command is no member under its key.
    """
    accepted = batch_members.c.fingerprint.is_not(None)
    return select(batch_members.c.key).where(func.lower(batch_members.c.batch) == storable(batch).lower(), accepted)


def _by_id_or_name(
    value: str, ids: Sequence[ColumnElement[str]], name: ColumnElement[str]
) -> list[ColumnElement[bool]]:
    if _UUID.fullmatch(value):
        return [column == fold_id(value) for column in ids]
    return [name == fold(value)]


#: The rows of some keys.
ROWS: Final = select(*WHOLE_ROW).where(unlinks.c.key.in_(bindparam("of_keys", expanding=True)))

_CANCELLATIONS: Final = select(cancellations).where(cancellations.c.key.in_(bindparam("of_keys", expanding=True)))


def cancellations_of(connection: Connection, keys: Sequence[str]) -> dict[str, list[CancelRequest]]:
    """The requests to cancel runs of these keys, by key."""
    found: dict[str, list[CancelRequest]] = {}
    for row in connection.execute(_CANCELLATIONS, {"of_keys": keys}).mappings():
        found.setdefault(row["key"], []).append(cancellation_from(row))
    return found
