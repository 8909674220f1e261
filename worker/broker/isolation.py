"""Publishing one message where no other is published: what the broker closes then, it closes because of this message.

The broker answers a message that it cannot accept by closing the channel (the exchange was deleted, or a permission is
missing) or the whole connection (a frame is too large), and does not say which message it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from worker.broker.channels import AwaitableChannel
from worker.broker.confirms import Confirmation, ConfirmChannel, Message
from worker.broker.problems import ChannelLostError, ConnectError
from worker.settings import SettingsInvalidError

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection

    from worker.broker.connection import SupervisedConnection

#: How many publishes may have a channel of their own at the same time, and how many a connection.
ISOLATED_CHANNELS = 8
ISOLATED_CONNECTIONS = 4

#: Seconds for closing the channel of one publish.
CLOSE_SECONDS = 5.0

#: Of how many messages it is remembered that the broker has closed a connection because of them.
REMEMBERED = 1000


class CanBeBlocked(Protocol):
    """A connection from which the broker may take no messages for a while (`blocked`)."""

    @property
    def blocked(self) -> bool:
        """Whether it takes none now."""
        ...


class Isolation:
    """Publishes messages on channels and on connections of their own.

    A message that the broker answers by closing what belongs to it alone is `SUSPECT` or `PROVOKED`, and the text says
    why.

    Args:
        connection: the connection on which other messages are published.
        publish: publishes on a channel, and waits for the confirm.
    """

    def __init__(
        self,
        connection: SupervisedConnection,
        publish: Callable[[ConfirmChannel, Message, CanBeBlocked], Awaitable[tuple[Confirmation, str]]],
    ) -> None:
        self._connection = connection
        self._publish = publish
        self._channels = asyncio.Semaphore(ISOLATED_CHANNELS)
        self._connections = asyncio.Semaphore(ISOLATED_CONNECTIONS)
        #: The IDs of messages because of which the broker has closed a connection, in the order of their first time.
        self._provoking: dict[str, None] = {}

    def has_provoked(self, message: Message) -> bool:
        """Whether the broker has closed the last connection of its own that this message had, because of it.

        An answer that is refused is published again when its command returns from a delay queue.
        """
        return message.properties.message_id in self._provoking

    async def on_a_channel(self, message: Message) -> tuple[Confirmation, str]:
        """Publish on a channel of its own. `PROVOKED` also if there is no channel: then it needs a connection."""
        async with self._channels:
            try:
                return await self._publish_alone(await self._connection.opened(), message, self._connection)
            except ChannelLostError as loss:
                return (Confirmation.PROVOKED if loss.no_free_channel else Confirmation.LOST), str(loss)

    async def on_a_connection(self, message: Message) -> tuple[Confirmation, str]:
        """Publish on a connection of its own.

        If that connection cannot be opened or is cut off, while the other one is open, this counts as `PROVOKED`.
        """
        async with self._connections:
            try:
                async with self._connection.separate() as connection:
                    confirmation, problem = await self._publish_alone(connection.raw, message, connection)
            except ChannelLostError as loss:
                confirmation, problem = Confirmation.CUT_OFF, str(loss)
            except (ConnectError, SettingsInvalidError) as error:
                confirmation, problem = Confirmation.CUT_OFF, str(error)
        if confirmation is Confirmation.CUT_OFF:
            confirmation = Confirmation.PROVOKED if await self._other_works() else Confirmation.LOST
        if confirmation is not Confirmation.LOST:
            self._remember(message, provoking=confirmation is Confirmation.PROVOKED)
        return confirmation, problem

    def _remember(self, message: Message, *, provoking: bool) -> None:
        message_id = message.properties.message_id
        if not provoking:
            self._provoking.pop(message_id or "", None)
        elif message_id is not None:
            self._provoking[message_id] = None
            if len(self._provoking) > REMEMBERED:
                del self._provoking[next(iter(self._provoking))]

    async def _publish_alone(
        self, connection: AsyncioConnection, message: Message, blocked: CanBeBlocked
    ) -> tuple[Confirmation, str]:
        channel = await ConfirmChannel.open(connection)
        try:
            confirmation, problem = await self._publish(channel, message, blocked)
            if confirmation in {Confirmation.SUSPECT, Confirmation.PROVOKED, Confirmation.CUT_OFF}:
                problem = str(await channel.lost())
            return confirmation, problem
        finally:
            await channel.close(CLOSE_SECONDS)

    async def _other_works(self) -> bool:
        """Whether the broker still answers on the other connection. If not, there is an outage."""
        connection = self._connection.current
        if connection is None:
            return False
        try:
            channel = await AwaitableChannel.open(connection)
        except ChannelLostError as loss:
            return loss.no_free_channel
        await channel.close(CLOSE_SECONDS)
        return True
