"""Events with callbacks: a wait that a signal may end needs no task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Signal(asyncio.Event):
    """An event, set once, that also calls back."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: set[Callable[[], None]] = set()

    def set(self) -> None:
        """Set it, and call back from the event loop. Callbacks must not raise."""
        super().set()
        for callback in self._callbacks:
            self._call_soon(callback)

    def connect(self, callback: Callable[[], None]) -> None:
        """Call back when it is set, or soon if it is set already."""
        self._callbacks.add(callback)
        if self.is_set():
            self._call_soon(callback)

    def disconnect(self, callback: Callable[[], None]) -> None:
        """Do not call back any more."""
        self._callbacks.discard(callback)

    def _call_soon(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(self._call_if_connected, callback)

    def _call_if_connected(self, callback: Callable[[], None]) -> None:
        if callback in self._callbacks:
            callback()
