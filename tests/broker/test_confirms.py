"""Publishes that wait for their confirm, and those that no longer do; the broker answers when the test says so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from tests.garbage import alive, without_search
from tests.waiting import until
from worker.broker.confirms import Confirmation, ConfirmChannel, Message


class Broker:
    """A connection with one channel: what `ConfirmChannel` uses of pika."""

    is_open = True

    def __init__(self) -> None:
        self._answered: Any = None
        self._returned: Any = None

    def channel(self, on_open_callback: Any) -> Any:
        """Open the channel."""
        on_open_callback(self)
        return self

    def add_on_close_callback(self, closed: Any) -> None:
        """It stays open."""

    def add_on_return_callback(self, returned: Any) -> None:
        """Remember it."""
        self._returned = returned

    def confirm_delivery(self, ack_nack_callback: Any, callback: Any) -> None:
        """Turn confirm mode on."""
        self._answered = ack_nack_callback
        callback(None)

    def basic_publish(self, *_: Any, **__: Any) -> None:
        """Answer later."""

    def acknowledge(self, tag: int, *, multiple: bool = False) -> None:
        """Confirm a publish, or all up to it."""
        self._answered(Method(1, Basic.Ack(tag, multiple)))

    def give_back(self, message: Message) -> None:
        """Return a message, as the broker does before it acknowledges one that no queue has taken."""
        returned = Basic.Return(exchange=message.exchange, routing_key=message.routing_key)
        self._returned(self, returned, message.properties, message.body)


@pytest.fixture
def answering() -> Broker:
    """The broker."""
    return Broker()


@pytest.fixture
async def channel(answering: Any) -> ConfirmChannel:
    """A channel to it."""
    return await ConfirmChannel.open(answering)


def message(number: int = 0) -> Message:
    """A message that is not a constant."""
    return Message("unlink.events", "succeeded.default", b"%d" % number, BasicProperties(message_id=str(number)))


@pytest.mark.parametrize("how", ["given up", "cancelled"])
async def test_a_publish_that_nobody_waits_for_is_forgotten(channel: ConfirmChannel, how: str) -> None:
    """Each repeat of an event during a long outage of a queue was kept, until the connection was lost."""
    with without_search():
        before = alive(Message)
        for number in range(5):
            publish = channel.publish(message(number))
            if how == "cancelled":
                publish.cancel()
            else:
                publish.set_result(Confirmation.UNANSWERED)
        del publish
        await until(lambda: alive(Message) <= before, "the messages are freed")


async def test_an_answer_that_comes_too_late_is_for_nobody_else(answering: Broker, channel: ConfirmChannel) -> None:
    """The repeat would count as confirmed with the answer to the publish before it."""
    first = channel.publish(message())
    first.set_result(Confirmation.UNANSWERED)
    await asyncio.sleep(0)
    repeat = channel.publish(message())
    answering.acknowledge(1)
    assert not repeat.done()
    answering.acknowledge(2, multiple=True)
    assert await repeat is Confirmation.CONFIRMED


async def test_a_message_that_is_returned_too_late_is_at_most_published_once_more(
    answering: Broker, channel: ConfirmChannel
) -> None:
    """No queue took the first publish; whether one took its repeat cannot be told, and so it must not be believed."""
    channel.publish(message()).set_result(Confirmation.UNANSWERED)
    await asyncio.sleep(0)
    repeat, other = channel.publish(message()), channel.publish(message(1))
    for _ in range(2):
        answering.give_back(message())
    answering.acknowledge(3, multiple=True)
    assert await repeat is Confirmation.UNROUTABLE
    assert await other is Confirmation.CONFIRMED
