"""Commands without a queue, and commands that the broker took away: each is answered with an event."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pika
import pytest
import requests
from pika.adapters.blocking_connection import BlockingChannel

from contracts.events import rejection_id
from tests.end_to_end.world import TIMEOUT_SECONDS, World, vendor_command
from worker.broker.misrouted import MISROUTED_SECONDS_HEADER
from worker.broker.topology import MISROUTED
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.sandbox.simulated_enterprise_manager import VENDOR_LINK_ID

QUEUE = "unlink.commands.default"
BRANCH = "UNLINK_ENTERPRISE_MANAGERS__BRANCH__"


def body_of(key: str, enterprise_manager: str) -> bytes:
    """The vendor's example for an Enterprise Manager, as a message."""
    return json.dumps(vendor_command(key, enterprise_manager=enterprise_manager)).encode()


def publish(broker_url: str, body: bytes, routing_key: str, **properties: Any) -> None:
    """Publish a message as it is."""
    with closing(pika.BlockingConnection(pika.URLParameters(broker_url))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("unlink.commands", routing_key, body, pika.BasicProperties(**properties), mandatory=True)


def dead_letter(world: World, broker_url: str) -> pika.BasicProperties:
    """The only dead letter's properties. It is written after the event of a rejection."""
    world.until(lambda: world.client.count("unlink.dead") == 1, "a dead letter")
    with closing(pika.BlockingConnection(pika.URLParameters(broker_url))) as connection:
        _, properties, _ = connection.channel().basic_get("unlink.dead", auto_ack=True)
    assert properties is not None
    return properties


def _count(channel: BlockingChannel, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


@pytest.fixture
def take_away(broker: LocalBroker, virtual_host: str, broker_url: str) -> Callable[[bytes], None]:
    """Have the broker take a command from its queue, as it does after a thousand deliveries; no worker may run."""

    def take(body: bytes) -> None:
        policy = f"{broker.management_url}/api/policies/{virtual_host}/limit"
        definition = {"pattern": f"^{QUEUE}$", "definition": {"delivery-limit": 1}, "apply-to": "queues"}
        requests.put(policy, json=definition, timeout=30).raise_for_status()
        with closing(pika.BlockingConnection(pika.URLParameters(broker_url))) as connection:
            channel = connection.channel()
            expected = _count(channel, MISROUTED) + 1
            publish(broker_url, body, "default")
            over = time.monotonic() + TIMEOUT_SECONDS
            # The policy and the dead-lettering take their time, more on a busy machine.
            for method, _, _ in channel.consume(QUEUE, inactivity_timeout=0.1):
                assert time.monotonic() < over, "never: the command was taken away"
                if method is not None and method.delivery_tag is not None:
                    channel.basic_reject(method.delivery_tag, requeue=True)
                elif _count(channel, MISROUTED) == expected:
                    break
        requests.delete(policy, timeout=30).raise_for_status()

    return take


def test_command_for_a_name_that_no_worker_serves_is_rejected_after_ten_minutes(world: World, broker_url: str) -> None:
    """It would disappear without an event, and its sender wait for ever."""
    world.start_worker()
    world.listen()
    body = body_of("CHG1", "branch")
    publish(broker_url, body, "branch", headers={MISROUTED_SECONDS_HEADER: 595})
    world.until_ended("CHG1")
    (event,) = world.of("CHG1")
    assert event.id == rejection_id(body)
    assert (event.outcome, event.data["reason"]["code"]) == ("rejected", "unknown_enterprise_manager")
    assert (event.data["enterprise_manager"], event.data["changed"]) == ("branch", False)
    assert event.content["source"] == "/unlink-worker/branch"
    headers = dead_letter(world, broker_url).headers or {}
    assert headers["unlink-reason-code"] == "unknown_enterprise_manager"
    assert headers["unlink-queue"] == "unlink.misrouted"


@pytest.mark.slow
def test_command_that_comes_before_the_worker_that_serves_it_is_done(world: World, broker_url: str) -> None:
    """A rolling update that adds an Enterprise Manager would reject good commands."""
    first = world.start_worker()
    world.listen()
    publish(broker_url, body_of("CHG1", "branch"), "branch")
    first.wait_for_log("unlink.deferred")
    assert world.of("CHG1") == []
    settings = {name: world.environment[f"UNLINK_ENTERPRISE_MANAGERS__DEFAULT__{name}"] for name in ("URL", "USERNAME")}
    settings |= {"PASSWORD": world.enterprise_manager.password, "CA_FILE": str(world.enterprise_manager.ca_file)}
    world.start_worker({BRANCH + name: value for name, value in settings.items()})
    world.until_ended("CHG1")
    assert {outcome for outcome, _ in world.ends_of("CHG1")} == {"succeeded"}
    assert world.client.count("unlink.dead") == 0


@pytest.mark.parametrize("body", [vendor_command(), {"command": "nonsense"}], ids=["command", "unreadable"])
def test_routing_key_that_is_no_name_is_answered_at_once(world: World, broker_url: str, body: Any) -> None:
    """A slip in a routing key would swallow the command."""
    world.start_worker()
    world.listen()
    publish(broker_url, json.dumps(body).encode(), "no.such name")
    key = body.get("idempotency_key")
    world.until_ended(key)
    (event,) = world.of(key)
    assert (event.outcome, event.data["reason"]["code"]) == ("rejected", "unknown_enterprise_manager")
    assert event.data["enterprise_manager"] == "_unknown"
    assert "'no.such name'" in event.data["reason"]["message"]
    world.until(lambda: world.client.count("unlink.dead") == 1, "a dead letter")


def test_settled_command_that_the_broker_took_away_is_answered_with_its_event(
    world: World, take_away: Callable[[bytes], None]
) -> None:
    """Its sender would not be told, or be told of a failure that was none."""
    worker = world.start_worker()
    world.listen()
    world.send(body_of("CHG1", "default"))
    world.until_ended("CHG1")
    worker.stop()
    take_away(body_of("CHG1", "default"))
    world.received.clear()
    world.start_worker()
    world.until_ended("CHG1")
    assert {outcome for outcome, _ in world.ends_of("CHG1")} == {"succeeded"}
    assert world.client.count("unlink.dead") == 0
    assert world.client.count("unlink.misrouted") == 0


def test_command_that_the_broker_took_away_ends_as_failed_and_once(
    world: World, broker_url: str, take_away: Callable[[bytes], None]
) -> None:
    """A command that brings each worker down would end without an event, or be run once more under the same key."""
    world.start_worker().stop()
    world.listen()
    take_away(body_of("CHG1", "default"))
    world.start_worker()
    world.until_ended("CHG1")
    world.send(body_of("CHG1", "default"))
    world.until(lambda: len(world.of("CHG1")) >= 2, "the same event again")
    first, second = world.of("CHG1")
    assert first.body == second.body
    assert (first.outcome, first.data["reason"]["code"], first.data["changed"]) == ("failed", "gave_up", None)
    assert world.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 0
    assert (dead_letter(world, broker_url).headers or {})["unlink-reason-code"] == "gave_up"


def test_command_taken_away_from_a_queue_of_another_worker_is_answered_by_that_one(
    world: World, take_away: Callable[[bytes], None]
) -> None:
    """A worker that has another ledger would answer for a key of which it knows nothing."""
    other = {
        name.replace("__DEFAULT__", "__BRANCH__"): value
        for name, value in world.environment.items()
        if "__DEFAULT__" in name
    }
    world.start_worker().stop()
    world.listen()
    take_away(body_of("CHG1", "default"))
    for name in list(world.environment):
        if "__DEFAULT__" in name:
            del world.environment[name]
    bystander = world.start_worker(other)
    world.until(lambda: world.client.count(QUEUE) == 1, "the command, back in its queue")
    assert world.of("CHG1") == []
    assert "unlink.gave_up" not in bystander.log()
    world.environment |= {name.replace("__BRANCH__", "__DEFAULT__"): value for name, value in other.items()}
    world.start_worker()
    world.until_ended("CHG1")
    assert [(event.outcome, event.data["reason"]["code"]) for event in world.of("CHG1")] == [("failed", "gave_up")]


def test_cancel_that_the_broker_took_away_is_recorded(world: World, take_away: Callable[[bytes], None]) -> None:
    """An unlink that somebody asked to stop would be done."""
    world.start_worker().stop()
    world.listen()
    take_away(json.dumps({"command": "cancel.v1", "idempotency_key": "CHG1"}).encode())
    world.start_worker().wait_for_log("unlink.cancel_recorded")
    world.send(vendor_command())
    world.until_ended("CHG1")
    assert {outcome for outcome, _ in world.ends_of("CHG1")} == {"cancelled"}


def test_dry_run_that_the_broker_took_away_is_a_plan_that_was_given_up(
    world: World, take_away: Callable[[bytes], None]
) -> None:
    """A dry run would leave a trace in the ledger, and the real command be refused."""
    world.start_worker().stop()
    world.listen()
    take_away(json.dumps(vendor_command(dry_run=True)).encode())
    world.start_worker()
    world.until_ended("CHG1")
    (event,) = world.of("CHG1")
    assert (event.outcome, event.data["reason"]["code"], event.data["changed"]) == ("planned", "gave_up", False)
    world.send(vendor_command())
    world.until(lambda: "succeeded" in {outcome for outcome, _ in world.ends_of("CHG1")}, "the real one's end")
    world.until_acknowledged()
    assert world.client.count("unlink.dead") == 1
