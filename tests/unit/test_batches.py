"""The event that says that a batch has ended."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from contracts.batches import MOST_KEYS
from contracts.events import Outcome
from worker.unlinks.batches import compose
from worker.unlinks.ports.ledger import BatchKey, EndedBatch, MemberEnd

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ticket(number: str) -> str:
    """A ticket as the ledger has it."""
    return json.dumps({"system": "jira", "id": number})


def end(key: str, outcome: Outcome = Outcome.FAILED, ticket: str | None = None, correlation: str = "c") -> MemberEnd:
    """The end of a member."""
    return MemberEnd(key, outcome, f"event of {key}", NOON, ticket, correlation)


def ended(*members: MemberEnd) -> EndedBatch:
    """A batch of these members."""
    return EndedBatch(BatchKey("default", "jira", "OPS-1"), len(members), members)


def test_of_many_failures_the_first_are_named_and_the_others_counted() -> None:
    """The event of ten thousand failures would be larger than what intermediaries forward."""
    failures = [end(f"CHG{number:04}") for number in range(MOST_KEYS + 7)]
    data = compose(ended(*failures, end("DONE", Outcome.SUCCEEDED))).data
    assert data.not_succeeded == [f"CHG{number:04}" for number in range(MOST_KEYS)]
    assert (data.not_succeeded_more, data.all_succeeded) == (7, False)


@pytest.mark.parametrize("other", [ticket("OPS-2"), None])
def test_a_ticket_or_correlation_that_not_all_members_have_is_that_of_none(other: str | None) -> None:
    """A ticket would be closed by a batch in which there are unlinks of another."""
    alike = compose(ended(end("A", ticket=ticket("OPS-1")), end("B", ticket=ticket("OPS-1")))).data
    assert alike.ticket is not None
    assert (alike.ticket.id, alike.correlation_id) == ("OPS-1", "c")
    mixed = compose(ended(end("A", ticket=ticket("OPS-1")), end("B", ticket=other, correlation="d"))).data
    assert (mixed.ticket, mixed.correlation_id) == (None, None)
