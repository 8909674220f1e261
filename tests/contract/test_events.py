"""What a consumer gets, and may rely on."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

import contracts
from contracts.batches import BATCH_ENDED, BatchEnded, batch_ended_id
from contracts.events import Event, EventData, Outcome, event_id, plan_id, rejection_id, source_of

EXAMPLES = Path(contracts.__file__).parent / "examples"
#: Those of commands.
GOLDEN = sorted(path for path in EXAMPLES.glob("unlink.*.v1.json") if path.stem != BATCH_ENDED)
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize("example", GOLDEN, ids=lambda path: path.stem)
def test_golden_events_are_what_the_models_write(example: Path) -> None:
    """A consumer built against the published examples understands the worker."""
    event = Event.model_validate_json(example.read_bytes())
    assert json.loads(event.to_bytes()) == json.loads(example.read_bytes())
    assert event.type == event.data.outcome.event_type == example.stem
    match event.data.outcome:
        case Outcome.REJECTED:
            assert event.id == rejection_id(b"junk")
        case Outcome.PLANNED:
            assert event.id == plan_id("CHG1", event.time)
        case outcome:
            assert event.id == event_id("CHG1", outcome)


def test_every_outcome_has_a_golden_event() -> None:
    """No kind of event is left undocumented."""
    assert {path.stem for path in GOLDEN} == {each.event_type for each in Outcome}


def test_the_golden_end_of_a_batch_is_what_the_model_writes() -> None:
    """A consumer that closes tickets by it understands the worker, and recognises a repeat after an upgrade."""
    example = (EXAMPLES / f"{BATCH_ENDED}.json").read_bytes()
    event = BatchEnded.model_validate_json(example)
    assert json.loads(event.to_bytes()) == json.loads(example)
    ends = [event_id("CHG2", Outcome.FAILED), event_id("CHG1", Outcome.SUCCEEDED)]
    assert event.id == batch_ended_id("default", "jira", "jira:OPS-4711", ends)
    assert event.routing_key == "batch_ended.default"


def test_event_ids_never_change() -> None:
    """A consumer that remembers IDs still recognises a repeat after the worker was upgraded."""
    assert event_id("CHG1", Outcome.SUCCEEDED) == "c38958fa-2c37-5abe-a491-e3b09f09ef6a"
    assert event_id("CHG1", Outcome.SUCCEEDED, 2) == "2e83d142-eda1-5b35-931d-15128d01da51"
    assert plan_id("CHG1", NOON) == "c684654f-09a6-587c-9758-2bd13245a69d"
    assert rejection_id(b"junk") == "be562303-03a1-5bf2-b8f0-c3e502d32642"
    in_another_zone = NOON.astimezone(timezone(timedelta(hours=2)))
    assert plan_id("CHG1", in_another_zone) == plan_id("CHG1", NOON)
    assert uuid.UUID(event_id("CHG1", Outcome.SUCCEEDED)).version == 5


def test_a_rejection_without_a_key_has_no_subject() -> None:
    """The CloudEvents format knows no null: an attribute that is not there is left out."""
    data = EventData(idempotency_key=None, enterprise_manager="default", outcome=Outcome.REJECTED, received_at=NOON)
    event = Event(
        id="1", source=source_of("default"), type=Outcome.REJECTED.event_type, subject=None, time=NOON, data=data
    )
    content = json.loads(event.to_bytes())
    assert "subject" not in content
    assert content["data"]["idempotency_key"] is None


def test_a_lone_surrogate_does_not_keep_an_event_from_being_written() -> None:
    """A job's name in a server's JSON may hold one; the unlink would end, and nobody could be notified of it."""
    event = Event.model_validate_json((EXAMPLES / "unlink.succeeded.v1.json").read_bytes())
    strange = event.data.model_copy(update={"labels": {"job": "Copy\ud800"}})
    written = json.loads(event.model_copy(update={"data": strange}).to_bytes())
    assert written["data"]["labels"] == {"job": "Copy?"}
    del written["data"]["labels"]
    expected = json.loads(event.to_bytes())
    del expected["data"]["labels"]
    assert written == expected
