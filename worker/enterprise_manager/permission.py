"""The permission to write a request, asked for by the request's thread and given on the event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable
from typing import Any


class NotPermittedError(Exception):
    """The request may not be written, now or any more."""


class Permission:
    """Permits one request. To be made on the event loop.

    Args:
        may_send: returns the last moment, by `monotonic`, at which the request may be written. Raises what forbids it.
        monotonic: `Clock.monotonic`; it is called on the thread.
    """

    def __init__(self, may_send: Callable[[], Awaitable[float]], monotonic: Callable[[], float]) -> None:
        self._may_send = may_send
        self._monotonic = monotonic
        self._loop = asyncio.get_running_loop()
        self._wanted: asyncio.Future[None] = self._loop.create_future()
        self._last_moment: concurrent.futures.Future[float] = concurrent.futures.Future()

    async def give(self, request: asyncio.Future[Any]) -> None:
        """Once the thread is ready to write, await `may_send` and pass its moment to the thread.

        Returns without a call of `may_send` if the request ends before. If this is cancelled, or `may_send` raises, the
        request is not written.
        """
        try:
            await asyncio.wait({self._wanted, request}, return_when=asyncio.FIRST_COMPLETED)
            if self._wanted.done():
                self._last_moment.set_result(await self._may_send())
        finally:
            if not self._last_moment.done():
                self._last_moment.set_exception(NotPermittedError())

    def require(self) -> None:
        """On the thread: wait for the permission, and compare its moment with the clock.

        Raises:
            NotPermittedError: it was refused, or its moment has passed.
        """
        try:
            self._loop.call_soon_threadsafe(self._wanted.set_result, None)
        except RuntimeError:  # the loop has closed
            raise NotPermittedError from None
        last_moment = self._last_moment.result()
        if self._monotonic() > last_moment:
            raise NotPermittedError
