"""A worker's broker side on a real RabbitMQ, and somebody else's plain AMQP client beside it."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pika
import pytest
import requests
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.waiting import until, wait_until
from worker.broker.broker import Broker
from worker.clock import SystemClock
from worker.settings import BrokerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping

    from pika.adapters.blocking_connection import BlockingChannel

    from tests.private_servers.broker_users import BrokerUsers
    from worker.sandbox.rabbitmq.private_broker import PrivateBroker
    from worker.unlinks.ports.broker import Delivery

    #: Properties, routing key, body.
    Message = tuple[pika.BasicProperties, str, bytes]


class Neighbour:
    """Somebody else on the same virtual host, with a plain blocking client; a connection for each step."""

    def __init__(self, url: str) -> None:
        self._url = url

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """A channel of its own connection."""
        connection = pika.BlockingConnection(pika.URLParameters(self._url))
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()

    def send(
        self, body: bytes, exchange: str = "unlink.commands", routing_key: str = "default", **properties: Any
    ) -> None:
        """Publish a message, confirmed."""
        with self.channel() as channel:
            channel.confirm_delivery()
            channel.basic_publish(exchange, routing_key, body, pika.BasicProperties(**properties))

    def queue(self, name: str, exchange: str, routing_key: str = "", **arguments: Any) -> None:
        """Make a queue and bind it."""
        with self.channel() as channel:
            channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum", **arguments})
            if exchange:
                channel.queue_bind(name, exchange, routing_key)

    def delete_queue(self, name: str) -> None:
        """Delete a queue."""
        with self.channel() as channel:
            channel.queue_delete(name)

    def count(self, queue: str) -> int:
        """How many messages are ready in it."""
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

    async def take(self, queue: str, seconds: float = 15) -> Message:
        """The next message. Waits for it."""
        taken: list[Message] = []
        with self.channel() as channel:

            def took_one() -> bool:
                taken.extend(message for message in [_get(channel, queue)] if message)
                return bool(taken)

            await until(took_one, f"a message in {queue}", seconds)
        return taken[0]

    def take_all(self, queue: str) -> list[Message]:
        """All messages that are ready."""
        messages = []
        with self.channel() as channel:
            while message := _get(channel, queue):
                messages.append(message)
        return messages


def _get(channel: BlockingChannel, queue: str) -> Message | None:
    method, properties, body = channel.basic_get(queue, auto_ack=True)
    if method is None or properties is None or body is None:
        return None
    return properties, method.routing_key or "", body


class ImpatientClock(SystemClock):
    """The system's clock, but nobody waits for long before trying again."""

    async def sleep(self, seconds: float) -> None:
        """Wait, half a second at most."""
        await super().sleep(min(seconds, 0.5))


class Worker:
    """A worker's broker side, whose deliveries are only collected."""

    def __init__(self, settings: BrokerSettings, **arguments: Any) -> None:
        self.deliveries: list[Delivery] = []
        given: dict[str, Any] = {
            "queues": {"default": 16},
            "reply_to": "amq.rabbitmq.reply-to.*,reply.*",
            "delay_tiers": (1, 2),
            **arguments,
        }
        self.broker = Broker(settings, ImpatientClock(), deliver=self.deliveries.append, **given)

    async def next(self) -> Delivery:
        """The next delivery; waits for it."""
        await until(lambda: self.deliveries, "a delivery", seconds=20)
        return self.deliveries.pop(0)


@pytest.fixture
def neighbour(broker_url: str) -> Neighbour:
    """Somebody else on this test's virtual host."""
    return Neighbour(broker_url)


@pytest.fixture
def settings(broker_url: str) -> BrokerSettings:
    """Settings for this test's virtual host."""
    return BrokerSettings(url=SecretStr(broker_url))


@pytest.fixture
async def make_worker(settings: BrokerSettings) -> AsyncIterator[Callable[..., Worker]]:
    """Makes workers, not started, and closes them in the end."""
    made: list[Worker] = []

    def make(own_settings: BrokerSettings | None = None, **arguments: Any) -> Worker:
        made.append(Worker(own_settings or settings, **arguments))
        return made[-1]

    yield make
    for worker in made:
        await worker.broker.close()


@pytest.fixture
async def worker(make_worker: Callable[..., Worker]) -> Worker:
    """A started worker."""
    worker = make_worker()
    await worker.broker.start()
    return worker


@pytest.fixture
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def ask_broker(broker: PrivateBroker, virtual_host: str) -> Callable[[str], Any]:
    """Asks the broker's HTTP API for what this test's virtual host has: `exchanges`, `queues`."""

    def ask(what: str) -> Any:
        return requests.get(f"{broker.management_url}/api/{what}/{virtual_host}", timeout=30).json()

    return ask


@pytest.fixture
def close_connections(broker: PrivateBroker, virtual_host: str) -> Callable[[], None]:
    """Has the broker close all connections of this test's virtual host, as an operator or a failing node would."""

    def close() -> None:
        broker.rabbitmqctl("close_all_connections", "--vhost", virtual_host, "tidying up")

    return close


@pytest.fixture
def in_alarm(broker: PrivateBroker) -> Iterator[Callable[..., None]]:
    """Puts the broker into a memory alarm, or ends it; the connections have been notified when it returns.

    The command returns earlier: a publish that follows at once may still be confirmed, and is then not blocked.
    """

    def alarm(*, on: bool) -> None:
        broker.rabbitmqctl("set_vm_memory_high_watermark", "0.000001" if on else "0.6")
        check = f"{broker.management_url}/api/health/checks/local-alarms"
        wait_until(lambda: requests.get(check, timeout=30).ok is not on, "the alarm" if on else "the end of the alarm")

    yield alarm
    alarm(on=False)


@pytest.fixture
def silent_queue(broker: PrivateBroker, virtual_host: str) -> Iterator[Callable[..., None]]:
    """Stops or resumes a queue's process: meanwhile the broker confirms no message for it and registers no consumer."""
    silent: set[str] = set()

    def switch(queue: str, *, silent_now: bool) -> None:
        function = "suspend" if silent_now else "resume"
        resource = f'rabbit_misc:r(<<"{virtual_host}">>, queue, <<"{queue}">>)'
        find = f"{{ok, Queue}} = rabbit_amqqueue:lookup({resource})"
        broker.rabbitmqctl("eval", f"{find}, sys:{function}(amqqueue:get_pid(Queue)).")
        (silent.add if silent_now else silent.discard)(queue)

    yield switch
    for queue in list(silent):
        switch(queue, silent_now=False)


@pytest.fixture
def new_user(broker_users: BrokerUsers) -> Callable[..., str]:
    """Makes a user with the permissions given, and returns a URL with it."""
    return partial(broker_users.url, "limited")
