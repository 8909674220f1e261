"""The topology as resources of RabbitMQ's Messaging Topology Operator, from what the worker itself declares.

    python -m worker.broker.operator_resources default > k8s/components/rabbitmq-topology/resources.yaml

The arguments of a queue cannot be changed: declaring an existing queue with other arguments fails. Policies can be
changed. The operator can create policies, which an AMQP client cannot, so the limits that an installation may want to
change are policies here. A worker that declares the queues itself sets these limits as arguments, which the queues that
the operator created do not have. The worker must therefore only verify the operator's queues
(`UNLINK_BROKER__TOPOLOGY=verify`): declaring them would fail.

By default, the operator creates classic queues, and deletes a queue together with its resource. The resources here
override both defaults. Exchanges, bindings and policies are always deleted together with their resource.
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

#: Arguments that become policies. They are not set as arguments too: RabbitMQ would apply the lower of the two values.
CHANGEABLE: Final = frozenset({"x-delivery-limit", "x-max-length"})

#: The names of the User resources: the worker's own, and that of a scaler that reads the queues' lengths.
WORKER_USER: Final = "unlink-worker"
SCALER_USER: Final = "unlink-worker-scaler"

#: RabbitMQ's pattern for a permission on no resource (https://www.rabbitmq.com/docs/access-control#authorisation).
_NOTHING: Final = "^$"

#: The name of the default exchange in permissions.
_DEFAULT_EXCHANGE: Final = "amq.default"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the topology is created: a RabbitmqCluster resource, its namespace, and the virtual host."""

    cluster: str = "rabbitmq"
    namespace: str = "rabbitmq"
    virtual_host: str = "/"


def resources(described: Topology, place: Place) -> Iterator[Resource]:
    """Every resource, in an order in which they can be created."""
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
    # The keys of a policy are the names of the arguments without `x-`.
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
    """A valid Kubernetes object name. An Enterprise Manager's name may have capitals, underscores and a final `-`."""
    if re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name):
        return name
    # The digest keeps different names different.
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + "-" + digest


def _block(value: Mapping[str, Any]) -> Iterator[str]:
    """A mapping in block style. Scalars are written as JSON, which is also valid and unambiguous YAML."""
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
