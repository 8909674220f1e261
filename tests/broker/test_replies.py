"""Replies: a copy of the terminal event to the queue that a command names."""

from __future__ import annotations

import asyncio
from base64 import b64encode

import pika
import pytest
from pydantic import SecretStr

from contracts.events import Outcome
from tests.broker.conftest import Site, Worker
from tests.broker.events import make_event
from tests.garbage import alive, without_search
from worker.broker.confirms import ConfirmChannel
from worker.broker.direct_reply_to import can_be_decoded
from worker.broker.problems import ChannelLostError
from worker.settings import BrokerSettings
from worker.unlinks.ports.broker import ReplyTo


async def test_reply_goes_to_the_queue_asked_for_when_the_command_has_ended(worker: Worker, site: Site) -> None:
    """A publisher that waits for the answer on its own queue would wait in vain, or be told too early."""
    site.queue("reply.me", "")
    await worker.broker.outbox.publish(make_event(outcome=Outcome.SUBMITTED), [ReplyTo("reply.me")])
    ended = make_event()
    await worker.broker.outbox.publish(ended, [ReplyTo("reply.me")])
    replies = site.take_all("reply.me")
    assert [body for _, _, body in replies] == [ended.to_bytes()]
    assert replies[0][0].message_id == ended.id


async def test_each_reply_has_the_correlation_id_that_its_caller_expects(worker: Worker, site: Site) -> None:
    """A caller drops a reply with another's correlation ID, and waits in vain; observers see the command's own."""
    site.queue("reply.me", "")
    event = make_event(correlation_id="FIELD")
    waiting = [ReplyTo("reply.me", "A"), ReplyTo("reply.me", "B"), ReplyTo("reply.me")]
    await worker.broker.outbox.publish(event, waiting)
    assert [properties.correlation_id for properties, _, _ in site.take_all("reply.me")] == ["A", "B", "FIELD"]
    assert [properties.correlation_id for properties, _, _ in site.take_all("unlink.unrouted")] == ["FIELD"]


async def test_reply_queue_that_is_gone_or_forbidden_does_not_hold_the_event_up(site: Site) -> None:
    """One publisher's wrong reply address would hold its command for ever, and end other publishes with its channel."""
    url = site.new_user(configure=r"^unlink\..*", write=r"^unlink\..*", read=r"^unlink\..*")
    worker = await site.start_worker(BrokerSettings(url=SecretStr(url)))
    async with asyncio.timeout(10):
        await worker.broker.outbox.publish(
            make_event(), [ReplyTo("reply.nobody"), ReplyTo("amq.rabbitmq.reply-to.g1.nonsense")]
        )
    await site.take("unlink.unrouted")
    assert site.logged("broker.reply_failed")
    assert not site.logged("broker.channel_lost")


async def test_a_reply_that_fails_is_freed(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event whose reply could not be published would be kept, until a search for cycles that may be hours away."""
    await worker.broker.outbox.publish(make_event())

    async def fail(_: object) -> ConfirmChannel:
        raise ChannelLostError(TimeoutError())

    monkeypatch.setattr(ConfirmChannel, "open", fail)
    with without_search():
        before = alive(ReplyTo)
        for _ in range(3):
            await worker.broker.outbox.publish(make_event(), [ReplyTo("reply.me")])
        assert alive(ReplyTo) <= before


async def test_direct_reply_to_survives_a_delay(worker: Worker, site: Site) -> None:
    """A caller that waits on direct reply-to would get no answer once its command had to wait."""
    replies: list[bytes] = []
    with site.channel() as channel:
        channel.basic_consume("amq.rabbitmq.reply-to", lambda *message: replies.append(message[3]), auto_ack=True)
        properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
        channel.basic_publish("unlink.commands", "default", b"command", properties)
        delivery = await worker.next()
        await worker.broker.outbox.delay(delivery, 1, failed=False)
        delivery.acknowledge()
        delivery = await worker.next()
        event = make_event()
        assert delivery.reply_to is not None
        await worker.broker.outbox.publish(event, [ReplyTo(delivery.reply_to)])
        channel.connection.process_data_events(time_limit=1)
    assert replies == [event.to_bytes()]


def _generated(node: bytes, length: int | None = None, rest: bytes = bytes(12)) -> str:
    """A name as the broker generates it, of the channel of some node."""
    size = len(node) if length is None else length
    process = b64encode(b"\x83Xv" + size.to_bytes(2) + node + rest).decode()
    return f"amq.rabbitmq.reply-to.{process}.SGVsbG8="


#: Names that RabbitMQ 3.10 and 4.0 cannot decode, or that look as if.
UNDECODABLE = (
    "amq.rabbitmq.reply-to.",
    "amq.rabbitmq.reply-to.x",
    "amq.rabbitmq.reply-to.g1.nonsense",
    "amq.rabbitmq.reply-to.g1h.junk",
    "amq.rabbitmq.reply-to.g2EF.AAAA",
    "amq.rabbitmq.reply-to.g2QAA2Zvbw==.AAAA",
    f"amq.rabbitmq.reply-to.g2.{'A' * 200}",
    _generated(b"reply@64347956", rest=bytes(7)),
    _generated(b"reply@64347956", length=13),
    _generated(b"nowhere"),
)


@pytest.mark.parametrize("name", UNDECODABLE)
async def test_reply_queue_that_the_broker_cannot_decode_does_not_end_the_connection(
    worker: Worker, site: Site, name: str
) -> None:
    """RabbitMQ 3.10 and 4.0 would close the connection once for each message: one sender would stop all events."""
    for number in range(10):
        await worker.broker.outbox.publish(make_event(f"key-{number}"), [ReplyTo(name)])
    assert len(site.logged("broker.reply_failed")) == 10
    assert not site.logged("broker.connection_lost")
    assert not site.logged("broker.channel_lost")


async def test_names_that_the_broker_generates_can_be_decoded(worker: Worker, site: Site) -> None:
    """No caller that waits on direct reply-to would get an answer any more."""
    with site.channel() as channel:
        channel.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
        properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
        channel.basic_publish("unlink.commands", "default", b"command", properties)
        reply_to = (await worker.next()).reply_to
    assert reply_to is not None
    assert reply_to.startswith("amq.rabbitmq.reply-to.")
    assert can_be_decoded(reply_to)
    assert can_be_decoded("reply.me")
