"""The permission to write a request. The request's thread asks for it, and the event loop gives it."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable
from typing import Any


class NotPermittedError(Exception):
    """The permission was refused, or has expired: the request may not be written."""


class Permission:
    """The permission for one request. Create it on the event loop.

    Args:
        may_send: returns the latest time, by `monotonic`, at which the request may be written. Raises if the request
            must not be written.
        monotonic: `Clock.monotonic`; it is called on the request's thread.
    """

    def __init__(self, may_send: Callable[[], Awaitable[float]], monotonic: Callable[[], float]) -> None:
        self._may_send = may_send
        self._monotonic = monotonic
        self._loop = asyncio.get_running_loop()
        self._wanted = False
        self._wanted_or_ended: asyncio.Future[None] = self._loop.create_future()
        self._last_moment: concurrent.futures.Future[float] = concurrent.futures.Future()

    async def give(self, request: asyncio.Future[Any]) -> None:
        """Once the thread is ready to write, await `may_send` and pass its result to the thread.

        Returns without a call of `may_send` if the request ends before. If this call is cancelled, or `may_send`
        raises, the request is not written.
        """
        try:
            request.add_done_callback(self._end_the_wait)
            await self._wanted_or_ended
            if self._wanted:
                self._last_moment.set_result(await self._may_send())
        finally:
            if not self._last_moment.done():
                self._last_moment.set_exception(NotPermittedError())

    def require(self) -> None:
        """Wait for the permission, and check that it has not expired. Call it on the request's thread.

        Raises:
            NotPermittedError: the permission was refused or has expired.
        """
        try:
            self._loop.call_soon_threadsafe(self._want)
        except RuntimeError:  # the loop has closed
            raise NotPermittedError from None
        last_moment = self._last_moment.result()
        if self._monotonic() > last_moment:
            raise NotPermittedError

    def _want(self) -> None:
        self._wanted = True
        self._end_the_wait()

    def _end_the_wait(self, _request: object = None) -> None:
        if not self._wanted_or_ended.done():
            self._wanted_or_ended.set_result(None)
