"""How many commands a second go through the broker side alone; printed, not asserted (pytest -s shows it)."""

from __future__ import annotations

import asyncio
import time

import pika
import pytest

from tests.broker.conftest import Site
from tests.broker.events import make_event

COMMANDS = 3000


@pytest.mark.slow
async def test_consume_publish_confirm_acknowledge(site: Site) -> None:
    """A worker would spend its time on the broker instead of on Enterprise Manager."""
    worker = await site.start_worker(queues={"default": 500})
    worker.broker.pause("default", "until all are there")
    with site.channel() as channel:
        for _ in range(COMMANDS):
            channel.basic_publish("unlink.commands", "default", b"{}", pika.BasicProperties(delivery_mode=2))
    event = make_event().to_bytes()

    async def one() -> None:
        delivery = await worker.next()
        await worker.broker.outbox.publish(event)
        delivery.acknowledge()

    started = time.perf_counter()
    worker.broker.resume("default", "until all are there")
    async with asyncio.timeout(60):
        await asyncio.gather(*(one() for _ in range(COMMANDS)))
    seconds = time.perf_counter() - started
    print(f"\nbroker side: {COMMANDS / seconds:.0f} commands a second, consumed, published, confirmed, acknowledged")  # noqa: T201 - its purpose
