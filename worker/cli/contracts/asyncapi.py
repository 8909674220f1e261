"""The contract as one AsyncAPI 3 document: exchanges, queues, bindings, messages, and how a reply is asked for.

Made from the models (`contracts.published`) and from the topology as the worker declares it (`worker.broker.topology`),
so that none of the three can say something else than the other two. The document describes the worker: it *receives*
commands and *sends* events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contracts.commands import MAX_MESSAGE_BYTES
from contracts.events import Outcome
from contracts.published import COMMANDS, VERSION, all_schemas
from worker.broker.topology import COMMANDS as COMMANDS_EXCHANGE
from worker.broker.topology import DEAD, DELAY_TIERS, EVENTS, UNROUTED, command_queue, delay_exchange, describe
from worker.cli.contracts.asyncapi_messages import amqp, components, wrapped

if TYPE_CHECKING:
    from worker.broker.topology import Topology

Document = dict[str, Any]

_MANAGER = "{enterprise_manager}"

_ABOUT = f"""\
A *backup copy job* in Veeam copies backups from the repositories linked to it. Publish an **unlink command**, and the
worker removes one such link and publishes **what happened**.

- **Publish** to the exchange `{COMMANDS_EXCHANGE}`, persistent, with the Enterprise Manager's configured name as
  routing key (`default`, if there is but one). JSON, UTF-8, at most {MAX_MESSAGE_BYTES // 1024} KiB. Unknown fields are
  refused.
- **Listen** on the topic exchange `{EVENTS}` with a queue of your own. Every command ends in exactly one terminal
  event. An event may come more than once, always with the same `id`: drop repeats by that. Ignore fields that you do
  not know.
- **One idempotency key, one unlink**, however often the message arrives: when in doubt, publish the same message again.

The document describes the worker: what it *receives*, you publish; what it *sends*, you consume.
"""


def document() -> Document:
    """The AsyncAPI document."""
    topology = describe([_MANAGER], DELAY_TIERS[:1])
    schemas = all_schemas()
    return {
        "asyncapi": "3.0.0",
        "id": "urn:unlink-worker:contract:v1",
        "info": {
            "title": "Unlink worker",
            "version": VERSION,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "{host}",
                "pathname": "/{virtual_host}",
                "protocol": "amqps",
                "protocolVersion": "0-9-1",
                "description": "Your RabbitMQ, 3.10 or later.",
                "variables": {
                    "host": {"default": "rabbit.example.com:5671", "description": "Host and port."},
                    "virtual_host": {"default": "", "description": "The virtual host, percent-encoded."},
                },
            }
        },
        "channels": _channels(topology),
        "operations": _operations(),
        "components": components(schemas),
    }


# --- channels -------------------------------------------------------------------------------------------------------


def _channels(topology: Topology) -> Document:
    commands = [*COMMANDS, *map(wrapped, COMMANDS)]
    events = [outcome.event_type for outcome in Outcome]
    manager = {"enterprise_manager": {"description": "An Enterprise Manager's configured name.", "default": "default"}}
    return {
        "commands": {
            "title": "Commands",
            "address": _MANAGER,
            "description": f"Publish to the exchange `{COMMANDS_EXCHANGE}`; the address is the routing key. A command "
            f"for an Enterprise Manager that nobody serves goes to `{DEAD}`, and gets no event.",
            "parameters": manager,
            "messages": _references(commands),
            "bindings": _exchange(topology, COMMANDS_EXCHANGE),
        },
        "events": {
            "title": "Events",
            "address": f"{{outcome}}.{_MANAGER}",
            "description": f"Bind a durable queue of your own to the topic exchange `{EVENTS}`; the address is the "
            "routing key: `#` for all, `succeeded.*` for one outcome, `*.default` for one Enterprise Manager.",
            "parameters": {
                "outcome": {"description": "What became of the command.", "enum": [each.value for each in Outcome]},
                **manager,
            },
            "messages": _references(events),
            "bindings": _exchange(topology, EVENTS),
        },
        "replies": {
            "title": "Replies",
            "address": None,
            "description": "The queue named by a command's AMQP property `reply_to`, direct reply-to "
            "(`amq.rabbitmq.reply-to`) included. The terminal event goes there too: once, and without a promise. The "
            "durable way back is the events exchange.",
            "messages": _references([outcome.event_type for outcome in Outcome if outcome.terminal]),
        },
        "commandQueue": {
            "title": "Command queue",
            "address": command_queue(_MANAGER),
            "description": "The worker's own: commands wait here for it. Do not consume from it.",
            "parameters": manager,
            "messages": _references(commands),
            "bindings": _queue(topology, command_queue(_MANAGER)),
        },
        "deadLetters": {
            "title": "Dead letters",
            "address": DEAD,
            "description": "Messages that could not be read or routed, or were given up, as they came; the reason "
            "is in their headers. For operators.",
            "messages": _references(["dead-letter"]),
            "bindings": _queue(topology, DEAD),
        },
        "unrouted": {
            "title": "Events that nobody took",
            "address": UNROUTED,
            "description": "The latest events for which no queue was bound. For operators.",
            "messages": _references(events),
            "bindings": _queue(topology, UNROUTED),
        },
        "delays": {
            "title": "Delays",
            "address": _delay_name(),
            "description": "The worker's own: commands that it looks at again later.",
            "parameters": {
                "seconds": {"description": "How long.", "enum": [str(seconds) for seconds in DELAY_TIERS]},
            },
            "messages": _references(commands),
            "bindings": _delay_queue(topology),
        },
    }


def _references(names: list[str]) -> Document:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _exchange(topology: Topology, name: str) -> Document:
    return amqp({"is": "routingKey", "exchange": _exchange_itself(topology, name)})


def _exchange_itself(topology: Topology, name: str) -> Document:
    (exchange,) = (each for each in topology.exchanges if each.name == name)
    arguments = {"x-arguments": dict(exchange.arguments)} if exchange.arguments else {}
    return {"name": name, "type": exchange.kind, "durable": True, "autoDelete": False, **arguments}


def _queue(topology: Topology, name: str) -> Document:
    (queue,) = (each for each in topology.queues if each.name == name)
    return amqp(
        {
            "is": "queue",
            "queue": {
                "name": name,
                "durable": True,
                "exclusive": False,
                "autoDelete": False,
                "x-arguments": dict(queue.arguments),
                # AsyncAPI's AMQP bindings have no word for what leads from an exchange to a queue.
                "x-bindings": [
                    {"exchange": _exchange_itself(topology, each.exchange), "routingKey": each.routing_key}
                    for each in topology.bindings
                    if each.queue == name
                ],
            },
        }
    )


def _delay_queue(topology: Topology) -> Document:
    """The queues of all delays as one, with `{seconds}` for what tells them apart."""
    name = delay_exchange(DELAY_TIERS[0])
    binding = _queue(topology, name)
    queue = binding["amqp"]["queue"]
    queue["name"] = _delay_name()
    queue["x-arguments"]["x-message-ttl"] = "1000 * {seconds}"
    for bound in queue["x-bindings"]:
        bound["exchange"]["name"] = _delay_name()
    return binding


def _delay_name() -> str:
    seconds = DELAY_TIERS[0]
    return delay_exchange(seconds).replace(str(seconds), "{seconds}")


# --- operations -----------------------------------------------------------------------------------------------------


def _operations() -> Document:
    terminal = [outcome.event_type for outcome in Outcome if outcome.terminal]
    persistent = amqp({"deliveryMode": 2, "mandatory": True, "timestamp": True})
    return {
        "receiveCommand": {
            "action": "receive",
            "title": "Take a command",
            "summary": "Publish one of these.",
            "description": "Acknowledged only when its terminal event is confirmed by the broker. Publish with "
            "confirms: then a command is either safe or you know that it may not be, and publish it again. To get the "
            "terminal event as a reply as well, set `reply_to`.",
            "channel": {"$ref": "#/channels/commands"},
            "messages": _of_channel("commands", [*COMMANDS, *map(wrapped, COMMANDS)]),
            "bindings": amqp({"ack": True}),
            "reply": {
                "address": {
                    "location": "$message.header#/reply_to",
                    "description": "The AMQP property `reply_to`; by default only direct reply-to and names that begin "
                    "with `reply.` are answered.",
                },
                "channel": {"$ref": "#/channels/replies"},
                "messages": _of_channel("replies", terminal),
            },
        },
        "sendEvent": {
            "action": "send",
            "title": "Say what happened",
            "summary": "Consume these.",
            "description": "At least once, persistent, confirmed; a repeat has the same `id`. First, where a DELETE "
            "was needed, `submitted`; then exactly one of the terminal ones.",
            "channel": {"$ref": "#/channels/events"},
            "messages": _of_channel("events", [outcome.event_type for outcome in Outcome]),
            "bindings": persistent,
        },
        "sendDeadLetter": {
            "action": "send",
            "title": "Put a message aside",
            "summary": "For operators.",
            "channel": {"$ref": "#/channels/deadLetters"},
            "messages": _of_channel("deadLetters", ["dead-letter"]),
            "bindings": persistent,
        },
    }


def _of_channel(channel: str, names: list[str]) -> list[Document]:
    return [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names]
