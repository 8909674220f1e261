"""Exchanges, queues and bindings on a real broker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.waiting import until
from worker.broker.topology import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.settings import BrokerSettings


QUEUE = "unlink.commands.default"

#: Where each queue's messages go that it has to give up.
_DEAD_LETTERING = {
    QUEUE: "unlink.misrouted",
    "unlink.misrouted": "unlink.dead",
    "unlink.delay.1s": "unlink.commands",
}


async def test_declared_topology_is_the_one_described(worker: Any, ask_broker: Callable[[str], Any]) -> None:
    """What other systems are built against would not be there, or would lose messages."""
    assert worker.broker.up
    described = describe(["default"], (1, 2))
    queues = {each["name"]: each for each in ask_broker("queues")}
    assert queues.keys() == {queue.name for queue in described.queues}
    assert all(each["durable"] and each["arguments"]["x-queue-type"] == "quorum" for each in queues.values())
    exchanges = {each["name"]: each for each in ask_broker("exchanges")}
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


async def test_second_worker_finds_it_declared(worker: Any, make_worker: Callable[..., Any]) -> None:
    """Only one worker could run."""
    second = make_worker()
    async with asyncio.timeout(20):
        await second.broker.start()
    assert worker.broker.up
    assert second.broker.up


async def test_queue_that_differs_is_named_with_the_remedy_and_taken_once_it_is_gone(
    make_worker: Callable[..., Any], neighbour: Any
) -> None:
    """A queue left over from an older version would stop the worker without a word."""
    with neighbour.channel() as channel:
        channel.queue_declare("unlink.commands.default", durable=True, arguments={"x-queue-type": "quorum"})
    worker = make_worker()
    start = asyncio.create_task(worker.broker.start())
    await until(lambda: worker.broker.last_problem)
    assert "queue unlink.commands.default cannot be declared" in worker.broker.last_problem
    assert "x-dead-letter-exchange" in worker.broker.last_problem
    assert "UNLINK_BROKER__TOPOLOGY=verify" in worker.broker.last_problem
    assert not start.done()
    neighbour.delete_queue("unlink.commands.default")
    async with asyncio.timeout(20):
        await start


async def test_older_exchange_and_queue_are_replaced_without_losing_a_command(
    make_worker: Callable[..., Any], settings: BrokerSettings, neighbour: Any
) -> None:
    """After an update the worker would not start, or the way to get it started would lose commands."""
    dead_lettering = {"x-dead-letter-exchange": "unlink.dead", "x-dead-letter-strategy": "at-least-once"}
    with neighbour.channel() as channel:
        channel.exchange_declare("unlink.commands", "direct", durable=True, arguments={"alternate-exchange": "x"})
    neighbour.queue(QUEUE, "unlink.commands", "default", **dead_lettering, **{"x-overflow": "reject-publish"})
    neighbour.send(b"sent to the older queue")
    worker = make_worker()
    start = asyncio.create_task(worker.broker.start())
    await until(lambda: worker.broker.last_problem)
    assert "exchange unlink.commands cannot be declared" in worker.broker.last_problem
    assert "delete the exchange" in worker.broker.last_problem
    with neighbour.channel() as channel:
        channel.exchange_delete("unlink.commands")
    await until(lambda: "queue" in worker.broker.last_problem, seconds=30)
    assert f"queue {QUEUE} cannot be declared" in worker.broker.last_problem
    neighbour.send(b"sent in between")
    verifying = make_worker(settings.model_copy(update={"topology": "verify"}))
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
        neighbour.delete_queue(QUEUE)
        await start


async def test_verifying_names_all_that_is_missing_and_starts_once_it_is_there(
    make_worker: Callable[..., Any], settings: BrokerSettings
) -> None:
    """Where the broker's owner declares the topology, nobody would know what is still missing."""
    verifying = make_worker(settings.model_copy(update={"topology": "verify"}))
    start = asyncio.create_task(verifying.broker.start())
    await until(lambda: verifying.broker.last_problem)
    for name in ("exchange unlink.events", "queue unlink.commands.default", "queue unlink.delay.2s"):
        assert name in verifying.broker.last_problem
    declaring = make_worker()
    await declaring.broker.start()
    async with asyncio.timeout(20):
        await start
    assert verifying.broker.consuming == {"default"}
