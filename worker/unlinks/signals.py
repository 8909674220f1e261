"""An event with callbacks, so that waiting for it needs no task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Signal(asyncio.Event):
    """An event that is set once, and then also runs callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: set[Callable[[], None]] = set()

    def set(self) -> None:
        """Set the signal, and run the callbacks from the event loop. They must not raise."""
        super().set()
        for callback in self._callbacks:
            self._call_soon(callback)

    def connect(self, callback: Callable[[], None]) -> None:
        """Call `callback` from the event loop when the signal is set; soon, if it is set already."""
        self._callbacks.add(callback)
        if self.is_set():
            self._call_soon(callback)

    def disconnect(self, callback: Callable[[], None]) -> None:
        """Remove a callback."""
        self._callbacks.discard(callback)

    def _call_soon(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(self._call_if_connected, callback)

    def _call_if_connected(self, callback: Callable[[], None]) -> None:
        if callback in self._callbacks:
            callback()
