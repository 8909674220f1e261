"""The operator's resources make what the worker needs: on a real broker, over its HTTP API, as the operator does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pika
import pytest
import requests
import yaml
from pika.adapters.blocking_connection import BlockingChannel

from tests.end_to_end.world import World
from tests.k8s.manifests import K8S, ROOT, Resource, rendered
from worker.broker import topology
from worker.broker.operator_resources import Place, as_yaml, resources
from worker.sandbox.processes.supervisor import wait_until
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.sandbox.simulated_enterprise_manager import SimulatedEnterpriseManager

COMMITTED = K8S / "components" / "rabbitmq-topology" / "resources.yaml"

_PASSWORD = "s3cret-of-theirs"

#: The HTTP API's numbers are up to 5 s old, and the machines are shared.
_TIMEOUT_SECONDS = 30.0


class Api:
    """The broker's HTTP API, on one virtual host."""

    def __init__(self, broker: LocalBroker, virtual_host: str) -> None:
        self._root = f"{broker.management_url}/api"
        self.virtual_host = quote(virtual_host, safe="")

    def get(self, path: str) -> Any:
        """What is there."""
        answer = requests.get(f"{self._root}/{path}", timeout=30)
        answer.raise_for_status()
        return answer.json()

    def put(self, path: str, body: dict[str, Any]) -> None:
        """Make something."""
        requests.put(f"{self._root}/{path}", json=body, timeout=30).raise_for_status()

    def post(self, path: str, body: dict[str, Any]) -> None:
        """Add something."""
        requests.post(f"{self._root}/{path}", json=body, timeout=30).raise_for_status()

    def delete(self, path: str) -> None:
        """Remove something."""
        requests.delete(f"{self._root}/{path}", timeout=30).raise_for_status()

    def queues(self) -> dict[str, Any]:
        """All queues of the virtual host, by name."""
        return {each["name"]: each for each in self.get(f"queues/{self.virtual_host}")}


@pytest.fixture
def api(broker: LocalBroker, virtual_host: str) -> Api:
    """The HTTP API on this test's virtual host."""
    return Api(broker, virtual_host)


@pytest.fixture
def as_operator(api: Api, virtual_host: str) -> Iterator[Callable[[list[Resource]], None]]:
    """Does with resources what the Messaging Topology Operator does, on this test's virtual host."""
    users: list[str] = []

    def make(wanted: list[Resource]) -> None:
        for each in sorted(wanted, key=lambda resource: _ORDER.index(resource["kind"])):
            if each["kind"] == "User":
                users.append(_user(each["metadata"]["name"], virtual_host))
            _make(api, each, virtual_host)

    yield make
    for user in users:
        api.delete(f"users/{user}")


_ORDER = ("User", "Exchange", "Queue", "Policy", "Binding", "Permission")


def _user(name: str, virtual_host: str) -> str:
    """Users are the whole broker's: each test has its own."""
    return f"{name}-{virtual_host}"


def _make(api: Api, resource: Resource, virtual_host: str) -> None:
    spec, at = resource["spec"], api.virtual_host
    arguments = spec.get("arguments", {})
    match resource["kind"]:
        case "Exchange":
            body = {"type": spec["type"], "durable": spec["durable"], "arguments": arguments}
            api.put(f"exchanges/{at}/{spec['name']}", body)
        case "Queue":
            body = {"durable": spec["durable"], "arguments": arguments | {"x-queue-type": spec["type"]}}
            api.put(f"queues/{at}/{spec['name']}", body)
        case "Policy":
            body = {"pattern": spec["pattern"], "apply-to": spec["applyTo"], "definition": spec["definition"]}
            api.put(f"policies/{at}/{spec['name']}", body)
        case "Binding":
            body = {"routing_key": spec.get("routingKey", ""), "arguments": arguments}
            api.post(f"bindings/{at}/e/{spec['source']}/q/{spec['destination']}", body)
        case "User":
            name = _user(resource["metadata"]["name"], virtual_host)
            api.put(f"users/{name}", {"password": _PASSWORD, "tags": ",".join(spec.get("tags", []))})
        case "Permission":
            api.put(f"permissions/{at}/{_user(spec['userReference']['name'], virtual_host)}", spec["permissions"])


def rendered_topology() -> list[Resource]:
    """What the overlay for production gives the operator."""
    return [each for each in rendered("production").resources if each["apiVersion"].startswith("rabbitmq.com/")]


def test_the_committed_resources_are_those_of_the_present_description() -> None:
    """A queue that the worker needs since yesterday would be missing where the operator makes the queues."""
    stale = f"{COMMITTED.relative_to(ROOT)} is out of date; its first line says how to make it anew"
    expected = as_yaml(resources(topology.describe(["default"]), Place()))
    assert COMMITTED.read_text().partition("\n")[2] == expected, stale


def test_the_text_says_what_the_resources_are() -> None:
    """A name that YAML reads as something else would be another name on the broker."""
    names = ["default", "no", "1e3", "EM_2"]
    expected = list(resources(topology.describe(names), Place(virtual_host="a: #b")))
    assert list(yaml.safe_load_all(as_yaml(iter(expected)))) == expected


def test_each_enterprise_manager_s_resources_have_names_of_their_own_that_kubernetes_allows() -> None:
    """Two of one name overwrite each other, and one that Kubernetes refuses stops the deployment."""
    made = list(resources(topology.describe(["em_2", "EM_2", "em-2", "-x-"]), Place()))
    names = [(each["kind"], each["metadata"]["name"]) for each in made]
    assert len(set(names)) == len(names)
    pattern = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
    assert [name for _, name in names if not re.fullmatch(pattern, name)] == []


def test_queues_stay_when_their_resource_goes_and_are_quorum_queues() -> None:
    """The operator's defaults are classic queues, deleted with their resource, and all commands with them."""
    queues = [each["spec"] for each in rendered_topology() if each["kind"] == "Queue"]
    assert queues
    assert {(each["type"], each["deletionPolicy"], each["durable"]) for each in queues} == {("quorum", "retain", True)}


@pytest.mark.slow
def test_the_operator_s_queues_behave_as_those_that_the_worker_declares(
    api: Api, as_operator: Callable[[list[Resource]], None]
) -> None:
    """A queue without its dead-lettering or with another limit loses commands that the worker counts on."""
    described = topology.describe(["default"])
    as_operator(rendered_topology())

    wanted = {queue.name: dict(queue.arguments) for queue in described.queues}
    assert wait_until(lambda: _effective(api) == wanted, seconds=_TIMEOUT_SECONDS, interval=0.2), _effective(api)
    made = {
        each["name"]: (each["type"], each["durable"], each["arguments"])
        for each in api.get(f"exchanges/{api.virtual_host}")
        if each["name"].startswith("unlink.")
    }
    assert made == {each.name: (each.kind, True, dict(each.arguments)) for each in described.exchanges}
    bound = {
        (each["source"], each["destination"], each["routing_key"])
        for each in api.get(f"bindings/{api.virtual_host}")
        if each["source"]
    }
    assert bound == {(each.exchange, each.queue, each.routing_key) for each in described.bindings}


@pytest.mark.slow
def test_a_worker_does_its_work_as_the_operator_s_user_on_the_operator_s_queues(
    broker_url: str,
    virtual_host: str,
    tmp_path: Path,
    as_operator: Callable[[list[Resource]], None],
) -> None:
    """With a permission too few, the first event, delay or dead letter would stop the worker, in production only."""
    as_operator(rendered_topology())
    restricted = _as_user(broker_url, _user("unlink-worker", virtual_host))
    with (
        SimulatedEnterpriseManager.start() as enterprise_manager,
        World(broker_url, f"sqlite:///{tmp_path / 'ledger.sqlite'}", enterprise_manager) as world,
    ):
        worker = world.serve({"UNLINK_BROKER__URL": restricted, "UNLINK_BROKER__TOPOLOGY": "verify"})
        world.unlink("CHG1")
        world.send(b"not a command")
        world.until(lambda: world.client.count("unlink.dead") == 1, "a dead letter")
        world.until_acknowledged()
        worker.stop()
        assert "ACCESS_REFUSED" not in worker.log()
    assert [outcome for outcome, _ in world.ends_of("CHG1")] == ["succeeded"]


def test_the_worker_s_user_may_put_commands_aside_and_reply(
    broker_url: str, virtual_host: str, as_operator: Callable[[list[Resource]], None]
) -> None:
    """A command that must wait, because its Enterprise Manager is away, would bring the worker into a loop."""
    as_operator(rendered_topology())
    url = _as_user(broker_url, _user("unlink-worker", virtual_host))
    exchanges = [topology.delay_exchange(seconds) for seconds in topology.DELAY_TIERS]
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for exchange in exchanges:
            channel.basic_publish(exchange, "default", b"{}", mandatory=True)
        channel.basic_publish("", "reply.to-nobody", b"{}")


def test_the_worker_s_user_may_neither_send_commands_nor_change_what_is_there(
    broker_url: str, virtual_host: str, as_operator: Callable[[list[Resource]], None]
) -> None:
    """Who steals the worker's password must not be able to unlink with it, or to delete the queues."""
    as_operator(rendered_topology())
    url = _as_user(broker_url, _user("unlink-worker", virtual_host))
    attempts: list[Callable[[BlockingChannel], object]] = [
        lambda channel: channel.basic_publish("unlink.commands", "default", b"{}"),
        lambda channel: channel.queue_delete("unlink.commands.default"),
        lambda channel: channel.queue_declare("another", durable=True),
        lambda channel: channel.basic_get("unlink.dead"),
    ]
    for attempt in attempts:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            attempt(channel)
        connection.close()


@pytest.mark.slow
def test_the_scaler_s_user_counts_waiting_commands_and_those_under_way(
    broker: LocalBroker, broker_url: str, virtual_host: str, as_operator: Callable[[list[Resource]], None]
) -> None:
    """KEDA would see no command, or too few, and end workers that are needed.

    The question is the one that KEDA's RabbitMQ scaler puts together from the trigger (pkg/scalers/rabbitmq_scaler.go).
    """
    two = resources(topology.describe(["default", "second"]), Place())
    as_operator([*two, *(each for each in rendered_topology() if each["kind"] == "User")])
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for exchange, routing_key in (
            ("unlink.commands", "default"),
            ("unlink.commands", "default"),
            ("unlink.commands", "second"),
            ("unlink.dead", ""),
        ):
            channel.basic_publish(exchange, routing_key, b"{}")
        under_way, _, _ = channel.basic_get("unlink.commands.default")
        assert under_way

        def counted() -> int:
            queues = _as_keda_asks(broker, virtual_host)
            return sum(each.get("messages", 0) for each in queues)

        assert wait_until(lambda: counted() == 3, seconds=_TIMEOUT_SECONDS, interval=0.2), counted()


def _effective(api: Api) -> dict[str, dict[str, Any]]:
    """Each queue's arguments, and those that its policy gives."""
    return {
        name: queue["arguments"]
        | {f"x-{key}": value for key, value in (queue.get("effective_policy_definition") or {}).items()}
        for name, queue in api.queues().items()
    }


def _as_user(broker_url: str, user: str) -> str:
    parts = urlsplit(broker_url)
    return parts._replace(netloc=f"{user}:{_PASSWORD}@{parts.hostname}:{parts.port}").geturl()


def _as_keda_asks(broker: LocalBroker, virtual_host: str) -> list[dict[str, Any]]:
    ((trigger,),) = (each["spec"]["triggers"] for each in rendered("production").of_kind("ScaledObject"))
    metadata = trigger["metadata"]
    assert (metadata["useRegex"], metadata["operation"], metadata["mode"]) == ("true", "sum", "QueueLength")
    address = urlsplit(broker.management_url)
    answer = requests.get(
        f"http://{address.hostname}:{address.port}/api/queues/{quote(virtual_host, safe='')}",
        params={
            "page": "1",
            "use_regex": "true",
            "pagination": "false",
            "name": metadata["queueName"],
            "page_size": "100",
        },
        auth=(_user("unlink-worker-scaler", virtual_host), _PASSWORD),
        timeout=30,
    )
    answer.raise_for_status()
    content = json.loads(answer.content)
    assert content["page_count"] == 1
    items: list[dict[str, Any]] = content["items"]
    return items
