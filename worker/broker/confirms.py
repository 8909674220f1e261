"""One channel in confirm mode, with many unconfirmed publishes at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from pika.spec import Basic, BasicProperties

from worker.broker.channels import AwaitableChannel, settle
from worker.broker.problems import ChannelLostError

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection
    from pika.channel import Channel
    from pika.frame import Method


class Confirmation(Enum):
    """What became of one publish."""

    CONFIRMED = "confirmed"
    UNROUTABLE = "no queue took it"
    REFUSED = "the broker did not take it"
    LOST = "the connection closed before the broker confirmed"
    CUT_OFF = "the connection was cut off before the broker confirmed"
    SUSPECT = "the broker closed the channel, because of this publish or of another one"
    PROVOKED = "the broker closed the connection, because of this publish or of another one"
    UNANSWERED = "the broker did not confirm in time"


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish. With `mandatory`, the broker returns it if no queue takes it."""

    exchange: str
    routing_key: str
    body: bytes
    properties: BasicProperties
    mandatory: bool = True


@dataclass(slots=True)
class _Outstanding:
    message: Message
    confirmation: asyncio.Future[Confirmation]
    returned: bool = field(default=False)


class ConfirmChannel:
    """A channel in confirm mode. Delivery tags start at 1 and are valid on this channel only."""

    def __init__(self, channel: AwaitableChannel) -> None:
        self._channel = channel
        self._last_tag = 0
        # Ordered by tag: tags are inserted in ascending order.
        self._outstanding: dict[int, _Outstanding] = {}
        channel.closed.add_done_callback(lambda _closed: self._lose_all())
        channel.raw.add_on_return_callback(self._on_return)

    @classmethod
    async def open(cls, connection: AsyncioConnection) -> ConfirmChannel:
        """Open a channel in confirm mode.

        Raises:
            ChannelLostError: the connection or the channel closed before confirm mode was on.
        """
        channel = await AwaitableChannel.open(connection)
        confirming = cls(channel)
        with channel.closed_on_error():
            await channel.call(channel.raw.confirm_delivery, ack_nack_callback=confirming._on_answer)
        return confirming

    @property
    def is_open(self) -> bool:
        """Whether the channel accepts publishes."""
        return self._channel.is_open

    async def lost(self) -> ChannelLostError:
        """Wait until the channel has closed; return the reason."""
        await asyncio.wait((self._channel.closed,))
        return self._loss()

    def publish(self, message: Message) -> asyncio.Future[Confirmation]:
        """Publish, and return a future of the confirmation.

        If the channel closes before it, the confirmation is `SUSPECT`; if the connection does, `LOST`, `CUT_OFF` or
        `PROVOKED`. The broker closes a channel or a connection without naming the publish that caused it, and discards
        the publishes that follow. Each unconfirmed publish is therefore suspect.
        """
        confirmation: asyncio.Future[Confirmation] = asyncio.get_running_loop().create_future()
        if not self.is_open:
            settle(confirmation, Confirmation.LOST)
            return confirmation
        self._channel.raw.basic_publish(
            message.exchange, message.routing_key, message.body, message.properties, mandatory=message.mandatory
        )
        # Incremented after the publish: a message that cannot be encoded raises before it is sent, and takes no tag.
        self._last_tag = tag = self._last_tag + 1
        self._outstanding[tag] = _Outstanding(message, confirmation)
        # Also if its caller has given it up: the broker may never answer.
        confirmation.add_done_callback(lambda _confirmation: self._outstanding.pop(tag, None))
        return confirmation

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, never an error
        """Close the channel; wait at most `timeout` seconds."""
        await self._channel.close(timeout)

    def _on_answer(self, frame: Method[Basic.Ack | Basic.Nack]) -> None:
        confirmation = Confirmation.CONFIRMED if isinstance(frame.method, Basic.Ack) else Confirmation.REFUSED
        tag = frame.method.delivery_tag
        for settled in self._up_to(tag) if frame.method.multiple else [tag]:
            outstanding = self._outstanding.pop(settled, None)
            if outstanding is not None:
                settle(outstanding.confirmation, Confirmation.UNROUTABLE if outstanding.returned else confirmation)

    def _up_to(self, tag: int) -> list[int]:
        tags = []
        for outstanding in self._outstanding:
            if outstanding > tag:
                break
            tags.append(outstanding)
        return tags

    def _on_return(self, _channel: Channel, method: Basic.Return, properties: BasicProperties, body: bytes) -> None:
        """Mark the publish that was returned. The broker also acknowledges it afterwards, as if it had been routed.

        `basic.return` carries no delivery tag, so the publish is found by its content. If two outstanding publishes
        have the same content, exchange and routing key, it does not matter which of them is marked and repeated. If one
        that was given up is returned, its repeat is marked, and is published once more: whether a queue has taken it
        cannot be told.
        """
        for outstanding in self._outstanding.values():
            message = outstanding.message
            if (
                not outstanding.returned
                and message.routing_key == method.routing_key
                and message.exchange == method.exchange
                and message.properties.message_id == properties.message_id
                and message.body == body
            ):
                outstanding.returned = True
                return

    def _loss(self) -> ChannelLostError:
        return ChannelLostError(self._channel.closed.result())

    def _lose_all(self) -> None:
        outstanding, self._outstanding = self._outstanding, {}
        confirmation = _confirmation_of(self._loss())
        for one in outstanding.values():
            settle(one.confirmation, confirmation)


def _confirmation_of(loss: ChannelLostError) -> Confirmation:
    """The confirmation of the publishes that were unconfirmed when the channel closed."""
    if loss.channel_alone:
        return Confirmation.SUSPECT
    if loss.provoked:
        return Confirmation.PROVOKED
    return Confirmation.CUT_OFF if loss.cut_off else Confirmation.LOST
