"""Within v1, nothing may change that those who were built against the released contract would stumble over."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import contracts
from contracts.published import COMMANDS, all_schemas
from tests.contract.evolution import broken_consumers, broken_publishers

Change = Callable[[dict[str, Any]], object]

RELEASED = Path(contracts.__file__).parent / "released" / "v1"
SCHEMAS = all_schemas()
UNLINK = SCHEMAS["unlink.v1"]
FAILED = SCHEMAS["unlink.failed.v1"]
SUCCEEDED = SCHEMAS["unlink.succeeded.v1"]


def changed(schema: dict[str, Any], change: Change) -> dict[str, Any]:
    """The schema after a made-up change."""
    after = copy.deepcopy(schema)
    change(after)
    return after


def at(schema: dict[str, Any], path: str) -> Any:
    """A place in a schema; `/` between the steps."""
    for step in path.split("/"):
        schema = schema[step]
    return schema


def put(path: str, value: Any) -> Change:
    """The change that puts a value there."""
    folder, _, name = path.rpartition("/")
    return lambda schema: (at(schema, folder) if folder else schema).__setitem__(name, value)


def drop(path: str) -> Change:
    """The change that takes a keyword or a field away."""
    folder, _, name = path.rpartition("/")
    return lambda schema: (at(schema, folder) if folder else schema).pop(name)


def extend(path: str, *values: Any) -> Change:
    """The change that adds to a list."""
    return lambda schema: at(schema, path).extend(values)


def withdraw(path: str, value: Any) -> Change:
    """The change that takes a value out of a list."""
    return lambda schema: at(schema, path).remove(value)


def both(*changes: Change) -> Change:
    """Several changes at once."""
    return lambda schema: [change(schema) for change in changes]


# --- the contract as it is now --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(RELEASED.glob("*.json")), ids=lambda file: file.stem)
def test_nothing_that_was_released_is_broken(file: Path) -> None:
    """Publishers and consumers of the last release go on working with this worker (else: contracts/README.md)."""
    released = json.loads(file.read_text())
    assert file.stem in SCHEMAS, "a released message is gone"
    compare = broken_publishers if file.stem in COMMANDS else broken_consumers
    assert compare(released, SCHEMAS[file.stem]) == []


def test_there_is_a_release_to_compare_with() -> None:
    """The comparison is not of nothing."""
    assert {file.stem for file in RELEASED.glob("*.json")} >= {"unlink.v1", "unlink.succeeded.v1"}


# --- made-up changes of a command -----------------------------------------------------------------------------------

BREAKING_FOR_PUBLISHERS = {
    "a field removed": drop("properties/labels"),
    "a field renamed": both(drop("properties/if_absent"), put("properties/when_absent", {"type": "string"})),
    "a new required field": both(put("properties/site", {"type": "string"}), extend("required", "site")),
    "a field made required": extend("required", "ticket"),
    "a nullable field no longer so": put("properties/reason/type", "string"),
    "another type": put("properties/timeout_seconds", {"type": "string"}),
    "a lower maximum": put("properties/timeout_seconds/maximum", 900),
    "a higher minimum": put("properties/timeout_seconds/minimum", 30),
    "a shorter text": put("properties/requested_by/maxLength", 100),
    "a new bound": put("properties/idempotency_key/maxLength", 100),
    "fewer labels": put("properties/labels/maxProperties", 10),
    "shorter labels": put("properties/labels/additionalProperties/maxLength", 10),
    "a value of an enumeration removed": put("properties/if_absent/enum", ["succeed"]),
    "an enumeration where any text was": put("properties/enterprise_manager/enum", ["default"]),
    "another pattern": put("properties/idempotency_key/pattern", "^[a-z]+$"),
    "a new pattern": put("properties/requested_by/pattern", "@"),
    "another command": put("properties/command/const", "unlink.v2"),
    "another default": put("properties/timeout_seconds/default", 60),
    "a default turned round": put("properties/dry_run/default", True),
    "a way to name the job removed": both(
        drop("$defs/JobReference/properties/name"), put("$defs/JobReference/oneOf", [{"required": ["id"]}])
    ),
    "a part no longer nullable": put("properties/ticket", {"$ref": "#/$defs/Ticket"}),
    "a required field inside a part": extend("$defs/Ticket/required", "url"),
    "a narrower text inside a part": put("$defs/Ticket/properties/id/maxLength", 20),
    "a keyword that nobody knows": put("properties/job", {"$ref": "#/$defs/JobReference", "dependentRequired": {}}),
    "no longer an object": put("type", "array"),
}

HARMLESS_FOR_PUBLISHERS = {
    "nothing": lambda _schema: None,
    "a new optional field": put("properties/site", {"type": "string", "default": "all"}),
    "a required field made optional": withdraw("required", "repository"),
    "a field made nullable": put("properties/timeout_seconds/type", ["integer", "null"]),
    "a higher maximum": put("properties/timeout_seconds/maximum", 3600),
    "a bound gone": drop("properties/requested_by/maxLength"),
    "a new value of an enumeration": extend("properties/if_absent/enum", "ask"),
    "a pattern gone": drop("properties/idempotency_key/pattern"),
    "another wording": put("properties/job/description", "The job."),
    "another title of a way to name the job": lambda schema: at(schema, "$defs/JobReference/oneOf")[0].update(
        title="-"
    ),
    "another example": put("examples", []),
    "a part moved into its place": lambda schema: schema["properties"].__setitem__(
        "ticket", {"anyOf": [{"type": "null"}, schema["$defs"]["Ticket"]]}
    ),
    "a part open to unknown fields": drop("$defs/Ticket/additionalProperties"),
    "integers become numbers": put("properties/timeout_seconds/type", "number"),
}


@pytest.mark.parametrize("change", BREAKING_FOR_PUBLISHERS.values(), ids=list(BREAKING_FOR_PUBLISHERS))
def test_a_change_that_breaks_publishers_is_found(change: Change) -> None:
    """A command that was right, or meant something, is not refused or taken otherwise after an upgrade."""
    assert broken_publishers(UNLINK, changed(UNLINK, change))


@pytest.mark.parametrize("change", HARMLESS_FOR_PUBLISHERS.values(), ids=list(HARMLESS_FOR_PUBLISHERS))
def test_a_change_that_publishers_do_not_notice_is_let_through(change: Change) -> None:
    """The contract can grow without a v2."""
    assert broken_publishers(UNLINK, changed(UNLINK, change)) == []


# --- made-up changes of an event ------------------------------------------------------------------------------------

BREAKING_FOR_CONSUMERS = {
    "a field removed": drop("properties/data/properties/ticket"),
    "a field no longer always there": withdraw("properties/data/required", "ticket"),
    "a field removed altogether": both(
        drop("properties/data/properties/ticket"), withdraw("properties/data/required", "ticket")
    ),
    "another type": put("properties/data/properties/attempts", {"type": "string"}),
    "a field made nullable": put("properties/data/properties/attempts/type", ["integer", "null"]),
    "integers become numbers": put("properties/data/properties/attempts/type", "number"),
    "the reason made nullable": put(
        "properties/data/properties/reason", {"anyOf": [{"$ref": "#/$defs/Reason"}, {"type": "null"}]}
    ),
    "another value for the type": put("properties/type/const", "unlink.failed.v2"),
    "any text where a constant was": drop("properties/specversion/const"),
    "no longer a time": drop("properties/time/format"),
    "a known reason code removed": withdraw("$defs/Reason/properties/code/x-extensible-enum", "task_failed"),
    "a field removed inside a part": both(
        drop("$defs/TaskSeen/properties/message"), withdraw("$defs/TaskSeen/required", "message")
    ),
    "another type inside a list": put("$defs/LinkedBackupSeen/properties/link_id/type", "integer"),
    "a list where a part was": put("properties/data/properties/job", {"type": "array"}),
    "empty where it was not": drop("properties/id/minLength"),
    "labels of another type": put("properties/data/properties/labels/additionalProperties", {"type": "integer"}),
}

HARMLESS_FOR_CONSUMERS = {
    "nothing": lambda _schema: None,
    "a new field": both(
        put("properties/data/properties/site", {"type": "string"}), extend("properties/data/required", "site")
    ),
    "a new optional attribute": put("properties/traceparent", {"type": "string"}),
    "a new reason code": extend("$defs/Reason/properties/code/x-extensible-enum", "struck_by_lightning"),
    "a field no longer null": put("properties/data/properties/requested_by/type", "string"),
    "a new field in a part": put("$defs/JobSeen/properties/platform", {"type": "string"}),
    "another wording": put("description", "It failed."),
    "a shorter text": put("properties/data/properties/requested_by/maxLength", 10),
}


@pytest.mark.parametrize("change", BREAKING_FOR_CONSUMERS.values(), ids=list(BREAKING_FOR_CONSUMERS))
def test_a_change_that_breaks_consumers_is_found(change: Change) -> None:
    """A consumer that acts on a field goes on finding it, as it was."""
    assert broken_consumers(FAILED, changed(FAILED, change))


@pytest.mark.parametrize("change", HARMLESS_FOR_CONSUMERS.values(), ids=list(HARMLESS_FOR_CONSUMERS))
def test_a_change_that_consumers_can_ignore_is_let_through(change: Change) -> None:
    """Events can say more without a v2."""
    assert broken_consumers(FAILED, changed(FAILED, change)) == []


def test_a_closed_set_of_an_event_may_not_grow() -> None:
    """A consumer that knows every kind of evidence is not shown another; one value less does it no harm."""
    grown = changed(SUCCEEDED, extend("$defs/Evidence/enum", "hearsay"))
    assert broken_consumers(SUCCEEDED, grown) == ["message.data.evidence: hearsay only on one side"]
    assert broken_consumers(SUCCEEDED, changed(SUCCEEDED, withdraw("$defs/Evidence/enum", "absent"))) == []


def test_what_is_called_breaking_does_break_and_what_is_called_harmless_does_not() -> None:
    """The labels above are true by an independent validator: old commands against the changed schema."""
    old_commands = [
        *UNLINK["examples"],
        UNLINK["examples"][0] | {"timeout_seconds": 1500, "requested_by": "x" * 200, "reason": None, "ticket": None},
        UNLINK["examples"][0] | {"timeout_seconds": 10, "labels": {str(number): "x" * 200 for number in range(20)}},
        UNLINK["examples"][0] | {"idempotency_key": "K" * 200, "enterprise_manager": "em-2", "if_absent": "fail"},
        UNLINK["examples"][0] | {"ticket": {"system": "jira", "id": "x" * 200}},
    ]
    assert all(Draft202012Validator(UNLINK).is_valid(command) for command in old_commands)

    def refuses_some(change: Change) -> bool:
        after = Draft202012Validator(changed(UNLINK, change))
        return not all(after.is_valid(command) for command in old_commands)

    # These change the meaning, or what a validator that does not know better passes over.
    unseen = {"another default", "a default turned round", "a keyword that nobody knows"}
    assert {name for name, change in BREAKING_FOR_PUBLISHERS.items() if not refuses_some(change)} == unseen
    assert not any(refuses_some(change) for change in HARMLESS_FOR_PUBLISHERS.values())
