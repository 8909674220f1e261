"""Messages that the broker, or something before it, answers by ending the connection; and outages, which are none."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from contracts.events import Event, Outcome, Reason, ReasonCode
from tests.broker.conftest import Site, Worker
from tests.broker.events import make_event
from tests.waiting import until
from worker.broker.outbox import CUT_OFF_IN_A_ROW
from worker.broker.problems import BrokerClosedError
from worker.sandbox.processes.free_ports import LOOPBACK
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.unlinks.ports.broker import PublishRefusedError

#: The shortest frame that every version of RabbitMQ accepts, in bytes.
SHORT_FRAME = 8192

_longer: ContextVar[int] = ContextVar("_longer", default=0)


def settings_with(site: Site, **parameters: int) -> Any:
    """A worker's settings with these parameters in its URL."""
    url = "&".join([f"{name}={value}" for name, value in parameters.items()])
    return site.settings.model_copy(update={"url": SecretStr(f"{site.settings.url.get_secret_value()}?{url}")})


def headers() -> Mapping[str, str]:
    """Headers that together are longer than a frame, in the context of an event that provokes the broker."""
    return {f"long-{number}": "x" * 500 for number in range(_longer.get())}


async def provoke(worker: Worker, event: Event) -> None:
    """Publish an event that a short frame cannot hold."""
    _longer.set(20)
    await worker.broker.outbox.publish(event)


async def test_headers_that_fill_a_short_frame_are_left_behind(site: Site) -> None:
    """Where frames are shorter than by default, one command would end the connection at every attempt."""
    worker = await site.start_worker(settings_with(site, frame_max=SHORT_FRAME))
    site.send(b"command", headers={"large": "x" * (SHORT_FRAME - 200)})
    delivery = await worker.next()
    reason = Reason(code=ReasonCode.INVALID_MESSAGE, message="\N{SNOWMAN}" * 1000)
    async with asyncio.timeout(10):
        await worker.broker.outbox.dead_letter(delivery, reason)
        await worker.broker.outbox.delay(delivery, 1, failed=True)
    delivery.acknowledge()
    properties, _, body = await site.take("unlink.dead")
    assert body == b"command"
    assert properties.headers["unlink-headers-dropped"] is True
    assert properties.headers["unlink-reason"] == reason.message
    assert (await worker.next()).attempt == 2
    assert not site.logged("broker.connection_lost")


async def test_message_that_the_broker_answers_by_closing_the_connection_fails_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message would end the connection again and again, and with it the publishes of all others."""
    monkeypatch.setattr("worker.broker.outbox.REFUSED_SECONDS", 2.0)
    worker = await site.start_worker(settings_with(site, frame_max=SHORT_FRAME), event_headers=headers)
    culprit = make_event(key="culprit")
    events = [make_event(key=f"key-{number}") for number in range(20)]
    publishes = [asyncio.ensure_future(worker.broker.outbox.publish(event)) for event in events[:10]]
    provoking = asyncio.create_task(provoke(worker, culprit))
    publishes += [asyncio.ensure_future(worker.broker.outbox.publish(event)) for event in events[10:]]
    async with asyncio.timeout(30):
        await asyncio.gather(*publishes)
        with pytest.raises(PublishRefusedError, match="the broker closed it \\(501"):
            await provoking
    losses = [entry["purpose"] for entry in site.logged("broker.connection_lost")]
    assert losses == ["publish"], "once, together with all others"
    assert {entry["message_id"] for entry in site.logged("broker.publish_failed")} == {culprit.id}
    assert len(site.logged("broker.publish_failed")) > 1

    monkeypatch.setattr("worker.broker.outbox.REFUSED_AGAIN_SECONDS", 0.5)
    with pytest.raises(PublishRefusedError):  # when its command returns from the delay queue
        await provoke_again(worker, culprit)
    assert len(site.logged("broker.connection_lost")) == 1, "no second time"
    await worker.broker.outbox.publish(culprit)  # it would be shorter meanwhile
    arrived = {properties.message_id for properties, _, _ in site.take_all("unlink.unrouted")}
    assert arrived == {event.id for event in [*events, culprit]}


async def provoke_again(worker: Worker, event: Event) -> None:
    """Publish an event that has provoked the broker before, in a context of its own."""

    async def publish() -> None:
        _longer.set(20)
        await worker.broker.outbox.publish(event, refusals=1)

    await asyncio.create_task(publish())


class Gate:
    """A port that leads to the broker. It resets each connection on which something forbidden passes, as a firewall.

    After `most` resets it lets everything pass.

    Attributes:
        resets: how often it has reset a connection.
    """

    def __init__(self, upstream: int, forbidden: bytes, most: float) -> None:
        self._upstream = upstream
        self._forbidden = forbidden
        self._most = most
        self._writers: set[asyncio.StreamWriter] = set()
        self.resets = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes."""
        self._writers.add(writer)
        far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self._upstream)
        back = asyncio.create_task(self._pass_on(far_reader, writer))
        try:
            await self._pass_on(reader, far_writer)
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            far_writer.transport.abort()
            writer.transport.abort()
            self._writers.discard(writer)

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._writers)

    def reset_all(self) -> None:
        """Reset all connections."""
        for writer in list(self._writers):
            self.resets += 1
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(2**20):
                if self._forbidden in piece and self.resets < self._most:
                    self.resets += 1
                    return
                writer.write(piece)
                await writer.drain()
        except OSError:
            return


@asynccontextmanager
async def gate(broker: LocalBroker, forbidden: bytes, most: float = math.inf) -> AsyncIterator[tuple[Gate, int]]:
    """A gate and its port."""
    gate = Gate(broker.port, forbidden, most)
    server = await asyncio.start_server(gate.serve, LOOPBACK, 0)
    try:
        yield gate, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        gate.reset_all()


def through(site: Site, broker: LocalBroker, port: int) -> Any:
    """A worker's settings with that port."""
    url = site.settings.url.get_secret_value().replace(f":{broker.port}/", f":{port}/")
    return site.settings.model_copy(update={"url": SecretStr(url)})


async def test_message_at_which_each_connection_is_cut_off_fails_alone(
    site: Site, broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker's reason for closing a connection can be lost on its way, and a firewall gives none."""
    monkeypatch.setattr("worker.broker.outbox.REFUSED_SECONDS", 2.0)
    async with gate(broker, b"culprit") as (between, port):
        worker = await site.start_worker(through(site, broker, port))
        culprit = asyncio.ensure_future(worker.broker.outbox.publish(make_event(key="culprit")))
        await until(lambda: between.resets >= 2)
        events = [make_event(key=f"key-{number}") for number in range(20)]
        async with asyncio.timeout(60):
            await asyncio.gather(*(worker.broker.outbox.publish(event) for event in events))
            with pytest.raises(PublishRefusedError):
                await culprit
        assert [entry["purpose"] for entry in site.logged("broker.connection_lost")] == ["publish"] * 3
        await worker.broker.close()
    arrived = {properties.message_id for properties, _, _ in site.take_all("unlink.unrouted")}
    assert arrived == {event.id for event in events}


@pytest.mark.rabbitmqctl
@pytest.mark.parametrize("end", ["closed by an operator", "cut off"])
async def test_outage_however_often_it_comes_is_no_refusal(
    site: Site, broker: LocalBroker, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A network that flaps, or a broker that is upgraded, would send finished commands to a delay queue."""
    monkeypatch.setattr("worker.broker.outbox.REFUSED_SECONDS", 0.0)
    async with gate(broker, b"\0nothing\0") as (between, port):
        worker = await site.start_worker(through(site, broker, port))
        await asyncio.to_thread(site.silence, "unlink.unrouted", silent_now=True)
        event = make_event(outcome=Outcome.SUCCEEDED)
        publish = asyncio.ensure_future(worker.broker.outbox.publish(event))
        for _ in range(6):
            await until(lambda: worker.broker.up)
            losses = len(site.logged("broker.connection_lost"))
            while len(site.logged("broker.connection_lost")) == losses:
                if end == "cut off":
                    between.reset_all()
                    await asyncio.sleep(0)
                else:
                    with suppress(requests.HTTPError):  # 3.10 answers 500 if a connection has just been closed
                        await asyncio.to_thread(site.close_connections)
            assert not publish.done()
        await asyncio.to_thread(site.silence, "unlink.unrouted", silent_now=False)
        async with asyncio.timeout(60):
            await publish
        assert not site.logged("broker.publish_failed")
        await worker.broker.close()
    assert {body for _, _, body in site.take_all("unlink.unrouted")} == {event.to_bytes()}


@pytest.mark.rabbitmqctl
async def test_worker_that_closes_leaves_no_connection_of_a_single_message(site: Site, broker: LocalBroker) -> None:
    """A drain would wait for the confirm of one message, or its connection outlive the worker's others."""
    async with gate(broker, b"culprit", most=CUT_OFF_IN_A_ROW) as (between, port):
        worker = await site.start_worker(through(site, broker, port))
        await asyncio.to_thread(site.silence, "unlink.unrouted", silent_now=True)
        publish = asyncio.ensure_future(worker.broker.outbox.publish(make_event(key="culprit")))
        await until(lambda: worker.broker.up and between.connections == 3, "a connection of its own")
        assert between.resets == CUT_OFF_IN_A_ROW
        assert not publish.done()
        async with asyncio.timeout(20):
            await worker.broker.close()
            with pytest.raises(BrokerClosedError):
                await publish
        await until(lambda: between.connections == 0)
