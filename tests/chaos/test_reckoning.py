"""Each broken promise is counted: a chaos suite that cannot see a violation proves nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from tests.chaos.plan import Unlink, draw
from tests.chaos.reckoning import Books, ObservedEvent, Published, reckon
from worker.sandbox.simulated_enterprise_manager import LinkedRepository

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def succeeded(key: str = "K", seconds: float = 1, **changes: Any) -> ObservedEvent:
    """A terminal event, some time after noon."""
    data = {"changed": True, "verified": True, "evidence": "task", "reason": None}
    at = NOON + timedelta(seconds=seconds)
    return replace(
        ObservedEvent(f"id-{key}", key, "succeeded", at, data, b"event", again=False, received_at=at), **changes
    )


@pytest.fixture
def books() -> Books:
    """One command, published twice, answered twice by the same event; its link went at noon, another one is there."""
    return Books(
        unlinks={"K": Unlink("K", "job", LinkedRepository("link", "repository"), alone=True, body=b"")},
        published=[Published("K", confirmed=True), Published("K", confirmed=False)],
        received=[succeeded(outcome="submitted", id="id-submitted"), succeeded(), succeeded()],
        gone={"link": NOON},
        nobodys={"another"},
        deletes={"link": 1},
    )


def test_what_is_as_it_should_be_is_clean(books: Books) -> None:
    """A false alarm would send people looking for what is not there."""
    tally = reckon(books)
    assert tally.clean
    assert (tally.attempted, tally.acknowledged, tally.ok, tally.duplicated) == (1, 1, 1, 1)
    assert tally.deletes == {1: 1}


def test_an_acknowledged_command_without_its_end_is_lost(books: Books) -> None:
    """Promise 1: nothing is lost."""
    assert reckon(replace(books, received=books.received[:1])).lost == ["K"]


def test_an_end_without_an_acknowledged_command_is_recovered(books: Books) -> None:
    """The broker had it, and could not say so: no violation."""
    tally = reckon(replace(books, published=books.published[1:]))
    assert tally.clean
    assert tally.recovered == ["K"]


@pytest.mark.parametrize("event", [succeeded("other"), succeeded(outcome="rejected")])
def test_what_nobody_asked_for_is_unexpected(books: Books, event: ObservedEvent) -> None:
    """An answer without a question, or a rejection of what was right."""
    assert reckon(replace(books, received=[*books.received, event])).unexpected


@pytest.mark.parametrize("gone", [{}, {"link": NOON + timedelta(seconds=2)}])
def test_a_success_before_the_link_went_is_wrongly_claimed(books: Books, gone: dict[str, datetime]) -> None:
    """Promise 3: nothing is claimed that is not so, nor a moment before it is so."""
    assert reckon(replace(books, gone=gone)).wrongly_claimed == ["K"]


def test_a_success_is_judged_by_the_observers_clock_where_the_workers_was_wrong(books: Books) -> None:
    """A worker whose clock jumps would be accused of what it did not do, or excused for what it did."""
    yesterday = NOON - timedelta(days=1)
    late, early = NOON + timedelta(seconds=1), NOON - timedelta(seconds=1)
    assert reckon(replace(books, received=[succeeded(time=yesterday, received_at=late)])).clean
    tomorrow = NOON + timedelta(days=1)
    assert reckon(replace(books, received=[succeeded(time=tomorrow, received_at=early)])).wrongly_claimed == ["K"]


def test_denying_a_removal_is_wrongly_claimed(books: Books) -> None:
    """A link that went by a command whose event says that it changed nothing."""
    event = succeeded(data={"changed": False, "verified": True, "evidence": "absent", "reason": None})
    assert reckon(replace(books, received=[event])).wrongly_claimed == ["K"]


def test_a_link_that_no_command_named_is_missed(books: Books) -> None:
    """Promise 2 and 4: neither a link that no command names nor one that was put back is removed."""
    assert reckon(replace(books, gone={**books.gone, "another": NOON})).hurt == ["another"]
    assert reckon(replace(books, deletes={"link": 1, "another": 1})).hurt == ["another"]


def test_two_ends_of_one_key_contradict_each_other(books: Books) -> None:
    """Promise 1: exactly one terminal event."""
    failed = succeeded(outcome="failed", id="id-failed")
    assert reckon(replace(books, received=[*books.received, failed])).contradicted == ["K"]


def test_a_repeat_with_other_bytes_is_altered(books: Books) -> None:
    """A consumer that drops repeats by ID would keep one of two different stories."""
    assert reckon(replace(books, received=[*books.received, succeeded(body=b"other")])).altered == ["id-K"]


def test_a_message_left_in_a_queue_is_reported(books: Books) -> None:
    """A command that circles in a delay queue for ever would look like one that has ended."""
    assert reckon(replace(books, left={"unlink.delay.5s": 1, "unlink.dead": 0})).left == ["1 in unlink.delay.5s"]


def test_a_worker_that_does_not_recover_is_reported(books: Books) -> None:
    """The others do its work: without this, nobody would see that it needs an operator."""
    assert reckon(replace(books, unready=["worker-1"])).violations["workers that were not ready again"] == ["worker-1"]


INVALID = {"invalid-1": b"{broken"}


def invalid(books: Books, **changes: Any) -> Books:
    """The same, with an invalid message that was published, rejected and dead-lettered."""
    event = succeeded("invalid-1", outcome="rejected", data={"reason": {"code": "invalid_message"}})
    given = {"invalid": INVALID, "dead": [*INVALID.values()], "received": [*books.received, event], **changes}
    return replace(books, published=[*books.published, Published("invalid-1", confirmed=True)], **given)


def test_an_invalid_message_that_is_rejected_and_dead_lettered_is_clean(books: Books) -> None:
    """A rejection says when it was made, and every delivery of the message is rejected anew."""
    tally = reckon(invalid(books))
    assert tally.clean
    assert tally.rejected == 1
    again = succeeded("invalid-1", outcome="rejected", data={"reason": {"code": "invalid_message"}}, body=b"later")
    twice = [*invalid(books).received, again]
    assert reckon(invalid(books, received=twice, dead=2 * [*INVALID.values()])).clean


def test_an_invalid_message_without_its_rejection_is_lost(books: Books) -> None:
    """Promise 1: what cannot be read ends in a `rejected` event."""
    assert reckon(invalid(books, received=books.received)).lost == ["invalid-1"]


def test_an_invalid_message_that_is_run_is_unexpected(books: Books) -> None:
    """Promise 4: a misspelt field is refused, not ignored."""
    received = [*books.received, succeeded("invalid-1", outcome="failed")]
    assert reckon(invalid(books, received=received)).unexpected == ["failed of invalid-1"]


def test_an_invalid_message_without_its_dead_letter_is_missed(books: Books) -> None:
    """Promise 1: what cannot be read goes to the dead-letter queue, too."""
    assert reckon(invalid(books, dead=[])).not_dead == ["invalid-1"]


def test_a_valid_command_among_the_dead_letters_is_reported(books: Books) -> None:
    """An operator would have to replay it."""
    assert reckon(invalid(books, dead=[*INVALID.values(), b"valid"])).strangers == ["valid"]


def test_a_seed_draws_one_plan() -> None:
    """A seed that was printed could not be run again."""
    plans = [draw(Random(seed), 200, 60) for seed in (1, 1, 2)]  # noqa: S311 - to be repeated, not to be unguessable
    assert plans[0] == plans[1] != plans[2]
    assert len(plans[0].unlinks) == 200
    assert {publication.key for publication in plans[0].publications} == {*plans[0].unlinks, *plans[0].invalid}
    assert not plans[0].bystanders & {unlink.link.object_in_job_id for unlink in plans[0].unlinks.values()}
