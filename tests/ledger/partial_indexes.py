"""The indexes with a condition, as `worker.ledger.tables` would have them: only the migrations make them.

The tables leave them out, since an option of PostgreSQL's imports its dialect, which takes time and memory.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Index

from worker.ledger.tables import SEARCHED, batch_members, in_flight, search_terms, unlinks, unsettled

#: At most one unlink of a job between its intent and its end: an edit of a job is read-modify-write on the other side.
one_in_flight_per_job = Index(
    "unlinks_one_in_flight_per_job",
    unlinks.c.enterprise_manager,
    unlinks.c.job_id,
    unique=True,
    sqlite_where=in_flight(),
    postgresql_where=in_flight(),
)

#: For the renewal, which must not read the settled keys of three months.
unsettled_by_worker = Index(
    "unlinks_unsettled_by_worker", unlinks.c.worker, sqlite_where=unsettled, postgresql_where=unsettled
)

_unfinished = search_terms.c.finished_at.is_(None)

search_terms_in_flight = Index(
    "search_terms_in_flight",
    search_terms.c.received_at,
    search_terms.c.key,
    sqlite_where=_unfinished,
    postgresql_where=_unfinished,
)


def _of_batch(name: str, condition: ColumnElement[bool]) -> Index:
    """The members of a batch that meet a condition."""
    columns = (batch_members.c[column] for column in ("enterprise_manager", "sender", "batch"))
    return Index(f"batch_members_{name}", *columns, sqlite_where=condition, postgresql_where=condition)


#: For the query whether any member is under way, at each end.
batch_members_under_way = _of_batch("under_way", batch_members.c.event_id.is_(None))
batch_members_rejected = _of_batch("rejected", batch_members.c.fingerprint.is_(None))


def _by(column: str) -> Index:
    """For a search by one column: the results in their order, newest first if read backwards."""
    known = search_terms.c[column].is_not(None)
    return Index(
        f"search_terms_by_{column}",
        search_terms.c[column],
        search_terms.c.received_at,
        search_terms.c.key,
        sqlite_where=known,
        postgresql_where=known,
    )


search_terms_by = {column: _by(column) for column in SEARCHED}
