"""The query string of a search, for the API and for the pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import StringConstraints

from contracts.events import RECORDED, ReasonCode
from worker.clock import SystemClock
from worker.console.problems import Problem
from worker.ledger import Criteria
from worker.ledger.search import read_since

#: The space that is copied with a text is no part of it.
_Stripped = Annotated[str, StringConstraints(strip_whitespace=True)]
_Text = Annotated[_Stripped | None, Query(max_length=1000)]


@dataclass(frozen=True, slots=True)
class Search:
    """The criteria in the query string. An empty field counts as left out."""

    key: _Text = None
    ticket: _Text = None
    requester: _Text = None
    job: _Text = None
    repository: _Text = None
    outcome: _Text = None
    reason: _Text = None
    batch: _Text = None
    since: Annotated[
        _Stripped | None,
        Query(max_length=1000, description="A time (without an offset: in UTC), or an age such as 24h."),
    ] = None
    in_flight: bool = False

    @property
    def fields(self) -> Mapping[str, Any]:
        """The criteria that have a value."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name))}

    def criteria(self) -> Criteria:
        """The criteria for the ledger.

        Raises:
            Problem: a field has a wrong value; 400.
        """
        errors = []
        for name, value in self.fields.items():
            if "\0" in f"{value}":
                errors.append({"field": name, "message": "must not contain NUL"})
        if self.outcome and self.outcome not in RECORDED:
            errors.append({"field": "outcome", "message": f"must be one of {', '.join(RECORDED)}"})
        if self.reason and self.reason not in list(ReasonCode):
            errors.append({"field": "reason", "message": "must be a reason code, such as task_failed"})
        since: datetime | None = None
        if self.since:
            try:
                since = read_since(self.since, SystemClock().now(), zone=UTC)
            except ValueError as error:
                errors.append({"field": "since", "message": str(error)})
        if errors:
            said = "; ".join(f"{error['field']}: {error['message']}" for error in errors)
            raise Problem(400, said, errors)
        return Criteria(
            key=self.key or None,
            ticket=self.ticket or None,
            requester=self.requester or None,
            job=self.job or None,
            repository=self.repository or None,
            outcome=self.outcome or None,
            reason=self.reason or None,
            batch=self.batch or None,
            since=since,
            in_flight=self.in_flight,
        )
