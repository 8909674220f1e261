"""The three ways of losing a consumer, each of which looks alive: what `/livez` makes of them, on a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import requests

from tests.waiting import until
from worker.broker.broker import Broker
from worker.broker.delivery import BrokerDelivery
from worker.broker.intake import QueueIntake
from worker.clock import SystemClock
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.settings import BrokerSettings
from worker.telemetry.health import GracePeriods, Health

TIMEOUT_SECONDS = 60.0
QUEUE = "unlink.commands.default"


class There:
    """A part that is up."""

    up = True
    last_problem = None


class Consumer:
    """A worker's broker side, with its health."""

    def __init__(self, url: str, server: LocalBroker, virtual_host: str) -> None:
        self.delivered: list[BrokerDelivery] = []
        self.broker = Broker(
            BrokerSettings.model_validate({"url": url}),
            SystemClock(),
            queues={"default": 5},
            reply_to="",
            deliver=self.delivered.append,
        )
        self.health = Health(
            broker=self.broker,
            ledger=There(),
            enterprise_managers={"default": There()},
            monotonic=time.monotonic,
            clean=str,
            grace=GracePeriods(consumer=1),
        )
        self._api = f"{server.management_url}/api"
        self._virtual_host = virtual_host

    async def lose_connection(self) -> None:
        """The broker closes the connection that consumes."""
        for each in await self._get("connections"):
            if each["vhost"] == self._virtual_host and " consume " in each["client_properties"]["connection_name"]:
                await asyncio.to_thread(requests.delete, f"{self._api}/connections/{each['name']}", timeout=30)

    async def lose_channel(self) -> None:
        """The broker closes the channel alone: a delivery is acknowledged that it does not know."""
        await self._publish()
        await until(lambda: bool(self.delivered), "a delivery")
        channel = self.delivered[-1]._channel  # noqa: SLF001 - no caller of ours can make this mistake
        channel.basic_ack(999_999)

    async def be_cancelled(self) -> None:
        """The broker cancels the consumer: somebody deletes the queue."""
        url = f"{self._api}/queues/{self._virtual_host}/{QUEUE}"
        await asyncio.to_thread(requests.delete, url, timeout=30)

    async def _publish(self) -> None:
        message = {"properties": {}, "routing_key": "default", "payload": "{}", "payload_encoding": "string"}
        url = f"{self._api}/exchanges/{self._virtual_host}/unlink.commands/publish"
        await asyncio.to_thread(requests.post, url, json=message, timeout=30)

    async def _get(self, path: str) -> list[Any]:
        # The API's list of connections is up to 5 s old.
        over = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < over:
            answer = await asyncio.to_thread(requests.get, f"{self._api}/{path}", timeout=30)
            mine = [each for each in answer.json() if each.get("vhost") == self._virtual_host]
            if any("connection_name" in each.get("client_properties", {}) for each in mine) and len(mine) > 1:
                return mine
            await asyncio.sleep(0.2)
        raise AssertionError(f"never: a list of {path}")


WAYS: dict[str, Callable[[Consumer], Awaitable[None]]] = {
    "connection closed": Consumer.lose_connection,
    "channel closed alone": Consumer.lose_channel,
    "consumer cancelled": Consumer.be_cancelled,
}


@asynccontextmanager
async def consuming(url: str, server: LocalBroker, virtual_host: str) -> AsyncIterator[Consumer]:
    """A broker that consumes, and the check of its health."""
    consumer = Consumer(url, server, virtual_host)
    await consumer.broker.start()
    watch = asyncio.create_task(consumer.health.keep_watch())
    try:
        yield consumer
    finally:
        watch.cancel()
        await consumer.broker.close()


@pytest.mark.parametrize("way", WAYS)
async def test_a_consumer_that_comes_back_leaves_it_alive(
    broker_url: str, broker: LocalBroker, virtual_host: str, way: str
) -> None:
    """A loss that is recovered from costs no restart, and none of the work in hand."""
    async with consuming(broker_url, broker, virtual_host) as consumer:
        consumer.health._grace = GracePeriods()  # noqa: SLF001 - as in production
        await WAYS[way](consumer)
        await until(lambda: not consumer.broker.consuming, "the loss")
        assert consumer.health.live().good
        await until(lambda: consumer.broker.consuming == {"default"}, "a new consumer")
        assert consumer.health.live().good


@pytest.mark.parametrize("way", WAYS)
async def test_a_consumer_that_is_silently_gone_ends_the_worker(
    broker_url: str, broker: LocalBroker, virtual_host: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connected, and nobody takes the commands: what a probe must not call alive, whatever kept it from recovering."""
    async with consuming(broker_url, broker, virtual_host) as consumer:

        async def hang(_intake: QueueIntake) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(QueueIntake, "_consume_on_a_channel", hang)
        await WAYS[way](consumer)
        await until(lambda: not consumer.health.live().good, "a no from /livez")
        report = consumer.health.live()
        assert "default" in report.parts["consumers"]["problem"]
        assert report.parts["loop"]["ok"]
        assert consumer.broker.up


async def test_a_queue_that_is_paused_is_not_missed(broker_url: str, broker: LocalBroker, virtual_host: str) -> None:
    """Not consuming for an Enterprise Manager that is down is meant so."""
    async with consuming(broker_url, broker, virtual_host) as consumer:
        consumer.health._grace = GracePeriods(consumer=0)  # noqa: SLF001 - not a moment's grace
        consumer.broker.pause("default", "away")
        await until(lambda: not consumer.broker.consuming, "the pause")
        consumer.health._missing_since = consumer.health._missing(time.monotonic())  # noqa: SLF001 - at once
        assert consumer.health.live().good
