"""The messages of the AsyncAPI document, and their schemas, where AsyncAPI wants them: in one place, by name."""

from __future__ import annotations

from typing import Any

from contracts.commands import CancelCommand
from contracts.events import CONTENT_TYPE, Outcome
from contracts.published import COMMANDS, EVENT_KINDS, examples

Document = dict[str, Any]

_AMQP_PROPERTY = "AMQP property. "


def amqp(binding: Document) -> Document:
    """An AMQP binding, with the version of its wording."""
    return {"amqp": {**binding, "bindingVersion": "0.3.0"}}


def components(schemas: Document) -> Document:
    """The document's messages and schemas, made from the published schemas."""
    return {"messages": _messages(schemas), "schemas": _schemas(schemas)}


def _messages(schemas: Document) -> Document:
    bare = {name: _command_message(name, schemas[name]) for name in COMMANDS}
    in_envelopes = {wrapped(name): _wrapped_message(name) for name in COMMANDS}
    events = {outcome.event_type: _event_message(outcome) for outcome in Outcome}
    return {**bare, **in_envelopes, **events, "dead-letter": _dead_letter()}


def _command_message(name: str, schema: Document) -> Document:
    return {
        "name": name,
        "title": name,
        "summary": schema["description"].partition("\n")[0],
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/command.properties"},
        "payload": {"$ref": f"#/components/schemas/{name}"},
        **_correlation(name, "$message.payload#/correlation_id"),
        "examples": [{"payload": example} for example in examples(name)],
    }


def wrapped(name: str) -> str:
    """The name of a command's message when it comes in a CloudEvent."""
    return f"{name}.in-cloudevent"


def _wrapped_message(name: str) -> Document:
    envelope = {"specversion": "1.0", "id": "1", "source": "/jira", "type": name}
    return {
        "name": wrapped(name),
        "title": f"{name} in a CloudEvent",
        "summary": "The same command, wrapped in a CloudEvent in structured mode.",
        "contentType": CONTENT_TYPE,
        "headers": {"$ref": "#/components/schemas/command.properties"},
        "payload": {"$ref": f"#/components/schemas/{wrapped(name)}"},
        **_correlation(name, "$message.payload#/data/correlation_id"),
        "examples": [{"payload": {**envelope, "data": examples(name)[-1]}}],
    }


def _correlation(name: str, location: str) -> Document:
    # A cancel has no correlation of its own: the answer is the unlink's event.
    return {} if COMMANDS[name] is CancelCommand else {"correlationId": {"location": location}}


def _event_message(outcome: Outcome) -> Document:
    name = outcome.event_type
    return {
        "name": name,
        "title": name,
        "summary": EVENT_KINDS[outcome].meaning.replace("`", ""),  # plain text, unlike a description
        "contentType": CONTENT_TYPE,
        "headers": {"$ref": "#/components/schemas/event.properties"},
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "correlationId": {"location": "$message.payload#/data/correlation_id"},
        "bindings": amqp({"messageType": name}),
        "tags": [{"name": "terminal" if outcome.terminal else "progress"}],
        "examples": [{"payload": example} for example in examples(name)],
    }


def _dead_letter() -> Document:
    return {
        "name": "dead-letter",
        "title": "A message put aside",
        "summary": "The message as it came, byte for byte, whatever it is.",
        "headers": {"$ref": "#/components/schemas/dead-letter.headers"},
        "payload": {"$ref": "#/components/schemas/dead-letter"},
    }


# --- schemas --------------------------------------------------------------------------------------------------------


def _schemas(schemas: Document) -> Document:
    collected: Document = {}
    for name, schema in schemas.items():
        side = "command" if name in COMMANDS else "event"
        for part, definition in schema.get("$defs", {}).items():
            if collected.setdefault(f"{side}.{part}", _moved(definition, side)) != _moved(definition, side):
                raise AssertionError(f"{part} is not the same in all messages")
        own = {key: value for key, value in schema.items() if key not in {"$schema", "$id", "$defs", "examples"}}
        collected[name] = _moved(own, side)
    envelopes = {wrapped(name): _envelope(name) for name in COMMANDS}
    return {**collected, **envelopes, **_PROPERTIES}


def _moved(schema: Any, side: str) -> Any:
    """The schema with its references leading to where the parts are in this document."""
    if isinstance(schema, list):
        return [_moved(each, side) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, side) for key, value in schema.items()}
    if isinstance(reference := moved.get("$ref"), str):
        # Beside a reference, AsyncAPI reads nothing else.
        moved = {"$ref": reference.replace("#/$defs/", f"#/components/schemas/{side}.")}
    return moved


def _envelope(name: str) -> Document:
    text = {"type": "string", "minLength": 1}
    return {
        "title": f"{name} in a CloudEvent",
        "type": "object",
        "required": ["specversion", "id", "source", "type", "data"],
        "properties": {
            "specversion": {"type": "string", "const": "1.0"},
            "id": {**text, "description": "Yours; the idempotency key is what counts."},
            "source": {**text, "description": "Yours.", "examples": ["/jira"]},
            "type": {**text, "description": "Yours."},
            "data": {"$ref": f"#/components/schemas/{name}"},
        },
    }


def _text(description: str, **more: Any) -> Document:
    return {"type": "string", "description": description, **more}


_TRACE = {
    "traceparent": _text("AMQP header. W3C Trace Context."),
    "tracestate": _text("AMQP header. W3C Trace Context."),
}

_PROPERTIES: Document = {
    "command.properties": {
        "title": "AMQP properties and headers of a command",
        "description": "None is needed: the body alone is enough. Messages should be persistent (`delivery_mode` 2).",
        "type": "object",
        "properties": {
            "content_type": _text(
                f"{_AMQP_PROPERTY}`{CONTENT_TYPE}` for a command in a CloudEvent; else it does not matter.",
                examples=["application/json", CONTENT_TYPE],
            ),
            "correlation_id": _text(
                f"{_AMQP_PROPERTY}Repeated in the events, unless the body has a `correlation_id` of its own."
            ),
            "reply_to": _text(
                f"{_AMQP_PROPERTY}A queue to which the terminal event goes as well.", examples=["amq.rabbitmq.reply-to"]
            ),
            "user_id": _text(f"{_AMQP_PROPERTY}Your user at the broker, which checks it: a trustworthy who."),
            **_TRACE,
        },
    },
    "event.properties": {
        "title": "AMQP properties and headers of an event",
        "type": "object",
        "properties": {
            "content_type": _text(f"{_AMQP_PROPERTY}Always `{CONTENT_TYPE}`.", const=CONTENT_TYPE),
            "message_id": _text(f"{_AMQP_PROPERTY}The event's `id`."),
            "correlation_id": _text(f"{_AMQP_PROPERTY}As in the body; left out if it is longer than 255 bytes."),
            "type": _text(f"{_AMQP_PROPERTY}The event's `type`."),
            "app_id": _text(f"{_AMQP_PROPERTY}Always `unlink-worker`.", const="unlink-worker"),
            "delivery_mode": {"type": "integer", "const": 2, "description": f"{_AMQP_PROPERTY}Persistent."},
            **_TRACE,
        },
    },
    "dead-letter": {"title": "Anything", "description": "The bytes that came."},
    "dead-letter.headers": {
        "title": "AMQP headers of a dead letter",
        "description": "Of what the worker put aside. What the broker could not route has none of these.",
        "type": "object",
        "properties": {
            "unlink-reason-code": _text("As an event's `data.reason.code`."),
            "unlink-reason": _text("In words."),
            "unlink-queue": _text("The queue that it was taken from."),
            "unlink-attempt": {"type": "integer", "description": "How many attempts were made."},
            "unlink-failed-at": _text("When.", format="date-time"),
        },
    },
}
