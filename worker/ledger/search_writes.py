"""Writing the search terms of keys, in the transaction that changes them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Executable, Insert, RowMapping, bindparam, func, update

from worker.ledger.rows import intent_columns
from worker.ledger.search_terms import terms_of, terms_of_event, terms_of_intent
from worker.ledger.statements import insert_into
from worker.ledger.tables import SEARCHED, ForeignText, Moment, search_terms
from worker.unlinks.ports.ledger import Change, Intended, Settled

_SEEN: Final = ("job_id", "job_name", "link_id", "repository_uid", "repository_name")


@cache
def _put(dialect: str, *, over_ended: bool) -> Insert:
    new = insert_into(dialect, search_terms)
    statement: Insert = new.on_conflict_do_update(
        index_elements=[search_terms.c.key],
        set_={name: new.excluded[name] for name in ("received_at", "finished_at", *SEARCHED)},
        where=None if over_ended else search_terms.c.finished_at.is_(None),
    )
    return statement


def _known(*names: str) -> dict[str, ColumnElement[str]]:
    """Set these where a value is given; keep the others."""
    return {name: func.coalesce(bindparam(f"new_{name}", type_=ForeignText()), search_terms.c[name]) for name in names}


_of_key = search_terms.c.key == bindparam("of_key")

_SEE: Final = update(search_terms).where(_of_key).values(**_known(*_SEEN))
_END: Final = (
    update(search_terms)
    .where(_of_key)
    .values(
        finished_at=bindparam("new_finished_at", type_=Moment()),
        outcome=bindparam("new_outcome"),
        **_known(*_SEEN, "reason"),
    )
)


class TermWrites:
    """The search terms that a transaction has still to write: together, in key order, so that no deadlock arises."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name
        self._puts: dict[str, dict[str, Any]] = {}
        self._fills: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, dict[str, Any]] = {}
        self._ended: dict[str, dict[str, Any]] = {}

    def put(self, row: RowMapping) -> None:
        """Write all terms of a key that is ours, from its row in `unlinks`."""
        self._puts[row["key"]] = terms_of(row)

    def fill(self, row: RowMapping) -> None:
        """Write all terms of a key that may be another worker's; those of one that has ended are kept."""
        self._fills[row["key"]] = terms_of(row)

    def change(self, key: str, change: Change) -> None:
        """Write what a change adds to the terms."""
        match change:
            case Intended(intent, _):
                self._seen[key] = _new(key, terms_of_intent(intent_columns(intent)))
            case Settled(outcome, event, finished_at):
                ended = {"finished_at": finished_at, "outcome": outcome.value}
                self._ended[key] = _new(key, {**terms_of_event(event), **ended})

    def write(self) -> None:
        """Write them."""
        for statement, terms in (
            (_put(self._dialect, over_ended=True), self._puts),
            (_put(self._dialect, over_ended=False), self._fills),
            (_SEE, self._seen),
            (_END, self._ended),
        ):
            self._execute(statement, terms)

    def _execute(self, statement: Executable, terms: dict[str, dict[str, Any]]) -> None:
        if terms:
            self._connection.execute(statement, [terms[key] for key in sorted(terms)])


def _new(key: str, terms: Mapping[str, Any]) -> dict[str, Any]:
    return {"of_key": key, **{f"new_{name}": term for name, term in terms.items()}}
