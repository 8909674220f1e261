"""An event with callbacks, so that waiting for it needs no task; and small, since each unlink in flight has some."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Signal:
    """An event that is set once, and then runs callbacks."""

    __slots__ = ("_callbacks", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._callbacks: dict[Callable[[], None], None] | None = None  # most signals have none at most times

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set the signal, and run the callbacks from the event loop. They must not raise."""
        self._is_set = True
        for callback in self._callbacks or ():
            self._call_soon(callback)

    async def wait(self) -> None:
        """Return when the signal is set."""
        if self._is_set:
            return
        is_set = asyncio.get_running_loop().create_future()

        def end() -> None:
            if not is_set.done():
                is_set.set_result(None)

        self.connect(end)
        try:
            await is_set
        finally:
            self.disconnect(end)

    def connect(self, callback: Callable[[], None]) -> None:
        """Call `callback` from the event loop when the signal is set; soon, if it is set already."""
        if self._callbacks is None:
            self._callbacks = {}
        self._callbacks[callback] = None
        if self._is_set:
            self._call_soon(callback)

    def disconnect(self, callback: Callable[[], None]) -> None:
        """Remove a callback."""
        if self._callbacks is not None:
            self._callbacks.pop(callback, None)
            if not self._callbacks:
                self._callbacks = None

    def _call_soon(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(self._call_if_connected, callback)

    def _call_if_connected(self, callback: Callable[[], None]) -> None:
        if self._callbacks is not None and callback in self._callbacks:
            callback()
