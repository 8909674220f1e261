"""The published schemas: JSON Schema 2020-12 for every message, made from the models and the golden examples.

A command's schema is closed: the worker refuses unknown fields. An event's schema is open: consumers must ignore
unknown fields, since a field may be added within v1.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from contracts.batches import BATCH_ENDED, BatchEnded
from contracts.commands import CancelCommand, Message, RetryCommand, UnlinkCommand
from contracts.events import Event, Outcome

if TYPE_CHECKING:
    from pydantic_core import core_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"

#: The version of the contract as a whole. The first number is the `v1` of every message; the second grows with every
#: addition.
VERSION = "1.0.0"

#: The commands, by name.
COMMANDS: dict[str, type[Message]] = {
    "unlink.v1": UnlinkCommand,
    "cancel.v1": CancelCommand,
    "retry.v1": RetryCommand,
}

#: The fields that are never null in a terminal event, even if its command could not be read.
_OF_AN_END = frozenset({"summary", "close_code", "finished_at"})

#: The fields that are never null if the command could be read.
_OF_A_COMMAND = frozenset({"idempotency_key", "job", "repository", "correlation_id"})

#: The fields that are never null if the command was run.
_OF_A_RUN = _OF_A_COMMAND | {"run"}


@dataclass(frozen=True, slots=True)
class _EventKind:
    """What an event of one outcome means, and which fields of its `data` are then never null."""

    meaning: str
    known: frozenset[str] = field(default_factory=frozenset)


EVENT_KINDS = {
    Outcome.SUBMITTED: _EventKind(
        "Progress: Enterprise Manager has accepted the DELETE and its task runs. A terminal event follows. An "
        "unlink whose DELETE was not needed, or whose answer was lost, has no such event.",
        _OF_A_RUN | {"summary", "submitted_at"},
    ),
    Outcome.SUCCEEDED: _EventKind(
        "The link is gone. `evidence` says how that is known, `verified` whether the job's list was seen without it.",
        _OF_A_RUN | {"changed", "evidence", "verified"} | _OF_AN_END,
    ),
    Outcome.FAILED: _EventKind(
        "The link was not removed, or, if `changed` is null, it is not known whether it was. `reason` says why.",
        _OF_A_RUN | {"reason"} | _OF_AN_END,
    ),
    Outcome.REJECTED: _EventKind(
        "Nothing was run: the message breaks the contract, or its key belongs to another command, or its sender is not "
        "permitted. If `changed` is null, the worker gave up, and an earlier attempt may have removed the link. The "
        "readable parts of the message are repeated, so that its sender can recognise it.",
        _OF_AN_END | {"reason"},
    ),
    Outcome.CANCELLED: _EventKind(
        "The unlink was stopped. The link is still there; if `changed` is null, its task may still remove it.",
        _OF_A_RUN | _OF_AN_END,
    ),
    Outcome.TIMED_OUT: _EventKind(
        "The result was not known within `timeout_seconds`. The link may still be removed.",
        _OF_A_RUN | {"reason"} | _OF_AN_END,
    ),
    Outcome.PLANNED: _EventKind(
        "The end of a dry run; nothing was changed. Without `reason`, the link is there and would be removed, or, with "
        "`evidence` `absent`, it is not there.",
        _OF_A_COMMAND | {"changed"} | _OF_AN_END,
    ),
}

BATCH_ENDED_MEANING = (
    "All commands of a batch have ended, each with an event of its own. A retry of one of them ends the batch again, "
    "with another event."
)


def all_schemas() -> dict[str, dict[str, Any]]:
    """Every message's schema by the message's name: `unlink.v1`, `cancel.v1`, `unlink.succeeded.v1`, ..."""
    commands = {name: _command_schema(name, model) for name, model in COMMANDS.items()}
    event = Event.model_json_schema(schema_generator=_Publisher, mode="serialization")
    events = {outcome.event_type: _event_schema(outcome, deepcopy(event)) for outcome in Outcome}
    return commands | events | {BATCH_ENDED: _batch_ended_schema()}


def examples(name: str) -> list[dict[str, Any]]:
    """The golden messages of one kind, by the kind's name."""
    folder = resources.files("contracts") / "examples"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return [json.loads(file.read_bytes()) for file in files if file.name.startswith(f"{name}.")]


def in_text(schema: dict[str, Any]) -> str:
    """A schema, or another document of JSON, as it is written to a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _command_schema(name: str, model: type[Message]) -> dict[str, Any]:
    return _published(name, model.model_json_schema(schema_generator=_Publisher))


def _event_schema(outcome: Outcome, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the events of one outcome. `schema` is that of all events; it is changed in place."""
    kind = EVENT_KINDS[outcome]
    attributes = schema["properties"]
    data = schema["$defs"].pop("EventData")
    del schema["$defs"]["Outcome"]
    schema |= {"title": outcome.event_type, "description": kind.meaning}
    attributes["type"] |= {"const": outcome.event_type}
    attributes["subject"] = _never_null(attributes["subject"])
    if "idempotency_key" not in kind.known:
        schema["required"].remove("subject")
    outcome_field = {"title": "Outcome", "type": "string", "const": outcome.value}
    data["properties"]["outcome"] = outcome_field | {"description": "What became of the command."}
    for name in kind.known:
        data["properties"][name] = _never_null(data["properties"][name])
    attributes["data"] = data | {"title": "Data"}
    return _published(outcome.event_type, _opened(schema))


def _batch_ended_schema() -> dict[str, Any]:
    schema = BatchEnded.model_json_schema(schema_generator=_Publisher, mode="serialization")
    data = schema["$defs"].pop("BatchEndedData")
    schema |= {"title": BATCH_ENDED, "description": BATCH_ENDED_MEANING}
    schema["properties"]["data"] = data | {"title": "Data"}
    return _published(BATCH_ENDED, _opened(schema))


def _published(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    head = {"$schema": DIALECT, "$id": f"urn:unlink-worker:{name}"}
    return _in_reading_order(head | schema | {"examples": examples(name)})


class _Publisher(GenerateJsonSchema):
    """pydantic's schemas, shorter: a plain type or null is one `type` list, and `default: null` is omitted."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        if isinstance(inner.get("type"), str) and not {"enum", "const"} & inner.keys():
            return inner | {"type": [inner["type"], "null"]}
        return super().nullable_schema(schema)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        published = super().default_schema(schema)
        if self.mode == "serialization" or published.get("default", ...) is None:
            published.pop("default", None)
        return published

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,  # noqa: FBT001 - pydantic's signature
    ) -> bool:
        # What the worker writes has every field.
        return self.mode == "serialization" or super().field_is_required(field, total)


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field without its `null`."""
    if isinstance(schema.get("type"), list):
        (only,) = (kind for kind in schema["type"] if kind != "null")
        return schema | {"type": only}
    alternatives: list[dict[str, Any]] = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(alternatives) == 1:
        return {key: value for key, value in schema.items() if key != "anyOf"} | alternatives[0]
    return schema


def _opened(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without the refusal of unknown fields."""
    inner = {key: _opened(value) if isinstance(value, dict) else value for key, value in schema.items()}
    if inner.get("additionalProperties") is False:
        del inner["additionalProperties"]
    return inner


#: Keywords in the order in which a person reads them; those that are not named stand in the middle.
_FIRST = ("$schema", "$id", "$ref", "title", "description", "type", "const", "enum")
_LAST = ("required", "properties", "additionalProperties", "oneOf", "anyOf", "default", "examples", "$defs")
#: Keywords whose value is an object with the contract's names as keys. These keep the order of the models.
_OF_NAMES = frozenset({"properties", "$defs"})
_VERBATIM = frozenset({"default", "examples", "const", "enum", "required"})


def _in_reading_order(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: _inner(key, schema[key]) for key in sorted(schema, key=_place)}


def _inner(key: str, value: Any) -> Any:
    if key in _VERBATIM:
        return value
    if isinstance(value, list):
        return [_inner(key, each) for each in value]
    if not isinstance(value, dict):
        return value
    if key in _OF_NAMES:
        return {name: _in_reading_order(each) for name, each in value.items()}
    return _in_reading_order(value)


def _place(key: str) -> tuple[int, str]:
    if key in _FIRST:
        return _FIRST.index(key), ""
    return (len(_FIRST), key) if key not in _LAST else (len(_FIRST) + 1 + _LAST.index(key), "")
