"""Parse a message's bytes into a command, or say in one sentence what is wrong with them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from contracts.commands import (
    MAX_CORRELATION_ID,
    MAX_MESSAGE_BYTES,
    Batch,
    CancelCommand,
    Command,
    IdempotencyKey,
    JobReference,
    RepositoryReference,
    RetryCommand,
    Ticket,
    UnlinkCommand,
)
from contracts.events import CONTENT_TYPE

_MOST_PROBLEMS_NAMED = 5

#: The most levels of arrays and objects that are read; a command has four. Python's own limit differs by version.
_MOST_LEVELS = 100

#: A string, terminated or not, or the beginning or the end of an array or object.
_MARK = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)

#: What a JSON text other than an object is called, by the Python type that `json` reads it as.
_JSON_KINDS: dict[type, str] = {
    list: "a JSON array",
    str: "a JSON string",
    int: "a JSON number",
    float: "a JSON number",
    bool: "a JSON boolean",
    type(None): "JSON null",
}

AnyCommand = TypeVar("AnyCommand", UnlinkCommand, CancelCommand, RetryCommand)


@dataclass(frozen=True, slots=True)
class PartialParse:
    """What could still be read of a message that breaks the contract, so that its sender can recognise the answer."""

    idempotency_key: str | None = None
    correlation_id: str | None = None
    requested_by: str | None = None
    reason: str | None = None
    ticket: Ticket | None = None
    labels: dict[str, str] = field(default_factory=dict)
    batch: Batch | None = None
    job: JobReference | None = None
    repository: RepositoryReference | None = None


@dataclass(frozen=True, slots=True)
class UnreadableMessageError(Exception):
    """The message breaks the contract; the text names each field and what is wrong with it."""

    problem: str
    partial: PartialParse = field(default_factory=PartialParse)

    def __str__(self) -> str:
        return self.problem


def read_message(body: bytes, content_type: str | None = None) -> Command:
    """Read one command of any kind, bare or wrapped in a CloudEvent.

    A CloudEvent is recognised by the content type, or by a field `specversion` without a field `command`.

    Raises:
        UnreadableMessageError: too large, not UTF-8, not JSON, a repeated or unknown field, a wrong value.
    """
    content = _content(body, content_type)
    match content.get("command"):
        case "cancel.v1":
            return _validate(content, CancelCommand)
        case "retry.v1":
            return _validate(content, RetryCommand)
        case "unlink.v1" | None:
            return _validate(content, UnlinkCommand)
        case _:
            raise UnreadableMessageError(
                "command: Input should be 'unlink.v1', 'cancel.v1' or 'retry.v1'", _partial(content)
            )


def read_command(body: bytes, content_type: str | None = None) -> UnlinkCommand:
    """Read one `unlink.v1`, bare or wrapped in a CloudEvent, as `read_message` does.

    Raises:
        UnreadableMessageError: too large, not UTF-8, not JSON, a repeated or unknown field, a wrong value.
    """
    return _validate(_content(body, content_type), UnlinkCommand)


def to_stored(command: UnlinkCommand, correlation_id: str | None) -> bytes:
    """The bytes of a command for the ledger: all of its fields, without a CloudEvent. `read_command` reads them.

    `correlation_id` is the AMQP property of the message; it is stored if the command has no `correlation_id`.
    """
    if command.correlation_id is None and correlation_id and len(correlation_id) <= MAX_CORRELATION_ID:
        command = command.model_copy(update={"correlation_id": correlation_id})
    return command.model_dump_json(exclude_none=True).encode()


def to_run_again(
    stored: bytes, not_before: datetime | None, not_after: datetime | None, correlation_id: str | None
) -> bytes:
    """The bytes of a stored command for its next run, with the times and the correlation ID that are given.

    If only a new `not_after` is given, and the stored `not_before` is not earlier, the stored `not_before` is dropped.

    A stored command that cannot be read is returned unchanged.
    """
    try:
        command = read_command(stored)
    except UnreadableMessageError:
        return stored
    given = {
        "not_before": not_before,
        "not_after": not_after,
        "correlation_id": _short_text(correlation_id, MAX_CORRELATION_ID),
    }
    changed: dict[str, Any] = {name: new for name, new in given.items() if new is not None}
    if not_before is None and not_after is not None and command.not_before is not None:
        changed["not_before"] = command.not_before if command.not_before < not_after else None
    return to_stored(command.model_copy(update=changed), None)


def _content(body: bytes, content_type: str | None) -> dict[str, Any]:
    """The command's fields, not yet validated."""
    if len(body) > MAX_MESSAGE_BYTES:
        raise UnreadableMessageError(f"the message has {len(body)} bytes; at most {MAX_MESSAGE_BYTES} are read")
    content = read_object(body)
    if _is_cloud_event(content, content_type):
        content = _unwrap(content)
    return content


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a message or of a line: any fields, each of them once.

    Raises:
        UnreadableMessageError: not UTF-8, not JSON, no object, nested too deeply, or a field is repeated.
    """
    try:
        text = body.decode("utf-8-sig")
        if _levels(text) > _MOST_LEVELS:
            raise UnreadableMessageError(f"the message is nested too deeply; at most {_MOST_LEVELS} levels are read")
        content = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise UnreadableMessageError(f"the message is not UTF-8 (byte {error.start})") from error
    except ValueError as error:
        raise UnreadableMessageError(f"the message is not JSON as the contract has it: {error}") from error
    if not isinstance(content, dict):
        raise UnreadableMessageError(f"the message is {_JSON_KINDS[type(content)]}; a JSON object is needed")
    return content


def _levels(text: str) -> int:
    """How deep the arrays and objects of a JSON text are nested."""
    level = deepest = 0
    for mark in _MARK.findall(text):
        if mark in "[{":
            level += 1
            deepest = max(deepest, level)
        elif mark in "]}":
            level -= 1
    return deepest


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"repeated field {name[:64]!r}")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _is_cloud_event(content: dict[str, Any], content_type: str | None) -> bool:
    media_type = (content_type or "").partition(";")[0].strip().lower()
    return media_type == CONTENT_TYPE or ("specversion" in content and "command" not in content)


def _unwrap(event: dict[str, Any]) -> dict[str, Any]:
    if event.get("specversion") != "1.0":
        raise UnreadableMessageError("specversion: a CloudEvent of version 1.0 is needed")
    missing = [name for name in ("id", "source", "type") if not (isinstance(event.get(name), str) and event[name])]
    if missing:
        raise UnreadableMessageError(f"{', '.join(missing)}: required in a CloudEvent, as text that is not empty")
    if not isinstance(event.get("data"), dict):
        raise UnreadableMessageError("data: the CloudEvent must hold the command here, as an object")
    data: dict[str, Any] = event["data"]
    return data


def _validate(content: dict[str, Any], kind: type[AnyCommand]) -> AnyCommand:
    try:
        # Validated from JSON text, since strict mode reads a time from JSON text but not from a Python string.
        return kind.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise UnreadableMessageError(describe(error), _partial(content)) from error


def describe(error: ValidationError) -> str:
    """One line that names each wrong field, without repeating its value: a value may be secret, or huge."""
    problems = [f"{_path(problem['loc'])}: {_message(problem)}" for problem in error.errors(include_url=False)]
    hidden = len(problems) - _MOST_PROBLEMS_NAMED
    return "; ".join(problems[:_MOST_PROBLEMS_NAMED]) + (f"; and {hidden} more" if hidden > 0 else "")


def _path(location: Iterable[int | str]) -> str:
    return ".".join(str(part)[:64] for part in location) or "message"


def _message(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown field"
    if problem["type"] == "missing":
        return "missing"
    return str(problem["msg"]).removeprefix("Value error, ")


def _partial(content: dict[str, Any]) -> PartialParse:
    def valid(name: str, kind: Any) -> Any:
        value = content.get(name)
        try:
            adapter = TypeAdapter(kind)
            return adapter.validate_json(json.dumps(value)) if value is not None else None
        except ValidationError:
            return None

    return PartialParse(
        idempotency_key=valid("idempotency_key", IdempotencyKey),
        correlation_id=_short_text(content.get("correlation_id"), MAX_CORRELATION_ID),
        requested_by=_short_text(content.get("requested_by"), 200),
        reason=_short_text(content.get("reason"), 1000),
        ticket=valid("ticket", Ticket),
        batch=valid("batch", Batch) if content.get("dry_run") is not True else None,
        job=valid("job", JobReference),
        repository=valid("repository", RepositoryReference),
    )


def _short_text(value: object, longest: int) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        return None
    return value.encode("utf-8", "replace").decode()  # a lone surrogate, which no event can hold, becomes `?`
