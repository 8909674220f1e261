"""Which event answers which command, and what is run again after it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.events import Outcome
from worker.broker.awaited import Awaited
from worker.broker.received_event import ReceivedEvent
from worker.cli.output.event_text import in_words
from worker.cli.publishing.awaiting import Following
from worker.cli.publishing.drafts import draft
from worker.cli.publishing.retries import RetryOfEarlier

JOB = "d1b85018-2769-45be-89bc-03f66b60e6cb"
LINK = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)
TONIGHT = "2027-02-01T02:00:00Z"


def event_of(outcome: Outcome, *, run: int = 1, key: str = "K", from_ledger: bool = True) -> ReceivedEvent:
    """An event of this key."""
    data = {"outcome": outcome, "run": run, "enterprise_manager": "default", "idempotency_key": key}
    content = {"id": f"{outcome}-{run}", "subject": key, "time": NOON.isoformat(), "data": data}
    return ReceivedEvent(json.dumps(content).encode(), content, from_ledger)


def earlier(**fields: Any) -> RetryOfEarlier:
    """Retries of what had ended before."""
    command = {"idempotency_key": "K", "job": {"id": JOB}, "repository": {"link_id": LINK}, **fields}
    return RetryOfEarlier([draft(command)])


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED])
def test_a_retry_has_the_times_of_the_command_that_asks_for_it(outcome: Outcome) -> None:
    """A link that is to go tonight would go at once; or what expired would expire again, for ever."""
    again = earlier(not_before=TONIGHT, not_after="2027-02-01T04:00:00Z", requested_by="Ada", reason="again")
    published = again(event_of(outcome, run=3))
    assert published is not None
    assert json.loads(published.body) == {
        "command": "retry.v1",
        "idempotency_key": "K",
        "enterprise_manager": "default",
        "run": 3,
        "not_before": TONIGHT,
        "not_after": "2027-02-01T04:00:00Z",
        "requested_by": "Ada",
        "reason": "again",
    }


def test_a_key_is_retried_once() -> None:
    """The end of each run may be answered from the ledger, too: one call started 244 runs, each with a DELETE."""
    again = earlier()
    assert again(event_of(Outcome.FAILED)) is not None
    assert again(event_of(Outcome.FAILED, run=2)) is None


@pytest.mark.parametrize(
    "event",
    [
        event_of(Outcome.SUCCEEDED),
        event_of(Outcome.FAILED, from_ledger=False),
        event_of(Outcome.FAILED, key="of another"),
        event_of(Outcome.REJECTED),
    ],
)
def test_what_is_not_to_be_run_again_is_left_alone(event: ReceivedEvent) -> None:
    """A link that was put back on purpose would be removed; or what fails now be tried again at once."""
    assert earlier()(event) is None


def test_whether_it_had_ended_before_is_not_told_by_this_host_s_clock() -> None:
    """Where it is ahead of the worker's, an unlink that was just done was said to have ended before."""
    fresh = event_of(Outcome.SUCCEEDED, from_ledger=False)  # made years before this host's time of day, or after
    assert "ledger" not in in_words(fresh)
    assert "answered from the ledger: it had ended at" in in_words(event_of(Outcome.SUCCEEDED))


def test_who_is_answered_with_an_old_failure_is_told_how_to_run_it_again() -> None:
    """The same call again is answered again, and a newcomer would try it for ever."""
    assert "`unlink-worker retry K` runs it again" in in_words(event_of(Outcome.FAILED))
    assert "runs it again" not in in_words(event_of(Outcome.SUCCEEDED))
    assert "runs it again" not in in_words(event_of(Outcome.FAILED, from_ledger=False))


def test_a_dry_run_is_never_run_again_as_a_real_command() -> None:
    """The stored command of the key is a real one: whoever asks for a plan would remove the link."""
    assert earlier(dry_run=True)(event_of(Outcome.FAILED)) is None


def test_a_run_that_had_succeeded_answers_its_retry() -> None:
    """Whoever waits would wait for ever: it is not run again, and its event is the answer."""
    awaited = Awaited("K", b"", after_run=2)
    assert awaited.is_answered_by(event_of(Outcome.SUCCEEDED, run=2))
    assert awaited.is_answered_by(event_of(Outcome.FAILED, run=3))
    assert not awaited.is_answered_by(event_of(Outcome.FAILED, run=2))
    assert not awaited.is_answered_by(event_of(Outcome.SUCCEEDED, run=1))


def test_a_dry_run_and_a_real_command_of_one_key_are_both_waited_for() -> None:
    """A file with both would exit with 0 while the real one fails."""
    following = Following([Awaited("K", b"real"), Awaited("K", b"dry", dry_run=True)])
    assert following.note(event_of(Outcome.PLANNED))
    assert len(following.open) == 1
    assert following.note(event_of(Outcome.FAILED))
    assert (following.open, following.exit_status) == ({}, 1)
