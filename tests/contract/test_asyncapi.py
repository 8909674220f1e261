"""The AsyncAPI document: valid by AsyncAPI's own schema, consistent in itself, and true to the topology."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import reduce
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError

from contracts.published import all_schemas
from worker.broker.topology import DELAY_TIERS, describe
from worker.cli.contracts.asyncapi import document

#: `schemas/3.0.0-without-$id.json` of https://github.com/asyncapi/spec-json-schemas at 7dd3990 (6.11.1), unchanged.
#: Copyright 2016-2025 AsyncAPI Initiative; Apache License 2.0, as in LICENSE. This product includes software developed
#: at AsyncAPI Initiative (http://www.asyncapi.com/).
ASYNCAPI = json.loads((Path(__file__).parent / "asyncapi-3.0.0.schema.json").read_bytes())

Document = dict[str, Any]


def faults(asyncapi: Document) -> Iterator[str]:
    """Yield what is wrong with the document: by AsyncAPI's schema, and by rules that a schema cannot express."""
    for error in Draft7Validator(ASYNCAPI).iter_errors(asyncapi):
        yield from (f"{each.json_path}: {each.message}" for each in alternatives(error))
    for reference in set(re.findall(r'"\$ref": "#/(.*?)"', json.dumps(asyncapi))):
        try:
            part_at(reference, asyncapi)
        except KeyError:
            yield f"{reference} does not exist"
    yield from faults_of_parameters(asyncapi)
    yield from faults_of_operations(asyncapi)
    yield from faults_of_examples(asyncapi)


def alternatives(error: ValidationError) -> Iterator[ValidationError]:
    """Yield why each alternative of a schema was not met; for most objects, a reference is an alternative."""
    for each in error.context or ():
        yield from alternatives(each)
    if not error.context:
        yield error


def part_at(path: str, asyncapi: Document) -> Any:
    """Return the part of the document at a path such as `channels/events`."""
    return reduce(lambda part, name: part[name], path.split("/"), asyncapi)


def faults_of_parameters(asyncapi: Document) -> Iterator[str]:
    """Yield the addresses whose parameters are not those that are declared."""
    servers = ((server["host"] + server["pathname"], server["variables"]) for server in asyncapi["servers"].values())
    channels = ((each["address"] or "", each.get("parameters", {})) for each in asyncapi["channels"].values())
    for address, declared in (*servers, *channels):
        if set(re.findall(r"{(.*?)}", address)) != set(declared):
            yield f"{address} does not have the parameters {list(declared)}"


def faults_of_operations(asyncapi: Document) -> Iterator[str]:
    """Yield the messages of an operation or a reply that its channel does not have."""
    operations = asyncapi["operations"].values()
    for part in (*operations, *(each["reply"] for each in operations if "reply" in each)):
        channel = part["channel"]["$ref"]
        for message in part["messages"]:
            if not message["$ref"].startswith(f"{channel}/messages/"):
                yield f"{message['$ref']} is not a message of {channel}"


def faults_of_examples(asyncapi: Document) -> Iterator[str]:
    """Yield the examples that do not fit the schema of their message."""
    for message in asyncapi["components"]["messages"].values():
        validator = Draft7Validator(message["payload"] | {"components": asyncapi["components"]})
        for example in message.get("examples", ()):
            yield from (
                f"example of {message['name']}: {each.message}" for each in validator.iter_errors(example["payload"])
            )


def test_the_document_is_valid() -> None:
    """AsyncAPI's tools read the document: they can generate code and pages from it."""
    Draft7Validator.check_schema(ASYNCAPI)
    assert list(faults(document())) == []


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("info/licence", {}, "$.info: 'licence' does not match any of the regexes"),
        ("channels/events/topic", "#", "$.channels.events: 'topic' does not match any of the regexes"),
        ("channels/unrouted/bindings/amqp/queue/durable", "yes", "durable: 'yes' is not of type 'boolean'"),
        ("operations/sendEvent/action", "publish", "$.operations.sendEvent.action: 'publish' is not one of"),
        ("components/schemas/unlink.v1/properties/labels/type", "map", "labels.type: 'map' is not"),
        (
            "channels/events/messages/unlink.lost.v1",
            {"$ref": "#/components/messages/unlink.lost.v1"},
            "components/messages/unlink.lost.v1 does not exist",
        ),
        ("channels/events/parameters/tenant", {}, "{outcome}.{enterprise_manager} does not have the parameters"),
        ("servers/broker/host", "{hots}", "{hots}/{virtual_host} does not have the parameters"),
        ("operations/sendEvent/channel/$ref", "#/channels/replies", "is not a message of #/channels/replies"),
        ("operations/receiveCommand/reply/channel/$ref", "#/channels/events", "is not a message of #/channels/events"),
        ("components/schemas/unlink.v1/properties/job", {"type": "string"}, "example of unlink.v1: "),
    ],
)
def test_a_fault_in_the_document_would_be_found(path: str, value: object, fault: str) -> None:
    """The checks can fail: each kind of fault is found in a document that has it."""
    broken = document()
    parent, _, key = path.rpartition("/")
    part_at(parent, broken)[key] = value
    assert any(fault in found for found in faults(broken))


def test_the_document_has_the_topology_that_the_worker_declares() -> None:
    """The document has every exchange, queue and binding, with its kind and arguments."""
    described = describe(["{enterprise_manager}"], DELAY_TIERS)
    channels = document()["channels"]
    tiers = channels["delays"]["parameters"]["seconds"]["enum"]
    assert tiers == [str(seconds) for seconds in DELAY_TIERS]
    exchanges, queues, bindings = {}, {}, set()
    for channel in channels.values():
        binding = channel.get("bindings", {}).get("amqp", {})
        for seconds in tiers if channel is channels["delays"] else [""]:
            text = json.dumps(binding).replace("{seconds}", seconds).replace(f'"1000 * {seconds}"', f"{seconds}000")
            filled = json.loads(text)
            queue = filled.get("queue")
            for exchange in [
                filled.get("exchange"),
                *(each["exchange"] for each in (queue or {}).get("x-bindings", [])),
            ]:
                if exchange is not None:
                    exchanges[exchange["name"]] = (exchange["type"], exchange.get("x-arguments", {}))
            if queue is not None:
                queues[queue["name"]] = queue["x-arguments"]
                bindings |= {
                    (each["exchange"]["name"], queue["name"], each["routingKey"]) for each in queue["x-bindings"]
                }
    assert exchanges == {each.name: (each.kind, dict(each.arguments)) for each in described.exchanges}
    assert queues == {each.name: dict(each.arguments) for each in described.queues}
    assert bindings == {(each.exchange, each.queue, each.routing_key) for each in described.bindings}


def test_every_message_of_the_document_is_a_published_one() -> None:
    """No kind of message is missing from the document."""
    assert set(all_schemas()) <= set(document()["components"]["messages"])


def test_every_marker_of_the_skeleton_is_replaced() -> None:
    """No reader sees `<commands>` in place of the exchange's name."""
    skeleton = (resources.files("worker.cli.contracts") / "asyncapi_skeleton.json").read_text()
    markers = set(re.findall(r"<[\w ]+>", skeleton))
    assert "<commands>" in markers
    text = json.dumps(document())
    assert not {marker for marker in markers if marker in text}
