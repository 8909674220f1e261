"""One consumer for each queue, on a channel of its own.

A consumer can be lost in three ways: its connection closes, only its channel closes, or the broker cancels the
consumer. Each is detected, logged under its own name, and recovered from. A queue counts as consumed only while its
consumer is registered on an open channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from worker.broker.back_off import forever
from worker.broker.channels import AwaitableChannel, settle
from worker.broker.delivery import BrokerDelivery
from worker.broker.large_messages import LargeMessages
from worker.broker.problems import BrokerError, ChannelLostError
from worker.broker.topology import exists
from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    from pika.channel import Channel
    from pika.spec import Basic, BasicProperties

    from worker.broker.connection import SupervisedConnection

#: Seconds for closing a channel in good order.
CLOSE_SECONDS = 5.0

_DRAINING = "draining"

_log = structlog.get_logger()


class ConsumerCancelledError(BrokerError):
    """The broker cancelled the consumer: its queue is gone or has moved, or (from 4.3) a delivery was held too long."""


class QueueIntake:
    """The consumer of one queue.

    While it is paused, the consumer stays registered as long as a delivery that it handed on is unacknowledged:
    after a node's crash, RabbitMQ can withhold the unacknowledged messages of a cancelled consumer (seen on 3.10.8).
    Deliveries that arrive meanwhile are kept and not handed on (of a large message, only the delivery tag). Once every
    delivery that was handed on is settled, the channel is closed, and the kept deliveries return to the queue.

    Args:
        enterprise_manager: the Enterprise Manager whose commands are in the queue; named in the log.
        prefetch: how many deliveries may be unacknowledged at once.
        make: creates a delivery from channel, method, properties, body, `taken_at`, `now` and `on_settled`.
        receive: called with each delivery; must not raise.
        large: bounds the memory of large messages, of all queues together.
        restore: declares the topology again, in case the queue was deleted while the worker ran; never raises.
    """

    def __init__(  # noqa: PLR0913 - what all intakes share is passed by keyword
        self,
        enterprise_manager: str,
        queue: str,
        prefetch: int,
        connection: SupervisedConnection,
        clock: Clock,
        *,
        make: Callable[..., BrokerDelivery],
        receive: Callable[[BrokerDelivery], None],
        large: LargeMessages,
        restore: Callable[[], Awaitable[None]],
    ) -> None:
        self._enterprise_manager = enterprise_manager
        self._queue = queue
        self._prefetch = prefetch
        self._connection = connection
        self._clock = clock
        self._make = make
        self._receive = receive
        self._large = large
        self._restore = restore
        #: Deliveries that were handed on and are unacknowledged; and those kept during a pause, in order of arrival.
        self._handed_on: set[BrokerDelivery] = set()
        self._kept: list[BrokerDelivery] = []
        self._pauses: set[str] = set()
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._unwanted = asyncio.Event()
        #: Set when the queue is paused and no delivery that was handed on is unacknowledged.
        self._superfluous = asyncio.Event()
        self._draining = asyncio.Event()
        self._consuming = asyncio.Event()
        #: Set while no consumer is registered, nor being registered: no delivery can arrive.
        self._idle = asyncio.Event()
        self._idle.set()
        self._supervision: asyncio.Task[None] | None = None

    @property
    def consuming(self) -> bool:
        """Whether a consumer is registered on an open channel."""
        return self._consuming.is_set()

    @property
    def wanted(self) -> bool:
        """Whether the queue should have a consumer: there is no reason to pause."""
        return self._wanted.is_set()

    def start(self) -> None:
        """Consume in the background, and again after each loss of the consumer. Returns at once."""
        if self._supervision is None:
            self._supervision = asyncio.create_task(forever(self._queue, self._once, self._clock))

    def pause(self, why: str) -> None:
        """Hand on no delivery until every reason is removed. Unacknowledged deliveries are unaffected."""
        if why not in self._pauses:
            self._pauses.add(why)
            _log.info("broker.paused", enterprise_manager=self._enterprise_manager, why=why)
        self._wanted.clear()
        self._unwanted.set()
        self._note_superfluous()

    def resume(self, why: str) -> None:
        """Remove one reason. After the last one, consuming continues, with the kept deliveries first."""
        if why in self._pauses:
            self._pauses.remove(why)
            _log.info(
                "broker.resumed", enterprise_manager=self._enterprise_manager, why=why, still=sorted(self._pauses)
            )
        if not self._pauses:
            self._unwanted.clear()
            self._superfluous.clear()
            self._wanted.set()
            kept, self._kept = self._kept, []
            for delivery in kept:
                # If the channel has closed, the consumer's task will notice it, and call `_forget`.
                if not delivery.live:
                    continue
                if delivery.has_body:
                    self._hand_on(delivery)
                else:
                    delivery.requeue()

    async def until_consuming(self) -> None:
        """Wait until the consumer is registered or the queue is paused."""
        await _first(self._consuming.wait(), self._unwanted.wait())

    async def drain(self) -> None:
        """Stop consuming for good; returns when the broker has confirmed that, or the channel has closed.

        Unacknowledged deliveries can still be acknowledged.
        """
        self.pause(_DRAINING)
        self._draining.set()
        await self._idle.wait()

    async def close(self) -> None:
        """Close the channel. Unacknowledged deliveries return to the queue."""
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.wait((self._supervision,))

    async def _once(self) -> None:
        try:
            while True:
                await self._connection.opened()
                await self._wanted.wait()
                await self._consume_on_a_channel()
        except ConsumerCancelledError as loss:
            await self._after_loss("broker.consumer_cancelled", loss)
        except ChannelLostError as loss:
            # `SupervisedConnection` logs the loss of the connection, once for all of its channels.
            if not loss.connection_lost:
                await self._after_loss("broker.channel_lost", loss)

    async def _after_loss(self, what: str, loss: BrokerError) -> None:
        _log.warning(what, enterprise_manager=self._enterprise_manager, queue=self._queue, problem=str(loss))
        await self._restore()

    async def _consume_on_a_channel(self) -> None:
        """Consume until the consumer is not needed any more.

        Raises:
            ChannelLostError: the channel has closed, or the broker does not answer.
            ConsumerCancelledError: the broker cancelled the consumer.
        """
        channel = await AwaitableChannel.open(await self._connection.opened())
        cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_cancel(_frame: object) -> None:
            self._kept.clear()  # the messages are back in the queue, or deleted with it
            settle(cancelled, None)

        channel.raw.add_on_cancel_callback(on_cancel)
        tag = f"unlink-worker.{self._enterprise_manager}"
        try:
            # Per consumer: quorum queues do not support `global`, and the broker would close the connection (540).
            await channel.call(channel.raw.basic_qos, prefetch_count=self._prefetch)
            if not self._wanted.is_set():  # paused meanwhile
                return
            self._idle.clear()
            await channel.call(
                channel.raw.basic_consume, queue=self._queue, on_message_callback=self._on_message, consumer_tag=tag
            )
            self._consuming.set()
            _log.info("broker.consuming", enterprise_manager=self._enterprise_manager, queue=self._queue)
            while not (self._superfluous.is_set() or self._draining.is_set()):
                await _first(self._superfluous.wait(), self._draining.wait(), channel.closed, cancelled)
                if channel.closed.done():
                    raise ChannelLostError(channel.closed.result())
                if cancelled.done():
                    raise ConsumerCancelledError(await self._why_cancelled())
            if self._draining.is_set():
                await self._cancel(channel, tag)
        finally:
            # Also after a cancel by the broker. Closing the channel returns the unacknowledged messages to their queue.
            self._forget()
            await channel.close(CLOSE_SECONDS)

    async def _cancel(self, channel: AwaitableChannel, tag: str) -> None:
        """Cancel the consumer, and keep the channel for acknowledgements until it closes."""
        self._consuming.clear()
        await channel.call(channel.raw.basic_cancel, consumer_tag=tag)
        for delivery in self._kept:
            delivery.requeue()
        self._idle.set()
        await _first(channel.closed)
        raise ChannelLostError(channel.closed.result())

    async def _why_cancelled(self) -> str:
        """The probable reason why the broker cancelled the consumer: its `basic.cancel` carries none.

        Raises:
            ChannelLostError: the connection has closed.
        """
        there = await exists(await self._connection.opened(), {"queue": self._queue})
        if there is False:
            return "the broker cancelled the consumer: the queue was deleted"
        held = [each.taken_at for each in (*self._handed_on, *self._kept)]
        if not held:
            return "the broker cancelled the consumer: the queue has probably moved to another node"
        # On a delivery timeout, RabbitMQ 4.3 cancels the consumer; earlier versions close the channel with a reason.
        return (
            "the broker cancelled the consumer, which held its oldest unacknowledged delivery for "
            f"{self._clock.monotonic() - min(held):.0f} s. If that is longer than the broker's consumer_timeout, set "
            "that above UNLINK_BROKER__HOLD_SECONDS, or lower the latter"
        )

    def _forget(self) -> None:
        self._consuming.clear()
        self._idle.set()
        self._kept.clear()
        for delivery in list(self._handed_on):
            self._large.release(delivery)
        self._handed_on.clear()
        self._note_superfluous()

    def _on_message(self, channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        if not channel.is_open:  # it is being closed, which returns the message to its queue
            return
        taken_at, now = self._clock.monotonic(), self._clock.now()
        delivery = self._make(channel, method, properties, body, taken_at=taken_at, now=now, on_settled=self._settled)
        if not self._wanted.is_set():
            if self._large.is_large(delivery):
                delivery.drop_body()  # it is requeued at the end of the pause, and delivered again
            self._kept.append(delivery)
        elif self._large.admit(delivery):
            self._hand_on(delivery)

    def _hand_on(self, delivery: BrokerDelivery) -> None:
        self._handed_on.add(delivery)
        self._receive(delivery)

    def _settled(self, delivery: BrokerDelivery) -> None:
        self._handed_on.discard(delivery)
        self._large.release(delivery)
        self._note_superfluous()

    def _note_superfluous(self) -> None:
        if self._unwanted.is_set() and not self._handed_on:
            self._superfluous.set()


async def _first(*conditions: Awaitable[object]) -> None:
    """Wait for the first of several conditions. Futures among them are not cancelled."""
    waits = {asyncio.ensure_future(_undisturbed(condition)) for condition in conditions}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _undisturbed(condition: Awaitable[object]) -> None:
    if isinstance(condition, asyncio.Future):
        await asyncio.wait((condition,))
    else:
        await condition
