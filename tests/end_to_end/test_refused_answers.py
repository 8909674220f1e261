"""Answers that the broker does not take: a subscriber's queue is full, or nothing can be dead-lettered."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.end_to_end.world import World, vendor_command
from tests.private_servers.broker_users import BrokerUsers
from worker.sandbox.processes.worker_process import WorkerProcess
from worker.sandbox.simulated_enterprise_manager import VENDOR_LINK_ID

IMPATIENT = (str(Path(__file__).with_name("impatient_worker.py")), "run")
SLOTS = 2
#: Few attempts, so that the last one fails while the test lasts.
SETTINGS = {
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__MAX_IN_FLIGHT": str(SLOTS),
    "UNLINK_MAX_ATTEMPTS": "2",
}
#: So many refusals that each message has been answered more often than there are attempts.
MANY_REFUSALS = 40
#: Of a classic queue, since a quorum queue takes a few messages more.
FULL_AFTER_ONE = {"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"}


@pytest.fixture
def channel(broker_url: str) -> Iterator[BlockingChannel]:
    """A channel of somebody else's."""
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        yield connection.channel()


def full_queue(channel: BlockingChannel, routing_key: str) -> None:
    """Subscribe with a queue that is full."""
    channel.queue_declare("audit", durable=True, arguments=FULL_AFTER_ONE)
    channel.queue_bind("audit", "unlink.events", routing_key)
    channel.basic_publish("", "audit", b"fills it up")


def until_refused_often(world: World, worker: WorkerProcess) -> None:
    """Wait until the broker has refused so many publishes that no attempt is left for any message."""
    world.until(lambda: worker.log().count("broker.publish_failed") >= MANY_REFUSALS, "refusals")


def read_all(world: World, channel: BlockingChannel, count: int) -> Counter[str]:
    """How often each event's ID comes out of the full queue, until `count` have come."""
    received: Counter[str] = Counter()

    def read_one() -> bool:
        _, properties, _ = channel.basic_get("audit", auto_ack=True)
        if properties is not None and properties.message_id is not None:
            received[properties.message_id] += 1
        return len(received) == count

    world.until(read_one, f"{count} events in the queue that was full")
    return received


def test_a_full_subscriber_to_rejections_stops_no_queue(world: World, channel: BlockingChannel) -> None:
    """A few bad messages would hold all slots, and write dead letters without end, until the subscriber reads."""
    worker = world.serve(SETTINGS, IMPATIENT)
    full_queue(channel, "rejected.#")
    for number in range(SLOTS + 1):
        world.send(f"not JSON {number}".encode())
    until_refused_often(world, worker)
    world.unlink("GOOD")
    assert world.client.count("unlink.dead") == 0, "the event comes first"

    received = read_all(world, channel, SLOTS + 1)
    world.until(lambda: world.client.count("unlink.dead") == SLOTS + 1, "a dead letter of each message")
    world.until_acknowledged()

    assert world.client.count("unlink.dead") == SLOTS + 1
    assert set(received) == {event.id for event in world.received if event.outcome == "rejected"}
    for event in ("unlink.requeued", "unlink.gave_up", "unlink.attempt_failed"):
        assert event not in worker.log()


def test_a_full_subscriber_to_plans_gets_each_plan_under_one_id(world: World, channel: BlockingChannel) -> None:
    """Each repeat would have an ID of its own, the last one say `gave_up`, and a consumer take all of them for new."""
    worker = world.serve(SETTINGS, IMPATIENT)
    full_queue(channel, "planned.#")
    for key in ("PLAN1", "PLAN2"):
        world.send(vendor_command(key, dry_run=True))
    until_refused_often(world, worker)

    received = read_all(world, channel, 2)
    world.until_acknowledged()

    plans = [event for event in world.received if event.outcome == "planned"]
    assert set(received) == {event.id for event in plans}
    assert all(event.data["reason"] is None for event in plans)
    world.send(vendor_command("PLAN1", dry_run=True))
    assert len(read_all(world, channel, 1) | received) == 3, "another dry run has another ID"
    assert {event.outcome for event in world.received} == {"planned"}


def test_a_full_subscriber_to_ended_unlinks_takes_no_slot_and_no_lease(world: World, channel: BlockingChannel) -> None:
    """As many finished unlinks as there are slots would stop the worker, until somebody reads one queue."""
    worker = world.serve(SETTINGS, IMPATIENT)
    full_queue(channel, "succeeded.#")
    keys = [f"DONE{number}" for number in range(SLOTS + 1)]
    for key in keys:
        world.send(vendor_command(key))
    until_refused_often(world, worker)
    other = world.unlink("OTHER", if_absent="fail")
    assert other.data["reason"]["code"] == "link_absent", "one of them has removed it"
    file = world.environment["UNLINK_LEDGER__URL"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(file)) as ledger:
        assert ledger.execute("SELECT key FROM unlinks WHERE worker IS NOT NULL").fetchall() == []
        assert ledger.execute("SELECT DISTINCT stage FROM unlinks").fetchall() == [("settled",)]
    deletes = world.enterprise_manager.deletes_of(VENDOR_LINK_ID)

    received = read_all(world, channel, len(keys))
    world.until_acknowledged()
    ends = {event.id for event in world.received if event.outcome == "succeeded"}
    assert set(received) == ends
    assert len(ends) == len(keys), "one end of each"
    assert world.client.count("unlink.dead") == 0
    assert world.enterprise_manager.deletes_of(VENDOR_LINK_ID) == deletes == 1
    assert "unlink.gave_up" not in worker.log()


def test_dead_letters_that_always_fail_stop_no_queue(world: World) -> None:
    """What could not be answered would return to the head of its queue, and hold all slots for ever."""
    worker = world.serve(SETTINGS | {"NO_DEAD_LETTER": "a mistake"}, IMPATIENT)
    for number in range(SLOTS):
        world.send(f"not JSON {number}".encode())
    world.until(lambda: worker.log().count("unlink.gave_up") >= SLOTS * 2, "all attempts failed, and some more")
    world.unlink("GOOD")
    assert "unlink.requeued" not in worker.log()


def test_a_lost_permission_to_dead_letter_stops_no_queue(world: World, broker_users: BrokerUsers) -> None:
    """One permission of many would be lost, and the worker do nothing any more."""
    world.start_worker(SETTINGS, IMPATIENT).stop()  # it declares the topology
    limited = broker_users.url("limited", write=r"^unlink\.(events|commands|delay\..*)$", read=r"^unlink\.")
    allowed = {"UNLINK_BROKER__URL": limited, "UNLINK_BROKER__TOPOLOGY": "verify"}
    worker = world.serve(SETTINGS | allowed, IMPATIENT)
    for number in range(SLOTS):
        world.send(f"not JSON {number}".encode())
    until_refused_often(world, worker)
    world.unlink("GOOD")

    broker_users.put(
        f"permissions/{limited.rpartition('/')[2]}/limited",
        {"configure": "", "write": r"^unlink\.", "read": r"^unlink\."},
    )
    world.until(lambda: world.client.count("unlink.dead") == SLOTS, "a dead letter of each message")
    world.until_acknowledged()
    assert len({event.id for event in world.received if event.outcome == "rejected"}) == SLOTS
    assert "unlink.requeued" not in worker.log()
    assert "unlink.gave_up" not in worker.log()
