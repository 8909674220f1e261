"""Messages larger than the contract allows, on a real broker: a worker holds few of them at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.broker.conftest import Site, Worker
from tests.waiting import until
from worker.broker import large_messages

SIZE = 400_000
#: Two of them fit.
MOST = 1_000_000
PREFETCH = 8


@pytest.fixture(autouse=True)
def _little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_messages, "MAX_BYTES", MOST)


def body(number: int) -> bytes:
    """A large message."""
    return b"%d " % number + b"x" * SIZE


async def start(site: Site) -> Worker:
    """A worker with two queues."""
    return await site.start_worker(queues={"default": PREFETCH, "other": PREFETCH})


def bytes_in_hand(deliveries: list[Any]) -> int:
    """How many bytes of large messages are among these."""
    return sum(len(delivery.body) for delivery in deliveries if len(delivery.body) > 64 * 1024)


async def unacknowledged(site: Site, count: int) -> None:
    """Wait until so many messages were delivered and not settled."""
    await until(
        lambda: sum(int(queue.get("messages_unacknowledged", -99)) for queue in site.ask("queues")) == count,
        f"{count} unacknowledged messages",
    )


async def test_of_many_large_messages_few_are_in_hand_and_each_comes_once(site: Site) -> None:
    """A slot for each, and the worker would be killed for its memory, again after each start."""
    worker = await start(site)
    for number in range(2 * PREFETCH):
        site.send(body(number), routing_key="other" if number % 2 else "default")
    await unacknowledged(site, 2 * PREFETCH)
    received: list[bytes] = []
    while len(received) < 2 * PREFETCH:
        await until(lambda: worker.deliveries, "a delivery")
        assert bytes_in_hand(worker.deliveries) <= MOST, "of both queues together"
        delivery = worker.deliveries.pop(0)
        assert delivery.live
        received.append(delivery.body)
        delivery.acknowledge()
    assert sorted(received) == sorted(body(number) for number in range(2 * PREFETCH))
    await unacknowledged(site, 0)
    assert not site.logged("broker.channel_lost")


async def test_large_messages_in_hand_delay_no_command(site: Site) -> None:
    """A few large messages whose answers take a minute each would delay all commands behind them."""
    worker = await start(site)
    for number in range(4):
        site.send(body(number))
    await unacknowledged(site, 4)
    site.send(b"a command")
    await until(lambda: any(delivery.body == b"a command" for delivery in worker.deliveries))
    assert len(worker.deliveries) == 3


async def test_a_message_larger_than_all_room_is_taken_alone(site: Site) -> None:
    """It could never be answered."""
    worker = await start(site)
    site.send(b"x" * (2 * MOST))
    site.send(body(1))
    huge = await worker.next()
    await unacknowledged(site, 2)
    assert len(huge.body) == 2 * MOST
    assert not worker.deliveries
    huge.acknowledge()
    assert (await worker.next()).body == body(1)


async def test_what_another_worker_has_taken_over_leaves_none_waiting(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message would wait for room that is there, until the broker ends its consumer."""
    monkeypatch.setattr(large_messages, "CHECK_SECONDS", 0.2)
    worker = await start(site)
    for number in range(5):
        site.send(body(number))
    await unacknowledged(site, 5)
    other = await start(site)
    for delivery in worker.deliveries:
        delivery.acknowledge()
    worker.deliveries.clear()
    received: set[bytes] = set()
    while len(received) < 3:
        await until(lambda: worker.deliveries or other.deliveries, "a delivery to one of the workers")
        delivery = (worker.deliveries or other.deliveries).pop(0)
        received.add(delivery.body[:1])
        delivery.acknowledge()
    await unacknowledged(site, 0)


async def test_what_waits_for_long_returns_to_its_queue(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker would end the consumer with all that it holds, since one delivery was held too long."""
    monkeypatch.setattr(large_messages, "CHECK_SECONDS", 0.2)
    worker = await start(site)
    for number in range(4):
        site.send(body(number))
    await unacknowledged(site, 4)
    monkeypatch.setattr(large_messages, "LONGEST_WAIT_SECONDS", 0.1)
    other = await start(site)
    assert {(await other.next()).body[:1] for _ in range(2)} == {b"2", b"3"}
    assert len(worker.deliveries) == 2


async def test_large_message_during_a_pause_is_not_kept_and_comes_after_it(site: Site) -> None:
    """Paused queues would fill the memory, or their large messages never be answered."""
    worker = await start(site)
    site.send(b"under way")
    under_way = await worker.next()
    worker.broker.pause("default", "down")
    for number in range(3):
        site.send(body(number))
    site.send(b"a command")
    await unacknowledged(site, 5)
    assert not worker.deliveries
    site.send(body(9), routing_key="other")
    (await worker.next()).acknowledge()
    worker.broker.resume("default", "down")
    bodies = []
    for _ in range(4):
        delivery = await worker.next()
        bodies.append(delivery.body)
        delivery.acknowledge()
    assert sorted(bodies) == sorted([b"a command", *(body(number) for number in range(3))])
    under_way.acknowledge()


async def test_lost_connection_leaves_room(site: Site) -> None:
    """After some losses no large message would be taken any more."""
    worker = await start(site)
    for number in range(4):
        site.send(body(number))
    for _ in range(2):
        await until(lambda: len(worker.deliveries) == 2)
        await asyncio.to_thread(site.close_connections)
        await until(lambda: not any(delivery.live for delivery in worker.deliveries))
        worker.deliveries.clear()
    received = set()
    for _ in range(4):
        delivery = await worker.next()
        received.add(delivery.body[:1])
        delivery.acknowledge()
    assert received == {b"0", b"1", b"2", b"3"}
