"""The least that each of those around the queue needs is enough, and no more than that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
import requests
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from contracts.events import Event, Reason, ReasonCode
from contracts.published import examples
from worker.broker.broker import Broker
from worker.broker.client import BrokerClient
from worker.clock import SystemClock
from worker.dead_letters.queue import DeadQueue
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.settings import BrokerSettings
from worker.unlinks.ports.broker import Delivery, ReplyTo

UrlOf = Callable[[str], str]

COMMAND = json.dumps(examples("unlink.v1")[-1]).encode()
EVENT = Event.model_validate_json(json.dumps(examples("unlink.succeeded.v1")[0]))
REFUSED = 403
WAIT_SECONDS = 60


@pytest.fixture
def channel_of(url_of: UrlOf) -> Iterator[Callable[[str], BlockingChannel]]:
    """Gives a channel, with confirms, of a user by name."""
    connections: list[pika.BlockingConnection] = []

    def channel_of(name: str) -> BlockingChannel:
        connections.append(pika.BlockingConnection(pika.URLParameters(url_of(name))))
        channel = connections[-1].channel()
        channel.confirm_delivery()
        return channel

    yield channel_of
    for connection in connections:
        if connection.is_open:
            connection.close()


@pytest.fixture
def admin(broker: LocalBroker, users_virtual_host: str) -> Iterator[BlockingChannel]:
    """A channel of somebody who may do everything."""
    with pika.BlockingConnection(pika.URLParameters(broker.url + users_virtual_host)) as connection:
        yield connection.channel()


def refused(action: Callable[[], Any]) -> bool:
    """Whether the broker answers with its word for a missing permission."""
    with pytest.raises(ChannelClosedByBroker) as caught:
        action()
    return bool(caught.value.reply_code == REFUSED)


@pytest.mark.slow
def test_who_runs_the_recipe_again_changes_no_password(
    url_of: UrlOf, make_users: Callable[[], None], channel_of: Callable[[str], BlockingChannel]
) -> None:
    """Whoever adds a permission to the recipe and runs it again would lock all publishers and workers out."""
    url_of("unlink-observer")
    make_users()
    assert channel_of("unlink-observer").is_open


@pytest.mark.parametrize("name", ["unlink-publisher", "unlink-pipeline"])
def test_a_publisher_publishes_commands_and_nothing_else(
    channel_of: Callable[[str], BlockingChannel], admin: BlockingChannel, name: str
) -> None:
    """A ticketing system whose password leaks gives away no events, and forges none."""
    admin.queue_purge("unlink.commands.default")
    channel_of(name).basic_publish("unlink.commands", "default", COMMAND, mandatory=True)
    assert admin.basic_get("unlink.commands.default", auto_ack=True)[2] == COMMAND
    assert refused(lambda: channel_of(name).basic_publish("unlink.events", "succeeded.default", b"{}"))
    assert refused(lambda: channel_of(name).basic_publish("unlink.dead", "", b"{}"))
    assert refused(lambda: channel_of(name).basic_publish("", "unlink.commands.default", COMMAND))
    assert refused(lambda: channel_of(name).basic_get("unlink.commands.default"))
    assert refused(lambda: channel_of(name).basic_get("unlink.dead"))
    assert refused(lambda: channel_of(name).queue_delete("unlink.commands.default"))
    assert refused(lambda: channel_of(name).queue_purge("unlink.commands.default"))
    assert refused(lambda: channel_of(name).queue_declare("mine", durable=True))


def test_a_publisher_may_wait_for_a_direct_reply(
    channel_of: Callable[[str], BlockingChannel], admin: BlockingChannel
) -> None:
    """Direct reply-to needs no permission of its own."""
    answers: list[bytes] = []
    channel = channel_of("unlink-publisher")
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *delivery: answers.append(delivery[-1]), auto_ack=True)
    admin.queue_purge("unlink.commands.default")
    properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
    channel.basic_publish("unlink.commands", "default", COMMAND, properties, mandatory=True)
    command = admin.basic_get("unlink.commands.default", auto_ack=True)[1]
    assert command is not None
    assert command.reply_to is not None
    admin.basic_publish("", command.reply_to, b"done")
    while not answers:
        channel.connection.process_data_events(time_limit=1)
    assert answers == [b"done"]


def test_a_publisher_without_amqp_uses_the_http_api(
    broker: LocalBroker, users_virtual_host: str, url_of: UrlOf, admin: BlockingChannel
) -> None:
    """A system that speaks only HTTP publishes, and sees no more of the broker than it must."""
    url_of("unlink-http-publisher")
    admin.queue_purge("unlink.commands.default")
    api = broker.management_url.rpartition("@")[2]
    as_publisher = f"http://unlink-http-publisher:known@{api}/api"
    publish = f"{as_publisher}/exchanges/{users_virtual_host}/unlink.commands/publish"
    body = {"routing_key": "default", "properties": {}, "payload": COMMAND.decode(), "payload_encoding": "string"}
    assert requests.post(publish, json=body, timeout=30).json() == {"routed": True}
    assert admin.basic_get("unlink.commands.default", auto_ack=True)[2] == COMMAND
    get = f"{as_publisher}/queues/{users_virtual_host}/unlink.dead/get"
    question = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
    assert not requests.post(get, json=question, timeout=30).ok


@pytest.mark.parametrize("name", ["unlink-pipeline", "unlink-observer"])
def test_who_listens_hears_events_and_publishes_none(
    url_of: UrlOf, channel_of: Callable[[str], BlockingChannel], admin: BlockingChannel, name: str
) -> None:
    """Watching gives no power to forge an event."""
    settings = BrokerSettings.model_validate({"url": url_of(name)})
    with BrokerClient(settings) as client:
        client.listen()
        admin.basic_publish("unlink.events", "succeeded.default", EVENT.to_bytes())
        received = client.next_event(WAIT_SECONDS)
    assert received is not None
    assert received.id == EVENT.id
    assert refused(lambda: channel_of(name).basic_publish("unlink.events", "succeeded.default", b"{}"))


def test_a_pipeline_finds_out_whether_somebody_serves_its_commands(url_of: UrlOf) -> None:
    """`submit --wait` works with a pipeline's permissions from first to last."""
    with BrokerClient(BrokerSettings.model_validate({"url": url_of("unlink-pipeline")})) as client:
        client.require_queue("default")
        client.listen()
        client.publish(COMMAND, "default")


def test_the_console_orders_waits_and_sees_to_dead_letters(
    url_of: UrlOf, channel_of: Callable[[str], BlockingChannel], admin: BlockingChannel
) -> None:
    """The broker would refuse what the pages offer; or an attacker who took the console over could forge events."""
    for queue in ("unlink.commands.default", "unlink.dead"):
        admin.queue_purge(queue)
    admin.confirm_delivery()
    for _ in range(2):
        admin.basic_publish("unlink.dead", "default", COMMAND)
    with DeadQueue(BrokerSettings.model_validate({"url": url_of("unlink-console")})) as client:
        client.require_queue("default")
        client.listen("*.default")
        client.publish(COMMAND, "default", sender="console:j.doe")
        assert client.waiting("default") == 1
        assert client.delayed() is not None  # RabbitMQ 4.3 tells it to nobody without a permission on these queues
        with client.messages() as messages:
            replayed, discarded = messages
            assert client.is_served("default")
            client.replay(replayed.message)
            client.remove(replayed)
            client.remove(discarded)
    assert admin.queue_declare("unlink.dead", passive=True).method.message_count == 0
    assert [admin.basic_get("unlink.commands.default", auto_ack=True)[2] for _ in range(2)] == [COMMAND] * 2
    assert refused(lambda: channel_of("unlink-console").basic_publish("unlink.events", "succeeded.default", b"{}"))
    assert refused(lambda: channel_of("unlink-console").basic_get("unlink.commands.default"))
    assert refused(lambda: channel_of("unlink-console").queue_purge("unlink.commands.default"))
    assert refused(lambda: channel_of("unlink-console").queue_delete("unlink.dead"))


def test_an_observer_keeps_a_lasting_queue_and_publishes_no_command(
    channel_of: Callable[[str], BlockingChannel], admin: BlockingChannel
) -> None:
    """A consumer that was away hears what happened meanwhile, and can order nothing."""
    channel = channel_of("unlink-observer")
    channel.queue_declare("observer.tickets", durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_bind("observer.tickets", "unlink.events", "succeeded.*")
    admin.confirm_delivery()
    admin.basic_publish("unlink.events", "succeeded.default", EVENT.to_bytes(), mandatory=True)
    assert channel.basic_get("observer.tickets", auto_ack=True)[2] == EVENT.to_bytes()
    channel.queue_delete("observer.tickets")
    assert refused(lambda: channel_of("unlink-observer").basic_publish("unlink.commands", "default", COMMAND))
    assert refused(lambda: channel_of("unlink-observer").queue_declare("unlink.commands.mine", durable=True))
    assert refused(lambda: channel_of("unlink-observer").basic_get("unlink.commands.default"))


@pytest.mark.parametrize(("name", "topology"), [("unlink-worker", "verify"), ("unlink-owner", "declare")])
async def test_a_worker_does_all_its_work(url_of: UrlOf, admin: BlockingChannel, name: str, topology: str) -> None:
    """With the permissions written down, a worker takes commands, publishes events, replies, delays, and puts aside."""
    answers = admin.queue_declare("reply.mine", exclusive=True).method.queue
    for queue in ("unlink.commands.default", "unlink.misrouted", "unlink.dead", "unlink.unrouted", "unlink.delay.5s"):
        admin.queue_purge(queue)
    taken: asyncio.Queue[Delivery] = asyncio.Queue()
    settings = BrokerSettings.model_validate({"url": url_of(name), "topology": topology})
    broker = Broker(
        settings, SystemClock(), queues={"default": 1}, reply_to="amq.rabbitmq.reply-to.*", deliver=taken.put_nowait
    )
    async with asyncio.timeout(WAIT_SECONDS):
        await broker.start()
        try:
            admin.basic_publish("unlink.commands", "nobody", COMMAND)
            (await taken.get()).acknowledge()
            admin.basic_publish("unlink.commands", "default", COMMAND)
            delivery = await taken.get()
            await broker.outbox.publish(EVENT, [ReplyTo(answers)])
            await broker.outbox.delay(delivery, 5, failed=False)
            await broker.outbox.dead_letter(delivery, Reason(code=ReasonCode.INVALID_MESSAGE, message="no"))
            delivery.acknowledge()
        finally:
            await broker.close()
    assert admin.basic_get(answers, auto_ack=True)[2] == EVENT.to_bytes()
    assert admin.basic_get("unlink.unrouted", auto_ack=True)[2] == EVENT.to_bytes()
    assert admin.basic_get("unlink.dead", auto_ack=True)[2] == COMMAND


def test_a_worker_that_only_verifies_can_neither_make_nor_destroy(channel_of: Callable[[str], BlockingChannel]) -> None:
    """A worker whose password leaks cannot delete what waits, nor order unlinks of its own."""
    assert refused(lambda: channel_of("unlink-worker").queue_delete("unlink.commands.default"))
    assert refused(lambda: channel_of("unlink-worker").queue_declare("mine", durable=True))
    assert refused(lambda: channel_of("unlink-worker").basic_publish("unlink.commands", "default", COMMAND))
    assert refused(lambda: channel_of("unlink-worker").basic_get("unlink.dead"))
