"""Publishing with publisher confirms.

Each call returns once the broker has confirmed the message, and raises an error if the broker has refused it for a
minute. Only `offer` and replies are not repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from copy import copy
from enum import IntEnum
from typing import TYPE_CHECKING, Any, cast

import structlog
from pika.spec import BasicProperties

from contracts.batches import BatchEnded
from contracts.events import CONTENT_TYPE, Event, Reason
from worker.broker.back_off import forever, new_back_off
from worker.broker.channels import settle
from worker.broker.confirms import Confirmation, ConfirmChannel, Message
from worker.broker.connection import SupervisedConnection
from worker.broker.copies import copied_properties, short_text
from worker.broker.dead_letters import headers_of_reason
from worker.broker.delivery import ARRIVED_HEADER, ATTEMPT_HEADER, REFUSALS_HEADER, RETURNS_HEADER, TAKEN_AWAY_HEADER
from worker.broker.direct_reply_to import can_be_decoded
from worker.broker.isolation import CanBeBlocked, Isolation
from worker.broker.misrouted import MISROUTED_SECONDS_HEADER
from worker.broker.problems import BrokerClosedError, ChannelLostError, one_line
from worker.broker.received_event import FROM_LEDGER_HEADER
from worker.broker.stored_event import StoredEvent, read_stored
from worker.broker.topology import DEAD, EVENTS, delay_exchange
from worker.unlinks.ports.broker import Delivery, PublishRefusedError, ReplyTo
from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    from worker.broker.delivery import BrokerDelivery

APP_ID = "unlink-worker"

#: Seconds for one reply. It is published without a retry, since the events exchange is the durable way to be answered.
REPLY_SECONDS = 5.0

#: Seconds of refusals by the broker after which the caller gets `PublishRefusedError`. A lost connection is no refusal:
#: the time then starts again.
REFUSED_SECONDS = 60.0
#: The same for an answer that was refused before: it must not keep others from a slot for long, each time that its
#: command returns from a delay queue.
REFUSED_AGAIN_SECONDS = 5.0

#: The longest header of an event, in characters; a longer one is left out. It may come from the command's sender (a
#: `tracestate`), and all headers must fit into one frame, which may be as short as 4096 bytes.
MAX_EVENT_HEADER = 512

#: How often in a row the connection may be cut off under an unconfirmed message before the message is suspect.
CUT_OFF_IN_A_ROW = 3

_log = structlog.get_logger()


class _Place(IntEnum):
    """Where a message is published; the later, the fewer others can be affected."""

    SHARED_CHANNEL = 0
    OWN_CHANNEL = 1
    OWN_CONNECTION = 2


class BrokerOutbox:
    """The outbox (`worker.unlinks.ports.broker.Outbox`) on a connection of its own.

    The consumers use another connection: in a memory or disk alarm the broker stops reading from connections that
    publish, and acknowledgements must still reach it.

    Args:
        user: the broker user of the connection, who signs copies of signed messages.
        confirm_seconds: how long one publish may wait for its confirm before it is repeated. During an alarm it is not
            repeated.
        delay_tiers: the seconds of the delay queues.
        restore: declares the topology again, in case a part of it was deleted while the worker ran; never raises.
        event_headers: called in the publisher's context; returns headers for an event.

    If the broker closes the channel because of a message, each message that was unconfirmed at that moment is published
    again on a channel of its own (`worker.broker.isolation`); if it closes the connection, on a connection of its own.
    This identifies the message at fault, which then delays no other.
    """

    def __init__(
        self,
        connection: SupervisedConnection,
        clock: Clock,
        *,
        user: str,
        confirm_seconds: float,
        delay_tiers: Sequence[int],
        restore: Callable[[], Awaitable[None]],
        event_headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._user = user
        self._confirm_seconds = confirm_seconds
        self._delay_tiers = sorted(delay_tiers)
        self._restore = restore
        self._event_headers = event_headers
        self._channel: ConfirmChannel | None = None
        self._ready = asyncio.Event()
        self._replies: ConfirmChannel | None = None
        self._reply_channel_lock = asyncio.Lock()
        self._isolation = Isolation(connection, self._attempt_on)
        self._unconfirmed = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._supervision: asyncio.Task[None] | None = None

    @property
    def unconfirmed(self) -> int:
        """How many publishes wait for their confirm."""
        return self._unconfirmed

    async def publish(
        self, event: Event | BatchEnded | bytes, reply_to: Collection[ReplyTo] = (), *, refusals: int = 0
    ) -> None:
        """Publish an event to the events exchange; a terminal one also to `reply_to`.

        Bytes, which the ledger had stored, are published unchanged; a header says so.

        Raises:
            BrokerClosedError: `close` was called before the broker confirmed.
            PublishRefusedError: the broker did not take it within `REFUSED_SECONDS`, or `REFUSED_AGAIN_SECONDS` if it
                was refused before.
        """
        message, terminal = self._event_message(event)
        await self._confirmed(message, _patience(refusals))
        if terminal:
            for waiting in reply_to:
                await self._reply(waiting, message)

    async def offer(self, event: Event) -> None:
        """Publish an event to the events exchange, once. While there is no connection, it waits for one.

        Raises:
            BrokerClosedError: `close` was called before the event was published.
            PublishRefusedError: it was not confirmed, also because the connection was lost.
        """
        message, _ = self._event_message(event)
        confirmation, problem = await self._attempt(message, _Place.SHARED_CHANNEL)
        if confirmation is not Confirmation.CONFIRMED:
            raise PublishRefusedError(problem)

    async def delay(self, delivery: Delivery, seconds: float, *, failed: bool = False, refused: bool = False) -> None:
        """Publish a copy to the shortest delay queue of at least `seconds`, or to the longest if none is that long.

        After the delay, the broker publishes the copy to `unlink.commands`.

        Raises:
            BrokerClosedError: `close` was called before the broker confirmed.
            PublishRefusedError: the broker did not take it within `REFUSED_SECONDS`.
        """
        tier = next((tier for tier in self._delay_tiers if tier >= seconds), self._delay_tiers[-1])
        headers: dict[str, Any] = {
            ATTEMPT_HEADER: delivery.attempt + (1 if failed else 0),
            ARRIVED_HEADER: delivery.arrived_at.isoformat(),
        }
        if delivery.misrouting is not None:
            headers[MISROUTED_SECONDS_HEADER] = delivery.misrouting.seconds + tier
        if delivery.taken_away is not None:
            headers[TAKEN_AWAY_HEADER] = delivery.taken_away
        if delivery.returns:
            headers[RETURNS_HEADER] = delivery.returns
        if refusals := delivery.refusals + refused:
            headers[REFUSALS_HEADER] = refusals
        await self._copy(delivery, delay_exchange(tier), headers, REFUSED_SECONDS)

    async def dead_letter(self, delivery: Delivery, reason: Reason, run: int | None = None) -> None:
        """Publish a copy of the message to `unlink.dead`. Its headers hold the reason and the run that ends with it.

        Raises:
            BrokerClosedError: `close` was called before the broker confirmed.
            PublishRefusedError: the broker did not take it within `REFUSED_SECONDS`, or `REFUSED_AGAIN_SECONDS` if the
                answer was refused before.
        """
        why = headers_of_reason(delivery, reason, run, self._clock.now())
        await self._copy(delivery, DEAD, {ATTEMPT_HEADER: delivery.attempt, **why}, _patience(delivery.refusals))

    def start(self) -> None:
        """Open a channel in the background, and another one after each loss. Returns at once."""
        if self._supervision is None:
            self._supervision = asyncio.create_task(forever("outbox", self._keep_channel, self._clock))

    async def close(self, seconds: float) -> None:
        """Wait for confirms, at most `seconds`; callers that still wait then receive `BrokerClosedError`."""
        if self._ready.is_set():
            await _within(seconds, self._idle.wait())
        self._closed = True
        self._ready.set()
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.wait((self._supervision,))

    async def _copy(self, delivery: Delivery, exchange: str, headers: dict[str, Any], patience: float) -> None:
        await self._open_channel()  # the size of a frame is known once there is a connection
        frame_max = (await self._connection.opened()).params.frame_max
        # Deliveries of this worker come from its intakes only.
        properties = copied_properties(cast("BrokerDelivery", delivery), headers, self._user, frame_max)
        await self._confirmed(Message(exchange, delivery.enterprise_manager, delivery.body, properties), patience)

    def _event_message(self, event: Event | BatchEnded | bytes) -> tuple[Message, bool]:
        headers: dict[str, Any] = {
            name: value for name, value in self._event_headers().items() if len(value) <= MAX_EVENT_HEADER
        }
        if isinstance(event, bytes):
            headers[FROM_LEDGER_HEADER] = True
            body, about = event, read_stored(event)
        else:
            body = event.to_bytes()
            correlation_id = short_text(event.data.correlation_id) or short_text(event.subject)
            about = StoredEvent(event.routing_key, event.terminal, event.id, event.type, correlation_id)
        properties = BasicProperties(
            content_type=CONTENT_TYPE,
            headers=headers,
            delivery_mode=2,
            message_id=about.id,
            correlation_id=about.correlation_id,
            timestamp=int(self._clock.now().timestamp()),
            type=about.type,
            app_id=APP_ID,
        )
        return Message(EVENTS, about.routing_key, body, properties), about.terminal

    async def _confirmed(self, message: Message, patience: float) -> None:
        """Publish until the broker has confirmed that the message was routed to a queue, or refused it for so long.

        `patience` is in seconds.
        """
        back_off = new_back_off(self._clock)
        began = self._clock.monotonic()
        needs_connection = self._isolation.has_provoked(message)
        place = _Place.OWN_CONNECTION if needs_connection else _Place.SHARED_CHANNEL
        cut_off = 0
        self._unconfirmed += 1
        self._idle.clear()
        try:
            while True:
                confirmation, problem = await self._attempt(message, place)
                if confirmation is Confirmation.CONFIRMED:
                    return
                cut_off = cut_off + 1 if confirmation is Confirmation.CUT_OFF else 0
                needed = _place_after(confirmation, cut_off)
                if needed > place:
                    place = needed
                elif confirmation in {Confirmation.LOST, Confirmation.CUT_OFF}:  # logged by `SupervisedConnection`
                    began = self._clock.monotonic()
                    if place > _Place.SHARED_CHANNEL:  # on the shared one, the attempt waits until it is open again
                        await self._clock.sleep(back_off.pause())
                else:
                    _log_unconfirmed(message, confirmation, problem)
                    if self._clock.monotonic() - began >= patience:
                        raise PublishRefusedError(problem)
                    if needed is _Place.SHARED_CHANNEL:
                        place = needed
                    if confirmation in {Confirmation.UNROUTABLE, Confirmation.SUSPECT}:
                        await self._restore()
                    await self._clock.sleep(back_off.pause())
        finally:
            self._unconfirmed -= 1
            if not self._unconfirmed:
                self._idle.set()

    async def _attempt(self, message: Message, place: _Place) -> tuple[Confirmation, str]:
        channel = await self._open_channel()
        if place is _Place.OWN_CONNECTION:
            return await self._isolation.on_a_connection(message)
        if place is _Place.OWN_CHANNEL:
            return await self._isolation.on_a_channel(message)
        return await self._attempt_on(channel, message, self._connection)

    async def _attempt_on(
        self, channel: ConfirmChannel, message: Message, connection: CanBeBlocked
    ) -> tuple[Confirmation, str]:
        """Publish once; return the confirmation and a text that describes it."""
        publish = channel.publish(message)
        # A timer, because `asyncio.wait` would take three times the calls for each publish.
        timer = asyncio.get_running_loop().call_later(self._confirm_seconds, self._give_up, publish, connection)
        try:
            confirmation = await publish
        finally:
            timer.cancel()
        return confirmation, confirmation.value

    def _give_up(self, publish: asyncio.Future[Confirmation], connection: CanBeBlocked) -> None:
        """End the wait for a confirm, but not in an alarm: a repeat would only add copies.

        If the alarm lasts, pika closes the connection.
        """
        if connection.blocked and not publish.done():
            asyncio.get_running_loop().call_later(self._confirm_seconds, self._give_up, publish, connection)
        else:
            settle(publish, Confirmation.UNANSWERED)

    async def _open_channel(self) -> ConfirmChannel:
        while True:
            await self._ready.wait()
            if self._closed:
                raise BrokerClosedError("the worker has closed its connections to the broker")
            if self._channel is not None and self._channel.is_open:
                return self._channel
            # The channel has just closed, and `_keep_channel` has not run since.
            await asyncio.sleep(0)

    async def _keep_channel(self) -> None:
        connection = await self._connection.opened()
        try:
            while True:
                self._channel = await ConfirmChannel.open(connection)
                self._ready.set()
                loss = await self._channel.lost()
                self._ready.clear()
                if not loss.channel_alone:
                    return
                # Opened again at once: the messages that were unconfirmed are repeated on channels of their own.
                _log.warning("broker.channel_lost", purpose="publish", problem=str(loss))
        except ChannelLostError as loss:
            if not loss.connection_lost:
                _log.warning("broker.channel_lost", purpose="publish", problem=str(loss))
        finally:
            self._channel = None
            if not self._closed:
                self._ready.clear()

    async def _reply(self, to: ReplyTo, event: Message) -> None:
        """Publish a copy directly to a queue, once; any failure is only logged."""
        if not can_be_decoded(to.queue):
            _log_reply_failed(event, "reply_to is no name that the broker has generated for direct reply-to")
            return
        properties = copy(event.properties)
        properties.correlation_id = to.correlation_id or properties.correlation_id
        message = Message("", to.queue, event.body, properties, mandatory=False)
        problem: str | None = None
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                confirmation = await (await self._reply_channel()).publish(message)
                problem = None if confirmation is Confirmation.CONFIRMED else confirmation.value
        except TimeoutError:
            problem = Confirmation.UNANSWERED.value
        except Exception as error:  # noqa: BLE001 - a reply that fails must not make the command fail
            problem = str(error)
        if problem is not None:
            _log_reply_failed(event, problem)

    async def _reply_channel(self) -> ConfirmChannel:
        # A channel of its own, because the broker closes it if the worker has no permission to publish a reply.
        async with self._reply_channel_lock:
            if self._replies is None or not self._replies.is_open:
                self._replies = await ConfirmChannel.open(await self._connection.opened())
            return self._replies


def _patience(refusals: int) -> float:
    return REFUSED_AGAIN_SECONDS if refusals else REFUSED_SECONDS


def _place_after(confirmation: Confirmation, cut_off: int) -> _Place:
    """Where a message must be published next, so that it can be found out whether it is at fault."""
    if confirmation is Confirmation.PROVOKED or cut_off >= CUT_OFF_IN_A_ROW:
        return _Place.OWN_CONNECTION
    return _Place.OWN_CHANNEL if confirmation is Confirmation.SUSPECT else _Place.SHARED_CHANNEL


def _log_reply_failed(event: Message, problem: str) -> None:
    _log.warning("broker.reply_failed", event_id=event.properties.message_id, problem=one_line(problem))


def _log_unconfirmed(message: Message, confirmation: Confirmation, problem: str) -> None:
    log = _log.error if confirmation is Confirmation.UNROUTABLE else _log.warning
    log(
        "broker.publish_failed",
        exchange=message.exchange,
        routing_key=message.routing_key,
        message_id=message.properties.message_id,
        problem=problem,
    )


async def _within(seconds: float, awaitable: Awaitable[object]) -> None:
    try:
        async with asyncio.timeout(seconds):
            await awaitable
    except TimeoutError:
        return
