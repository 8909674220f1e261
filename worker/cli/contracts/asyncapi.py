"""The contract as one AsyncAPI 3 document: exchanges, queues, bindings, messages, and replies.

`asyncapi_skeleton.json` holds the constant parts. The schemas of the models (`contracts.published`) and the topology
that the worker declares (`worker.broker.topology`) are filled in, so that the three cannot contradict each other. The
document describes the worker: it *receives* commands and *sends* events.

A `<marker>` in the skeleton stands for one name, or for several. If it stands for several, an entry whose key contains
it, or an item of a list that contains it, is repeated for each name.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from contracts.batches import BATCH_ENDED, BATCH_ENDED_KEY
from contracts.commands import MAX_MESSAGE_BYTES, UNKNOWN_NAME, UnlinkCommand
from contracts.events import CONTENT_TYPE, Outcome
from contracts.published import BATCH_ENDED_MEANING, COMMANDS, EVENT_KINDS, VERSION, all_schemas, examples
from worker.broker.topology import COMMANDS as COMMANDS_EXCHANGE
from worker.broker.topology import DEAD, DELAY_TIERS, EVENTS, MISROUTED, UNROUTED, Exchange, delay_exchange, describe

Document = dict[str, Any]

_NAMES = {
    "<version>": VERSION,
    "<KiB>": str(MAX_MESSAGE_BYTES // 1024),
    "<CloudEvent>": CONTENT_TYPE,
    "<commands>": COMMANDS_EXCHANGE,
    "<events>": EVENTS,
    "<dead>": DEAD,
    "<unrouted>": UNROUTED,
    "<misrouted>": MISROUTED,
    "<unknown>": UNKNOWN_NAME,
}
_REPEATED = {
    "<command>": list(COMMANDS),
    "<event>": [*(outcome.event_type for outcome in Outcome), BATCH_ENDED],
    "<terminal event>": [outcome.event_type for outcome in Outcome if outcome.terminal],
    "<outcome value>": [*(outcome.value for outcome in Outcome), BATCH_ENDED_KEY],
    "<seconds>": [str(seconds) for seconds in DELAY_TIERS],
}


def document() -> Document:
    """The AsyncAPI document."""
    text = (resources.files("worker.cli.contracts") / "asyncapi_skeleton.json").read_text(encoding="utf-8")
    for marker, name in _NAMES.items():
        text = text.replace(marker, name)
    filled: Document = _expanded(json.loads(text))
    _fill_bindings(filled["channels"])
    schemas = all_schemas()
    _fill_messages(filled["components"]["messages"], schemas)
    filled["components"]["schemas"] = _components(schemas) | filled["components"]["schemas"]
    return filled


# --- markers --------------------------------------------------------------------------------------------------------


def _expanded(part: Any) -> Any:
    """The part of the document; each entry or item with a marker is repeated for each of the marker's names."""
    if isinstance(part, dict):
        return {key: _expanded(value) for entry in part.items() for key, value in _repeated(entry, marked=entry[0])}
    if isinstance(part, list):
        return [_expanded(item) for each in part for item in _repeated(each, marked=json.dumps(each))]
    return part


def _repeated(part: Any, *, marked: str) -> list[Any]:
    for marker, names in _REPEATED.items():
        if marker in marked:
            return [json.loads(json.dumps(part).replace(marker, name)) for name in names]
    return [part]


# --- topology -------------------------------------------------------------------------------------------------------


def _fill_bindings(channels: Document) -> None:
    """Replace the name of each exchange and queue by its description."""
    described = _described_topology()
    for channel in channels.values():
        binding = channel.get("bindings", {}).get("amqp", {})
        for kind in described.keys() & binding.keys():
            binding[kind] = described[kind][binding[kind]]


def _described_topology() -> Document:
    """The exchanges and queues by name. One exchange and one queue, named with `{seconds}`, stand for all delays."""
    seconds = DELAY_TIERS[0]
    topology = describe(["{enterprise_manager}"], [seconds])
    exchanges = {exchange.name: _exchange(exchange) for exchange in topology.exchanges}
    queues = {
        queue.name: {
            "name": queue.name,
            "durable": True,
            "exclusive": False,
            "autoDelete": False,
            "x-arguments": dict(queue.arguments),
            # AsyncAPI's AMQP bindings have no field for the binding of a queue to an exchange.
            "x-bindings": [
                {"exchange": exchanges[binding.exchange], "routingKey": binding.routing_key}
                for binding in topology.bindings
                if binding.queue == queue.name
            ],
        }
        for queue in topology.queues
    }
    delay = delay_exchange(seconds)
    text = json.dumps({"exchange": exchanges, "queue": queues})
    text = text.replace(delay, delay.replace(str(seconds), "{seconds}"))
    text = text.replace(f'"x-message-ttl": {1000 * seconds}', '"x-message-ttl": "1000 * {seconds}"')
    described: Document = json.loads(text)
    return described


def _exchange(exchange: Exchange) -> Document:
    arguments = {"x-arguments": dict(exchange.arguments)} if exchange.arguments else {}
    return {"name": exchange.name, "type": exchange.kind, "durable": True, "autoDelete": False, **arguments}


# --- messages and schemas -------------------------------------------------------------------------------------------


def _fill_messages(messages: Document, schemas: Document) -> None:
    """Set the summary, tags and examples of each message."""
    for name, model in COMMANDS.items():
        bare, wrapped = messages[name], messages[f"{name}.in-cloudevent"]
        bare["summary"] = schemas[name]["description"].partition("\n")[0]
        bare["examples"] = [{"payload": example} for example in examples(name)]
        wrapped["examples"][0]["payload"]["data"] = examples(name)[-1]
        if model is not UnlinkCommand:
            # A cancel has no correlation of its own, and a retry only its AMQP property.
            del bare["correlationId"], wrapped["correlationId"]
    for outcome in Outcome:
        tag = "terminal" if outcome.terminal else "progress"
        _fill_event(messages, outcome.event_type, EVENT_KINDS[outcome].meaning, tag)
    _fill_event(messages, BATCH_ENDED, BATCH_ENDED_MEANING, "batch")


def _fill_event(messages: Document, name: str, meaning: str, tag: str) -> None:
    messages[name]["summary"] = meaning.replace("`", "")  # plain text, unlike a description
    messages[name]["tags"] = [{"name": tag}]
    messages[name]["examples"] = [{"payload": example} for example in examples(name)]


def _components(schemas: Document) -> Document:
    """The messages' schemas and the definitions that they share, by name."""
    collected: Document = {}
    for name, schema in schemas.items():
        side = "command" if name in COMMANDS else "event"
        for part, definition in schema.get("$defs", {}).items():
            if collected.setdefault(f"{side}.{part}", _moved(definition, side)) != _moved(definition, side):
                raise AssertionError(f"{part} is not the same in all messages")
        own = {key: value for key, value in schema.items() if key not in {"$schema", "$id", "$defs", "examples"}}
        collected[name] = _moved(own, side)
    return collected


def _moved(schema: Any, side: str) -> Any:
    """The schema with its references to `$defs` replaced by references to the document's components."""
    if isinstance(schema, list):
        return [_moved(each, side) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(reference := schema.get("$ref"), str):
        # AsyncAPI ignores fields beside a reference.
        return {"$ref": reference.replace("#/$defs/", f"#/components/schemas/{side}.")}
    return {key: _moved(value, side) for key, value in schema.items()}
