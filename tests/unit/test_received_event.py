"""What anybody may publish to the events exchange, as the tools read it: whoever waits must get no stack trace."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from contracts.events import Event, Outcome
from contracts.published import examples
from tests.broker.events import make_event
from tests.broker.hostile_events import NO_EVENTS, ODD_EVENTS, event_bytes
from worker.broker.awaited import Awaited
from worker.broker.received_event import NoEventError, ReceivedEvent, event_in
from worker.cli.output.event_text import in_words
from worker.cli.publishing.awaiting import Following
from worker.cli.publishing.drafts import draft
from worker.cli.publishing.retries import RetryOfEarlier
from worker.cli.watch import _Shown

JOB = "d1b85018-2769-45be-89bc-03f66b60e6cb"
LINK = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"


def read(body: bytes) -> ReceivedEvent:
    """The event of a message."""
    event = event_in(body, {"unlink-from-ledger": True})
    assert event is not None
    return event


def table_of(event: ReceivedEvent) -> bytes:
    """The table of `watch` with this event, as a terminal receives it."""
    shown = _Shown()
    shown.events.append(event)
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    Console(file=screen, width=100, height=10, force_terminal=True).print(shown)
    screen.seek(0)
    return screen.buffer.read()


@pytest.mark.parametrize("name", NO_EVENTS)
def test_what_is_no_event_of_a_worker_is_refused(name: str) -> None:
    """`watch` and `submit --wait` ended in a stack trace, each at another place where a type was relied upon."""
    with pytest.raises(NoEventError):
        event_in(NO_EVENTS[name])


@pytest.mark.parametrize("name", ODD_EVENTS)
def test_an_odd_event_is_shown_in_every_form(name: str) -> None:
    """A lone surrogate in a name, or an outcome that a later version knows, ended the tool."""
    event = read(ODD_EVENTS[name])
    assert json.loads(event.line.encode()) == json.loads(ODD_EVENTS[name])
    assert "\n" not in event.line
    assert "\r" not in event.line
    assert in_words(event).isprintable()
    table_of(event)


@pytest.mark.parametrize("name", ODD_EVENTS)
def test_an_odd_event_ends_no_wait_in_a_stack_trace(name: str) -> None:
    """The command is published, and whoever waits for its end would lose sight of it."""
    command = {"idempotency_key": "K", "job": {"id": JOB}, "repository": {"link_id": LINK}}
    event = read(ODD_EVENTS[name])
    following = Following([Awaited("K", b"{}")])
    following.note(event)
    assert isinstance(following.exit_status, int)
    RetryOfEarlier([draft(command)])(event)


def test_an_outcome_of_a_later_version_ends_nothing() -> None:
    """The terminal outcomes are a closed set: the real end would not be waited for."""
    following = Following([Awaited("K", b"{}")])
    assert not following.note(read(ODD_EVENTS["an outcome of tomorrow"]))
    assert len(following.open) == 1


def test_a_retry_goes_where_the_command_went() -> None:
    """Whoever may publish events could send it to the queue of another Enterprise Manager."""
    asked = draft({"idempotency_key": "K", "job": {"id": JOB}, "repository": {"link_id": LINK}})
    again = RetryOfEarlier([asked])(read(event_bytes({"outcome": "failed", "enterprise_manager": "another one"})))
    assert again is not None
    assert again.enterprise_manager == "default"


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    """No terminal, no pipe and no answer of the console can encode it."""
    assert read(ODD_EVENTS["a lone surrogate in the key"]).key == "?"
    assert read(event_bytes({"job": {"name": "\U0001f600"}})).data["job"]["name"] == "\U0001f600"


@pytest.mark.parametrize("outcome", Outcome)
def test_every_event_of_a_worker_is_read(outcome: Outcome) -> None:
    """A type that is demanded and not kept would hide the end of a command."""
    for example in [*examples(outcome.event_type), json.loads(make_event(outcome=outcome).to_bytes())]:
        event = read(json.dumps(example).encode())
        assert (event.outcome, event.content) == (outcome, example)
        assert event.made_at == Event.model_validate_json(json.dumps(example)).time


def test_the_event_of_a_batch_is_no_stranger() -> None:
    """`watch` would say that somebody disturbs the exchange whenever a batch ends."""
    (example, *_) = examples("unlink.batch_ended.v1")
    assert event_in(json.dumps(example).encode()) is None
