"""pika's channels, awaitable. Each wait ends with an answer or with `ChannelLostError`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from pika.exceptions import AMQPError

from worker.broker.problems import ChannelLostError

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection
    from pika.channel import Channel

#: Seconds that the broker may take to answer one method; a quorum queue that elects a leader takes a few.
ANSWER_SECONDS = 30.0

_T = TypeVar("_T")


class AwaitableChannel:
    """One open channel.

    Attributes:
        raw: pika's channel.
        closed: done once the channel has closed, alone or with its connection; its result is the reason.
    """

    def __init__(self, raw: Channel, closed: asyncio.Future[BaseException]) -> None:
        self.raw = raw
        self.closed = closed

    @classmethod
    async def open(cls, connection: AsyncioConnection) -> AwaitableChannel:
        """Open a channel.

        Raises:
            ChannelLostError: the connection has closed, or there was no answer in `ANSWER_SECONDS`.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Channel] = loop.create_future()
        closed: asyncio.Future[BaseException] = loop.create_future()
        try:
            raw = connection.channel(on_open_callback=lambda channel: settle(opened, channel))
        except AMQPError as error:
            raise ChannelLostError(error) from None
        raw.add_on_close_callback(lambda _channel, reason: settle(closed, reason))
        channel = cls(raw, closed)
        with channel.closed_on_error():
            await channel.until(opened)
        return channel

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self.raw.is_open

    async def call(self, method: Callable[..., object], **arguments: Any) -> None:
        """Call one of the raw channel's methods that the broker answers, and wait for the answer.

        Raises:
            ChannelLostError: the broker closed the channel instead of answering, the connection has closed, or there
                was no answer in `ANSWER_SECONDS`.
        """
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        try:
            method(callback=lambda frame: settle(answer, frame), **arguments)
        except AMQPError as error:
            raise ChannelLostError(error) from None
        await self.until(answer)

    async def until(self, answer: asyncio.Future[_T]) -> _T:
        """Wait for an answer.

        Raises:
            ChannelLostError: the channel closed instead, or there was no answer in `ANSWER_SECONDS`.
        """
        await asyncio.wait((answer, self.closed), timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ChannelLostError(self.closed.result() if self.closed.done() else TimeoutError("no answer in time"))

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Close the channel if an error or a cancellation leaves the context; do not wait for the broker's answer.

        Otherwise the connection and the broker would keep a channel that nobody uses.
        """
        try:
            yield
        except BaseException:
            if not (self.raw.is_closed or self.raw.is_closing):
                with suppress(AMQPError):  # the connection is about to close
                    self.raw.close()
            raise

    async def close(self, timeout: float = ANSWER_SECONDS) -> None:  # noqa: ASYNC109 - a bound, never an error
        """Close the channel; wait until the broker has received all that was sent on it, at most `timeout` seconds."""
        if self.raw.is_open:
            self.raw.close()
        if not self.raw.is_closed:
            await asyncio.wait((self.closed,), timeout=timeout)


def settle(future: asyncio.Future[_T], result: _T) -> None:
    """Give a future its result, unless it has one or was cancelled."""
    if not future.done():
        future.set_result(result)
