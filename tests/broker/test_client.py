"""The blocking client of tools, on a broker that hangs, and beside other programs' messages."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from tests.broker.conftest import Site
from tests.broker.events import make_event
from tests.private_servers.proxy import Direction, Network, Proxy
from tests.waiting import until
from worker.broker import connection
from worker.broker.client import BrokerClient, BrokerClientError, NoQueueError
from worker.broker.dead_letters import DeadLetter
from worker.dead_letters.queue import DeadQueue
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.settings import BrokerSettings


@pytest.mark.timeout(20, func_only=True)  # the broker that all tests share may be started for this one
def test_ctrl_c_waits_for_no_answer_of_the_broker(broker: LocalBroker, broker_url: str) -> None:
    """Whoever presses it while the broker hangs, or between two frames, would wait for a minute more."""
    with Network() as network:
        way = network.proxy([broker.port])
        url = broker_url.replace(f":{broker.port}/", f":{way.port}/")
        client = BrokerClient(BrokerSettings.model_validate({"url": url}))
        with pytest.raises(KeyboardInterrupt):
            interrupt_while_it_hangs(client, way)
        way.heal()
        client._connection.close()  # noqa: SLF001 - a program ends here, and its connection with it


def interrupt_while_it_hangs(client: BrokerClient, way: Proxy) -> None:
    """Use the client until Ctrl-C."""
    with client:
        way.black_hole(*Direction)
        raise KeyboardInterrupt


def test_a_broker_that_accepts_and_never_answers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever submits while the broker hangs would get a stack trace: pika's time-out is none of its AMQP errors."""
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        client = BrokerClient(BrokerSettings.model_validate({"url": f"amqp://127.0.0.1:{port}/"}))
        with pytest.raises(BrokerClientError, match=rf"127\.0\.0\.1:{port} cannot be reached \(no answer in time\)"):
            client.__enter__()


@pytest.mark.timeout(60, func_only=True)  # as above
def test_a_message_that_is_not_confirmed_is_one_line(broker: LocalBroker, site: Site) -> None:
    """Commands and the console's threads would wait for ever for a broker that runs and confirms nothing."""
    with site.channel() as channel:
        channel.exchange_declare("unlink.commands", durable=True)
        channel.queue_declare("orders")
        channel.queue_bind("orders", "unlink.commands", "default")
    with Network() as network:
        way = network.proxy([broker.port])
        url = site.settings.url.get_secret_value().replace(f":{broker.port}/", f":{way.port}/")
        letter = DeadLetter(b"{}", pika.BasicProperties(), "default")
        uses: list[Callable[[DeadQueue], None]] = [
            lambda client: client.publish(b"{}", "default"),
            lambda client: client.replay(letter),
        ]
        for use in uses:
            with DeadQueue(BrokerSettings.model_validate({"url": url, "confirm_seconds": 0.5})) as client:
                use(client)
                way.black_hole(Direction.ANSWERS)
                with pytest.raises(BrokerClientError, match=r"did not confirm the message in 0\.5 seconds"):
                    use(client)
            way.heal()
    assert site.count("orders") == 4


@pytest.mark.rabbitmqctl
async def test_an_alarm_is_waited_for(site: Site) -> None:
    """A batch would break off in the middle for an alarm of half a minute."""
    with site.channel() as channel:
        channel.exchange_declare("unlink.commands", durable=True)
        channel.queue_declare("orders")
        channel.queue_bind("orders", "unlink.commands", "default")
    with BrokerClient(site.settings.model_copy(update={"confirm_seconds": 0.5})) as client:
        await asyncio.to_thread(site.alarm, on=True)
        try:
            publishing = asyncio.create_task(asyncio.to_thread(client.publish, b"{}", "default"))
            await until(lambda: client._alarmed)  # noqa: SLF001 - as below
            first = client._deadline  # noqa: SLF001 - nobody is notified of it
            await until(lambda: client._deadline is not first)  # noqa: SLF001 - as above
            assert not publishing.done()
        finally:
            await asyncio.to_thread(site.alarm, on=False)
        await publishing
    assert site.count("orders") == 1


async def test_message_of_another_program_on_the_events_exchange_is_skipped(site: Site) -> None:
    """Whoever waits for the end of a command would get a stack trace instead, after the command was published."""
    await site.start_worker()
    event = make_event()
    with BrokerClient(site.settings) as client:
        client.listen()
        for body in (
            b"no JSON",
            b"\xff",
            b"[" * 100_000,
            b"[]",
            b'{"data": {}}',
            b'{"id": "1", "data": {"outcome": 1}}',
        ):
            site.send(body, "unlink.events", "succeeded.default")
        site.send(event.to_bytes(), "unlink.events", "succeeded.default")
        received = client.next_event(10)
        assert received is not None
        assert received.id == event.id


async def test_a_queue_whose_nodes_are_down_is_served(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """`submit` would say that no worker has ever served this Enterprise Manager."""
    text = "NOT_FOUND - home node 'rabbit@a' of durable queue 'unlink.commands.default' is down or inaccessible"
    with BrokerClient(site.settings) as client:
        with pytest.raises(NoQueueError):
            client.require_queue("default")

        def refuse(*_: object, **__: object) -> None:
            raise ChannelClosedByBroker(404, text)

        monkeypatch.setattr(BlockingChannel, "queue_declare", refuse)
        client.require_queue("default")
