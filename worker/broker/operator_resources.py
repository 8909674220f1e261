"""The topology as resources of RabbitMQ's Messaging Topology Operator, from what the worker itself declares.

    python -m worker.broker.operator_resources default > k8s/components/rabbitmq-topology/resources.yaml

An argument of a queue is for ever: a queue that exists with others cannot be declared again. The operator can also make
policies, which an AMQP client cannot, so with it the limits that an installation may want to change are policies. The
queues of a worker that declares them itself have these as arguments too; one kind does not turn into the other, and
where the operator made them the worker only verifies (`UNLINK_BROKER__TOPOLOGY=verify`).

The operator's defaults are classic queues that are deleted with their resource; both are said otherwise here. Its
exchanges, bindings and policies always go with their resource.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker.broker import topology
from worker.broker.topology import Binding, Exchange, Queue, Topology

Resource = dict[str, Any]

#: Arguments that become policies. They are not given as arguments too: of both, RabbitMQ would take the lower.
CHANGEABLE: Final = frozenset({"x-delivery-limit", "x-max-length"})

#: The names of the User resources: the worker's own, and that of a scaler that reads the queues' lengths.
WORKER_USER: Final = "unlink-worker"
SCALER_USER: Final = "unlink-worker-scaler"

#: RabbitMQ's pattern for nothing at all (https://www.rabbitmq.com/docs/access-control#authorisation).
_NOTHING: Final = "^$"

#: What the unnamed default exchange is called in permissions.
_DEFAULT_EXCHANGE: Final = "amq.default"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the topology is to be: a RabbitmqCluster resource, its namespace, and the virtual host."""

    cluster: str = "rabbitmq"
    namespace: str = "rabbitmq"
    virtual_host: str = "/"


def resources(described: Topology, place: Place) -> Iterator[Resource]:
    """Every resource, in an order in which they can be made."""
    for exchange in described.exchanges:
        yield _exchange(exchange, place)
    for queue in described.queues:
        yield _queue(queue, place)
        if queue.arguments.keys() & CHANGEABLE:
            yield _policy(queue, place)
    for binding in described.bindings:
        yield _binding(binding, place)
    # Replies go through the default exchange.
    write = _any_of([*described.written, _DEFAULT_EXCHANGE])
    yield _permission(WORKER_USER, place, write=write, read=_any_of(described.consumed))
    yield _permission(SCALER_USER, place, write=_NOTHING, read=_NOTHING)


def as_yaml(documents: Iterator[Resource]) -> str:
    """YAML, one document for each resource."""
    return "\n---\n".join("\n".join(_block(document)) for document in documents) + "\n"


def _exchange(exchange: Exchange, place: Place) -> Resource:
    spec = {"name": exchange.name, "type": exchange.kind, "durable": True}
    return _resource("Exchange", exchange.name, place, spec | _given(arguments=dict(exchange.arguments)))


def _queue(queue: Queue, place: Place) -> Resource:
    # The operator passes `type` on as the argument x-queue-type.
    lasting = {name: value for name, value in queue.arguments.items() if name not in CHANGEABLE | {"x-queue-type"}}
    spec = {
        "name": queue.name,
        "type": queue.arguments["x-queue-type"],
        "durable": True,
        "deletionPolicy": "retain",
    }
    return _resource("Queue", queue.name, place, spec | _given(arguments=lasting))


def _policy(queue: Queue, place: Place) -> Resource:
    # Policies call arguments by the same names without `x-`.
    changeable = {name.removeprefix("x-"): value for name, value in queue.arguments.items() if name in CHANGEABLE}
    spec = {
        "name": queue.name,
        "pattern": f"^{re.escape(queue.name)}$",
        "applyTo": "queues",
        "definition": changeable,
    }
    return _resource("Policy", queue.name, place, spec)


def _binding(binding: Binding, place: Place) -> Resource:
    spec = {"source": binding.exchange, "destination": binding.queue, "destinationType": "queue"}
    name = f"{binding.exchange}.to.{binding.queue}"
    return _resource("Binding", name, place, spec | _given(routingKey=binding.routing_key))


def _permission(user: str, place: Place, *, write: str, read: str) -> Resource:
    permissions = {"configure": _NOTHING, "write": write, "read": read}
    return _resource("Permission", user, place, {"userReference": {"name": user}, "permissions": permissions})


def _resource(kind: str, name: str, place: Place, spec: Mapping[str, Any]) -> Resource:
    cluster = {"name": place.cluster, "namespace": place.namespace}
    return {
        "apiVersion": "rabbitmq.com/v1beta1",
        "kind": kind,
        "metadata": {"name": _object_name(name)},
        "spec": {**spec, "vhost": place.virtual_host, "rabbitmqClusterReference": cluster},
    }


def _any_of(names: Sequence[str]) -> str:
    return "^(" + "|".join(re.escape(name) for name in names) + ")$"


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _object_name(name: str) -> str:
    """A name as Kubernetes allows them: an Enterprise Manager's may hold capitals, underscores and a `-` at its end."""
    if re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name):
        return name
    # Two names must not become one.
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + "-" + digest


def _block(value: Mapping[str, Any]) -> Iterator[str]:
    """A mapping in block style. Every scalar is in its JSON form, which is YAML too and cannot be misread."""
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield f"{key}:"
            yield from (f"  {line}" for line in _block(inner))
        else:
            yield f"{key}: {json.dumps(inner)}"


def main() -> None:
    """Print the resources for the Enterprise Managers that are named."""
    parser = argparse.ArgumentParser(prog="python -m worker.broker.operator_resources", description=main.__doc__)
    parser.add_argument("enterprise_managers", nargs="+", metavar="ENTERPRISE_MANAGER")
    usual = Place()
    parser.add_argument("--cluster", default=usual.cluster, help="name of the RabbitmqCluster resource")
    parser.add_argument("--namespace", default=usual.namespace, help="its namespace")
    parser.add_argument("--virtual-host", default=usual.virtual_host)
    given = parser.parse_args()
    place = Place(given.cluster, given.namespace, given.virtual_host)
    described = topology.describe(given.enterprise_managers)
    print(f"# Made by: {parser.prog} {shlex.join(sys.argv[1:])}")  # noqa: T201 - this program's output
    print(as_yaml(resources(described, place)), end="")  # noqa: T201 - as above


if __name__ == "__main__":
    main()
