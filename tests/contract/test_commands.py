"""What a publisher may send, and what it is told when it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import contracts
from contracts.commands import MAX_MESSAGE_BYTES
from contracts.keys import key_for
from contracts.reading import UnreadableMessageError, read_command

EXAMPLES = Path(contracts.__file__).parent / "examples"
JOB = "d1b85018-2769-45be-89bc-03f66b60e6cb"
LINK = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"
VALID: dict[str, Any] = {
    "command": "unlink.v1",
    "idempotency_key": "CHG1",
    "job": {"id": JOB},
    "repository": {"link_id": LINK},
}


def message(**changes: Any) -> bytes:
    """A valid command with changes; `...` leaves a field out."""
    return json.dumps({name: value for name, value in (VALID | changes).items() if value is not ...}).encode()


def problem_of(body: bytes, content_type: str | None = None) -> str:
    """What a publisher is told about a message."""
    with pytest.raises(UnreadableMessageError) as caught:
        read_command(body, content_type)
    return str(caught.value)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("unlink.v1.*.json")), ids=lambda path: path.stem)
def test_golden_commands_are_read(example: Path) -> None:
    """A publisher that follows the published examples is understood."""
    assert read_command(example.read_bytes()).command == "unlink.v1"


def test_the_vendor_pages_example_has_the_documented_defaults() -> None:
    """A minimal command is as cautious as the documentation says."""
    command = read_command((EXAMPLES / "unlink.v1.vendor-page.json").read_bytes())
    assert (command.job.id, command.repository.link_id) == (JOB, LINK)
    assert (command.enterprise_manager, command.if_absent, command.timeout_seconds) == ("default", "succeed", 600)
    assert not command.dry_run
    assert not command.allow_linked_backups_removal


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"repositry": {"link_id": LINK}}, "repositry: unknown field"),
        ({"job": ...}, "job: missing"),
        ({"job": {}}, "exactly one of id, name is needed; given: none"),
        ({"job": {"id": JOB, "name": "x"}}, "exactly one of id, name is needed; given: id, name"),
        ({"job": {"id": JOB, "nmae": "x"}}, "job.nmae: unknown field"),
        ({"job": {"id": JOB, "backup_server": "b"}}, "backup_server narrows a name"),
        ({"job": {"id": f"urn:veeam:Repository:{JOB}"}}, "job.id"),
        ({"repository": {"uid": LINK, "link_id": LINK}}, "exactly one of link_id, uid, name"),
        ({"repository": {"name": "a\nb"}}, "control characters"),
        ({"idempotency_key": "a b"}, "idempotency_key"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "k" * 201}, "idempotency_key"),
        ({"idempotency_key": "key\n"}, "idempotency_key"),
        ({"enterprise_manager": "a.b"}, "enterprise_manager"),
        ({"dry_run": "true"}, "dry_run"),
        ({"dry_run": 1}, "dry_run"),
        ({"allow_linked_backups_removal": "yes"}, "allow_linked_backups_removal"),
        ({"timeout_seconds": 9}, "timeout_seconds"),
        ({"timeout_seconds": 1501}, "timeout_seconds"),
        ({"timeout_seconds": 60.5}, "timeout_seconds"),
        ({"if_absent": "ignore"}, "if_absent"),
        ({"not_after": "2027-01-31T18:00:00"}, "not_after"),
        ({"not_after": 1800000000}, "not_after"),
        ({"not_after": "1800000000"}, "not_after"),
        ({"not_before": "1800000000000"}, "not_before"),
        ({"requested_by": "x" * 201}, "requested_by"),
        ({"reason": "x" * 1001}, "reason"),
        ({"labels": {str(number): "x" for number in range(21)}}, "labels"),
        ({"ticket": {"system": "jira"}}, "ticket.id: missing"),
        ({"batch": {"id": "OPS-1"}}, "batch.size: missing"),
        ({"batch": {"id": "a b", "size": 2}}, "batch.id"),
        ({"batch": {"id": "OPS-1", "size": 0}}, "batch.size"),
        ({"batch": {"id": "OPS-1", "size": 10_001}}, "batch.size"),
        ({"correlation_id": "x" * 201}, "correlation_id"),
        ({"not_before": "2027-01-02T00:00:00Z", "not_after": "2027-01-02T00:00:00Z"}, "not_before has to be before"),
        ({"command": "unlink.v2"}, "command"),
    ],
)
def test_what_breaks_the_contract_is_refused_and_named(changes: dict[str, Any], named: str) -> None:
    """A mistake in a command is refused with the field's name, never guessed around."""
    assert named in problem_of(message(**changes))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"\xff{}", "not UTF-8 (byte 0)"),
        (b"[]", "the message is a JSON array; a JSON object is needed"),
        (b'"x"', "the message is a JSON string; a JSON object is needed"),
        (b"1", "the message is a JSON number; a JSON object is needed"),
        (b"1.5", "the message is a JSON number; a JSON object is needed"),
        (b"true", "the message is a JSON boolean; a JSON object is needed"),
        (b"null", "the message is JSON null; a JSON object is needed"),
        (b'{"job": 1, "job": 2}', "repeated field 'job'"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"labels": ' + b"[" * 100 + b"]" * 100 + b"}", "nested too deeply; at most 100 levels are read"),
        (b'{"reason": "\\"' + b"[" * 200 + b'", "a": 1}', "a: unknown"),
        (b'"' + b'\\"' * 32_000, "not JSON"),
        (b" " * (MAX_MESSAGE_BYTES + 1), f"at most {MAX_MESSAGE_BYTES}"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, said: str) -> None:
    """Junk on the queue yields a sentence, not a crash."""
    assert said in problem_of(body)


def test_a_field_repeated_inside_is_refused_too() -> None:
    """Of two values for one field, none is picked."""
    body = message().replace(b'"id"', b'"id": "00000000-0000-0000-0000-000000000000", "id"')
    assert "repeated field 'id'" in problem_of(body)


def test_wrong_values_are_not_repeated_in_the_problem() -> None:
    """A secret pasted into the wrong field does not reach logs and events."""
    assert "hunter2" not in problem_of(message(requested_by={"password": "hunter2"}, timeout_seconds="hunter2"))


def test_a_sender_that_can_be_recognised_is() -> None:
    """The ticket and the key of a wrong command come back in its rejection."""
    with pytest.raises(UnreadableMessageError) as caught:
        read_command(message(ticket={"system": "jira", "id": "OPS-1"}, correlation_id="c", dry_run="?"))
    partial = caught.value.partial
    assert partial.ticket is not None
    assert (partial.idempotency_key, partial.ticket.id, partial.correlation_id) == ("CHG1", "OPS-1", "c")
    assert partial.job is not None
    assert partial.repository is not None
    asked = json.loads(message())
    assert (partial.job.id, partial.repository.link_id) == (asked["job"]["id"], asked["repository"]["link_id"])


def test_both_spellings_of_an_id_are_one_command() -> None:
    """The same command with URNs and capitals is no other command, so its key is not taken for reused."""
    spelt = message(job={"id": f"urn:veeam:Job:{JOB.upper()}"})
    assert read_command(spelt).fingerprint == read_command(message()).fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"job": {"id": LINK}},
        {"repository": {"uid": LINK}},
        {"allow_linked_backups_removal": True},
        {"if_absent": "fail"},
        {"enterprise_manager": "branch"},
    ],
)
def test_other_content_has_another_fingerprint(changes: dict[str, Any]) -> None:
    """A key that is used for two different commands is noticed."""
    assert read_command(message(**changes)).fingerprint != read_command(message()).fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"requested_by": "somebody else"},
        {"reason": "again"},
        {"ticket": {"system": "jira", "id": "OPS-2"}},
        {"labels": {"a": "b"}},
        {"timeout_seconds": 601},
        {"not_after": "2031-01-01T00:00:00Z"},
        {"correlation_id": "another run"},
        {"if_absent": "succeed", "enterprise_manager": "default", "allow_linked_backups_removal": False},
    ],
)
def test_the_same_request_in_other_words_is_the_same_command(changes: dict[str, Any]) -> None:
    """A pipeline that a second person runs again would be rejected, although it asks for the same."""
    assert read_command(message(**changes)).fingerprint == read_command(message()).fingerprint


def test_a_dry_run_and_its_real_command_may_share_a_key() -> None:
    """What was planned under a key can be done under it."""
    assert read_command(message(dry_run=True)).fingerprint == read_command(message()).fingerprint


def test_a_command_wrapped_in_a_cloud_event_is_taken() -> None:
    """A publisher that speaks CloudEvents needs no other dialect."""
    event = {"specversion": "1.0", "id": "1", "source": "/jira", "type": "unlink", "data": VALID}
    body = json.dumps(event).encode()
    assert read_command(body, "application/cloudevents+json; charset=utf-8") == read_command(message())
    assert read_command(body) == read_command(message())


@pytest.mark.parametrize("change", [{"specversion": "0.3"}, {"id": ""}, {"source": 1}, {"data": "{}"}])
def test_a_broken_cloud_event_is_refused(change: dict[str, Any]) -> None:
    """A wrapper that is no CloudEvent is refused, not unwrapped on a guess."""
    event = {"specversion": "1.0", "id": "1", "source": "/jira", "type": "unlink", "data": VALID} | change
    assert problem_of(json.dumps(event).encode(), "application/cloudevents+json")


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_bytes_at_all_raise_anything_else(body: bytes) -> None:
    """Whatever is put on the queue, the worker goes on."""
    with pytest.raises(UnreadableMessageError):
        read_command(body)


@given(
    st.sampled_from([*sorted(VALID), "ticket", "labels", "not_after", "reason"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)
    ),
)
def test_hostile_values_are_read_or_refused(field: str, value: object) -> None:
    """One field of any shape is either within the contract or refused with a sentence."""
    try:
        read_command(message(**{field: value}))
    except UnreadableMessageError as error:
        assert str(error)  # noqa: PT017 - either end is right


def test_a_derived_key_is_stable_for_ticket_and_content() -> None:
    """Submitting the same request twice without a key is one unlink; another ticket, or consent, is another."""
    request = VALID | {"ticket": {"system": "jira", "id": "OPS-1"}}
    same = request | {"job": {"id": f"urn:veeam:Job:{JOB.upper()}"}, "reason": "again", "if_absent": "succeed"}
    assert key_for(request) == key_for(same)
    assert read_command(message(idempotency_key=key_for(request))).idempotency_key == key_for(request)
    others: list[dict[str, Any]] = [
        {"ticket": {"system": "jira", "id": "OPS-2"}},
        {"allow_linked_backups_removal": True},
    ]
    assert len({key_for(request), *(key_for(request | other) for other in others)}) == 3


def test_without_a_ticket_each_request_has_a_key_of_its_own() -> None:
    """A link that was put back could not be unlinked again for 90 days, and the answer would say that it was."""
    keys = {key_for(VALID) for _ in range(2)}
    assert len(keys) == 2
    for key in keys:
        assert read_command(message(idempotency_key=key)).idempotency_key == key
