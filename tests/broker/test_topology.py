"""Exchanges, queues and bindings on a real broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pika.exceptions import ChannelClosedByBroker

from tests.broker.conftest import Site, Worker
from tests.waiting import until
from worker.broker.channels import AwaitableChannel
from worker.broker.problems import ChannelLostError
from worker.broker.topology import DELAY_TIERS, describe
from worker.doctor.broker import examine

QUEUE = "unlink.commands.default"

#: Where each queue's messages go that it has to give up.
_DEAD_LETTERING = {
    QUEUE: "unlink.misrouted",
    "unlink.misrouted": "unlink.dead",
    "unlink.delay.1s": "unlink.commands",
}


async def test_declared_topology_is_the_one_described(worker: Worker, site: Site) -> None:
    """What other systems are built against would not be there, or would lose messages."""
    assert worker.broker.up
    described = describe(["default"], (1, 2))
    queues = {each["name"]: each for each in site.ask("queues")}
    assert queues.keys() == {queue.name for queue in described.queues}
    assert all(each["durable"] and each["arguments"]["x-queue-type"] == "quorum" for each in queues.values())
    exchanges = {each["name"]: each for each in site.ask("exchanges")}
    assert {name: exchanges[name]["type"] for name in exchanges if name.startswith("unlink")} == {
        exchange.name: exchange.kind for exchange in described.exchanges
    }
    assert exchanges["unlink.commands"]["arguments"] == {"alternate-exchange": "unlink.misrouted"}
    assert exchanges["unlink.events"]["arguments"] == {"alternate-exchange": "unlink.unrouted"}
    for name in ("unlink.commands.default", "unlink.delay.1s"):
        arguments = queues[name]["arguments"]
        assert arguments["x-dead-letter-strategy"] == "at-least-once"
        assert arguments["x-overflow"] == "reject-publish"
    dead_lettering = {name: queues[name]["arguments"]["x-dead-letter-exchange"] for name in _DEAD_LETTERING}
    assert dead_lettering == _DEAD_LETTERING
    assert queues["unlink.delay.1s"]["arguments"]["x-message-ttl"] == 1000


async def test_second_worker_finds_it_declared(worker: Worker, site: Site) -> None:
    """Only one worker could run."""
    second = site.make_worker()
    async with asyncio.timeout(20):
        await second.broker.start()
    assert worker.broker.up
    assert second.broker.up


async def test_queue_that_differs_is_named_with_the_remedy_and_taken_once_it_is_gone(site: Site) -> None:
    """A queue left over from an older version would stop the worker without a word."""
    with site.channel() as channel:
        channel.queue_declare("unlink.commands.default", durable=True, arguments={"x-queue-type": "quorum"})
    worker = site.make_worker()
    start = asyncio.create_task(worker.broker.start())
    await until(lambda: worker.problem)
    assert "queue unlink.commands.default cannot be declared" in worker.problem
    assert "x-dead-letter-exchange" in worker.problem
    assert "UNLINK_BROKER__TOPOLOGY=verify" in worker.problem
    assert not start.done()
    site.delete_queue("unlink.commands.default")
    async with asyncio.timeout(20):
        await start


async def test_older_exchange_and_queue_are_replaced_without_losing_a_command(site: Site) -> None:
    """After an update the worker would not start, or the way to get it started would lose commands."""
    dead_lettering = {"x-dead-letter-exchange": "unlink.dead", "x-dead-letter-strategy": "at-least-once"}
    with site.channel() as channel:
        channel.exchange_declare("unlink.commands", "direct", durable=True, arguments={"alternate-exchange": "x"})
    site.queue(QUEUE, "unlink.commands", "default", **dead_lettering, **{"x-overflow": "reject-publish"})
    site.send(b"sent to the older queue")
    worker = site.make_worker()
    start = asyncio.create_task(worker.broker.start())
    await until(lambda: worker.problem)
    assert "exchange unlink.commands cannot be declared" in worker.problem
    assert "delete the exchange" in worker.problem
    with site.channel() as channel:
        channel.exchange_delete("unlink.commands")
    await until(lambda: "queue" in worker.problem, seconds=30)
    assert f"queue {QUEUE} cannot be declared" in worker.problem
    site.send(b"sent in between")
    verifying = site.make_worker(site.settings.model_copy(update={"topology": "verify"}))
    async with asyncio.timeout(30):
        await verifying.broker.start()
        came = [await verifying.next() for _ in range(2)]
        assert {(each.body, each.misrouting is None) for each in came} == {
            (b"sent to the older queue", True),
            (b"sent in between", False),
        }
        for each in came:
            each.acknowledge()
        await verifying.broker.close()
        site.delete_queue(QUEUE)
        await start


async def test_verifying_names_all_that_is_missing_and_starts_once_it_is_there(site: Site) -> None:
    """Where the broker's owner declares the topology, nobody would know what is still missing."""
    verifying = site.make_worker(site.settings.model_copy(update={"topology": "verify"}))
    start = asyncio.create_task(verifying.broker.start())
    await until(lambda: verifying.problem)
    for name in ("exchange unlink.events", "queue unlink.commands.default", "queue unlink.delay.2s"):
        assert name in verifying.problem
    await site.start_worker()
    async with asyncio.timeout(20):
        await start
    assert verifying.broker.consuming == {"default"}


@pytest.fixture
def another_declares(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of queues whose next declaration RabbitMQ refuses.

    As it does to all but the first of several clients that declare a queue at the same time.
    """
    queues: list[str] = []
    declare = AwaitableChannel.call

    async def call(channel: AwaitableChannel, method: Any, **arguments: Any) -> None:
        if method.__name__ == "queue_declare" and arguments["queue"] in queues:
            queues.remove(arguments["queue"])
            text = f"NOT_FOUND - home node 'rabbit@a' of durable queue '{arguments['queue']}' is down or inaccessible"
            raise ChannelLostError(ChannelClosedByBroker(404, text))
        await declare(channel, method, **arguments)

    monkeypatch.setattr(AwaitableChannel, "call", call)
    return queues


async def test_a_queue_that_another_worker_is_declaring_is_not_called_missing(
    site: Site, another_declares: list[str]
) -> None:
    """The first start of several workers would log errors, and advise to declare what is just being declared."""
    another_declares.append("unlink.dead")
    worker = site.make_worker()
    async with asyncio.timeout(20):
        await worker.broker.start()
    (said,) = site.logged("broker.connection_failed")
    assert said["log_level"] == "warning"
    assert "another client is just declaring it" in said["problem"]
    assert "missing" not in said["problem"]


async def test_a_queue_that_stays_unusable_is_an_error(site: Site, another_declares: list[str]) -> None:
    """Nobody would be woken while the nodes of a queue are down."""
    another_declares += ["unlink.dead"] * 4
    worker = site.make_worker()
    async with asyncio.timeout(30):
        await worker.broker.start()
    levels: dict[str, list[str]] = {"consume": [], "publish": []}
    for each in site.logged("broker.connection_failed"):
        levels[each["purpose"]].append(each["log_level"])
    for of_one in levels.values():
        assert of_one == ["warning", "error", "error", "error"][: len(of_one)]
    assert max(map(len, levels.values())) > 1


async def test_a_queue_whose_nodes_are_down_is_there(site: Site, worker: Worker, another_declares: list[str]) -> None:
    """A worker that only verifies would ask for a declaration, which helps nobody."""
    assert worker.broker.up
    another_declares.append("unlink.dead")
    verifying = site.make_worker(site.settings.model_copy(update={"topology": "verify"}))
    async with asyncio.timeout(20):
        await verifying.broker.start()
    assert not site.logged("broker.connection_failed")
    assert not another_declares


async def test_doctor_does_not_call_a_queue_missing_whose_nodes_are_down(
    site: Site, another_declares: list[str]
) -> None:
    """Its remedy, to declare the queue, would lead away from the node that is down."""
    await site.start_worker(delay_tiers=DELAY_TIERS)
    another_declares.append("unlink.dead")
    settings = site.settings.model_copy(update={"topology": "verify"})
    found = [str(each) for each in [finding async for finding in examine(settings, ["default"])]]
    (said,) = [each for each in found if "unlink.dead" in each]
    assert "there, but not on any node" in said
    assert not any("missing" in each for each in found)
