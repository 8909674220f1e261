"""A worker's broker side on a real RabbitMQ, and somebody else's plain AMQP client beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest
import requests
from pika.adapters.blocking_connection import BlockingChannel
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.private_servers.broker_users import BrokerUsers, close_connections
from tests.rabbitmq import own_node
from tests.waiting import until, wait_until
from worker.broker.broker import Broker
from worker.clock import SystemClock
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.settings import BrokerSettings

#: Properties, routing key, body.
Message = tuple[Any, str, bytes]


class Site:
    """A virtual host: a plain blocking client on it, workers, and what the broker's operator can do to it.

    Attributes:
        settings: a worker's, for this virtual host.
        user: that of the workers and of the plain client.
        logs: what was logged.
    """

    def __init__(self, broker: LocalBroker, virtual_host: str, users: BrokerUsers, logs: list[Any]) -> None:
        self._broker = broker
        self._virtual_host = virtual_host
        self._users = users
        self.user = f"user-of-{virtual_host}"
        self._url = users.url(self.user, tags="administrator")
        self._silent: set[str] = set()
        self._workers: list[Worker] = []
        self.settings = BrokerSettings(url=SecretStr(self._url))
        self.logs = logs

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

    # --- workers ---

    def make_worker(self, settings: BrokerSettings | None = None, **arguments: Any) -> Worker:
        """A worker, not started; closed at the end of the test."""
        self._workers.append(Worker(settings or self.settings, **arguments))
        return self._workers[-1]

    async def start_worker(self, settings: BrokerSettings | None = None, **arguments: Any) -> Worker:
        """A started worker."""
        worker = self.make_worker(settings, **arguments)
        await worker.broker.start()
        return worker

    def logged(self, event: str) -> list[Any]:
        """The log lines of an event."""
        return [entry for entry in self.logs if entry["event"] == event]

    # --- the operator ---

    def ask(self, what: str) -> Any:
        """What the broker's HTTP API shows of this virtual host: `exchanges`, `queues`."""
        return requests.get(f"{self._broker.management_url}/api/{what}/{self._virtual_host}", timeout=30).json()

    def new_user(self, **permissions: str) -> str:
        """Make a user with these permissions, and return a URL with it."""
        return self._users.url("limited", **permissions)

    def permit(self, **permissions: str) -> None:
        """Change what that user may do. Connections that it has stay open."""
        self._users.put(f"permissions/{self._virtual_host}/limited", {"configure": "", **permissions})

    def close_connections(self) -> None:
        """Close the connections of the workers and of the plain client, as an operator or a failing node would."""
        close_connections(self._broker, self.user, "tidying up")

    def alarm(self, *, on: bool) -> None:
        """Put the broker into a memory alarm, or end it; the connections have been notified when it returns.

        The command returns earlier: a publish that follows at once may still be confirmed, and is then not blocked.
        """
        own_node(self._broker).rabbitmqctl("set_vm_memory_high_watermark", "0.000001" if on else "0.6")
        check = f"{self._broker.management_url}/api/health/checks/local-alarms"
        wait_until(lambda: requests.get(check, timeout=30).ok is not on, "the alarm" if on else "the end of the alarm")

    def silence(self, queue: str, *, silent_now: bool) -> None:
        """Stop or resume a queue's process: meanwhile it confirms no message and registers no consumer."""
        function = "suspend" if silent_now else "resume"
        resource = f'rabbit_misc:r(<<"{self._virtual_host}">>, queue, <<"{queue}">>)'
        find = f"{{ok, Queue}} = rabbit_amqqueue:lookup({resource})"
        own_node(self._broker).rabbitmqctl("eval", f"{find}, sys:{function}(amqqueue:get_pid(Queue)).")
        (self._silent.add if silent_now else self._silent.discard)(queue)

    async def close(self) -> None:
        """Close the workers, and undo what would outlast the test."""
        for queue in list(self._silent):
            self.silence(queue, silent_now=False)
        for worker in self._workers:
            await worker.broker.close()


def _get(channel: BlockingChannel, queue: str) -> Message | None:
    method, properties, body = channel.basic_get(queue, auto_ack=True)
    if method is None or properties is None or body is None:
        return None
    return properties, method.routing_key or "", body


class HurriedClock(SystemClock):
    """The system's clock, but nobody waits for long before trying again."""

    async def sleep(self, seconds: float) -> None:
        """Wait, half a second at most."""
        await super().sleep(min(seconds, 0.5))


class Worker:
    """A worker's broker side, whose deliveries are only collected."""

    def __init__(self, settings: BrokerSettings, **arguments: Any) -> None:
        self.deliveries: list[Any] = []
        given: dict[str, Any] = {
            "queues": {"default": 16},
            "reply_to": "amq.rabbitmq.reply-to.*,reply.*",
            "delay_tiers": (1, 2),
            **arguments,
        }
        self.broker = Broker(settings, HurriedClock(), deliver=self.deliveries.append, **given)

    @property
    def problem(self) -> str:
        """Why the broker is not available; empty if it is."""
        return self.broker.last_problem or ""

    async def next(self) -> Any:
        """The next delivery; waits for it."""
        await until(lambda: self.deliveries, "a delivery")
        return self.deliveries.pop(0)


@pytest.fixture
async def site(broker: LocalBroker, virtual_host: str, broker_users: BrokerUsers) -> AsyncIterator[Site]:
    """This test's virtual host."""
    with capture_logs() as logs:
        site = Site(broker, virtual_host, broker_users, logs)
        yield site
        await site.close()


@pytest.fixture
async def worker(site: Site) -> Worker:
    """A started worker."""
    return await site.start_worker()
