"""Messages and answers that the worker cannot be prepared for: each is answered, and the queue moves on."""

from __future__ import annotations

import json
from pathlib import Path

import pika
import pytest

from tests.end_to_end.world import World, vendor_command

#: Fewer than the messages that used to take a slot for ever.
FEW_SLOTS = {"UNLINK_ENTERPRISE_MANAGERS__DEFAULT__MAX_IN_FLIGHT": "2"}


@pytest.mark.parametrize("field", ["correlation_id", "requested_by", "reason", "idempotency_key", "ticket"])
def test_lone_surrogates_are_rejected_and_take_no_slot(world: World, field: str) -> None:
    """A message of 50 bytes would be answered by nothing, and a few of them would stop the queue for good."""
    worker = world.serve(FEW_SLOTS)
    value = {"system": "\ud800", "id": "\ud800"} if field == "ticket" else "\ud800"
    for number in range(3):
        world.send(json.dumps(vendor_command(f"CHG{number}") | {"labels": {"n": str(number)}, field: value}).encode())
    world.unlink("GOOD")
    world.until_acknowledged()
    world.until(lambda: world.client.count("unlink.dead") == 3, "three dead letters")
    rejected = [event.data["reason"]["code"] for event in world.received if event.outcome == "rejected"]
    assert rejected == ["invalid_message"] * 3
    assert "unlink.attempt_failed" not in worker.log()


def test_headers_as_long_as_a_frame_are_answered_and_end_no_connection(world: World, broker_url: str) -> None:
    """Where frames are short, the dead letter of one message would end the connection again and again."""
    worker = world.serve(FEW_SLOTS | {"UNLINK_BROKER__URL": f"{broker_url}?frame_max=8192"})
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        for size in (7500, 8000, 8100):
            properties = pika.BasicProperties(headers={"tracestate": "x" * size})
            body = b"not JSON %d" % size
            connection.channel().basic_publish("unlink.commands", "default", body, properties)
    world.unlink("GOOD")
    world.until_acknowledged()
    world.until(lambda: world.client.count("unlink.dead") == 3, "three dead letters")
    assert len([event for event in world.received if event.outcome == "rejected"]) == 3
    assert "broker.connection_lost" not in worker.log()


@pytest.mark.slow
def test_many_messages_of_megabytes_take_little_memory_while_they_cannot_be_answered(
    world: World, broker_url: str
) -> None:
    """The kernel would kill the worker for its memory, and again after each start: the messages are redelivered."""
    count, size = 24, 8 * 1024 * 1024
    worker = world.serve({"UNLINK_ENTERPRISE_MANAGERS__DEFAULT__MAX_IN_FLIGHT": "64"})
    world.unlink("FIRST")
    before = peak_memory(worker.pid)
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        full = {"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"}
        channel = connection.channel()
        channel.queue_declare("audit", durable=True, arguments=full)
        channel.basic_publish("", "audit", b"fills it up")
        channel.queue_bind("audit", "unlink.events", "rejected.#")
    for number in range(count):
        world.send(b"%d " % number + b"x" * size)
    world.until(lambda: world.client.count("unlink.commands.default") == 0, "all delivered")
    world.unlink("GOOD")
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        connection.channel().queue_unbind("audit", "unlink.events", "rejected.#")
    world.until(lambda: world.client.count("unlink.dead") == count, "a dead letter of each message")
    world.until_acknowledged()
    assert len({event.id for event in world.received if event.outcome == "rejected"}) == count
    grown = peak_memory(worker.pid) - before
    assert grown < count * size / 2, f"{grown >> 20} MiB for messages of {count * size >> 20} MiB"
    assert "broker.connection_lost" not in worker.log()


def peak_memory(pid: int) -> int:
    """The most bytes that a process has had resident so far."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
