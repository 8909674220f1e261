"""Channels whose opening or use ends without an answer: the broker allows a connection 2047 of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.waiting import until
from worker.broker import channels
from worker.broker.channels import AwaitableChannel
from worker.broker.confirms import ConfirmChannel
from worker.broker.problems import ChannelLostError
from worker.broker.topology import declare, describe, exists


class RawChannel:
    """A channel of pika on which the broker answers nothing."""

    is_closed = False
    is_closing = False

    def __init__(self, *, is_open: bool) -> None:
        self.is_open = is_open
        self.asked = 1 - is_open

    def close(self) -> None:
        """Begin to close."""
        self.is_open, self.is_closing = False, True

    def add_on_close_callback(self, closed: Any) -> None:
        """It is never closed."""

    add_on_return_callback = add_on_close_callback

    def ask(self, **_: Any) -> None:
        """Wait for an answer."""
        self.asked += 1

    confirm_delivery = exchange_declare = queue_declare = ask


class Connection:
    """A connection of pika. `opens`: whether channels open."""

    def __init__(self, *, opens: bool) -> None:
        self._opens = opens
        self.channels: list[RawChannel] = []

    def channel(self, on_open_callback: Any) -> RawChannel:
        """Open a channel, if they open."""
        self.channels.append(RawChannel(is_open=self._opens))
        if self._opens:
            on_open_callback(self.channels[-1])
        return self.channels[-1]


_USES: dict[str, tuple[bool, Callable[[Any], Awaitable[object]]]] = {
    "never opened": (False, AwaitableChannel.open),
    "no confirm mode": (True, ConfirmChannel.open),
    "no declaration": (True, lambda connection: declare(describe(["default"]), connection)),
    "no passive declaration": (True, lambda connection: exists(connection, {"queue": "unlink.dead"})),
}


@pytest.mark.parametrize("end", ["no answer", "cancelled"])
@pytest.mark.parametrize(("opens", "use"), _USES.values(), ids=list(_USES))
async def test_a_channel_that_is_given_up_is_closed(
    monkeypatch: pytest.MonkeyPatch, opens: bool, use: Callable[[Any], Awaitable[object]], end: str
) -> None:
    """The connection kept each of them, and so did the broker, until none was left for a publish."""
    connection = Connection(opens=opens)
    if end == "no answer":
        monkeypatch.setattr(channels, "ANSWER_SECONDS", 0.01)
        with pytest.raises(ChannelLostError):
            await use(connection)
    else:
        using = asyncio.ensure_future(use(connection))
        await until(lambda: connection.channels and connection.channels[0].asked)
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
    assert [channel.is_closing for channel in connection.channels] == [True]
