"""Context managers for what is started and must not outlive its owner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Self


class Server(ABC):
    """A server that is started at the beginning of the context and closed at its end."""

    @abstractmethod
    def start(self) -> None:
        """Start it. Does nothing if it runs."""

    @abstractmethod
    def close(self) -> None:
        """End it and remove every trace of it. Closing again does nothing."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Assembly(ABC):
    """Several parts that are opened together, and closed in the reverse order, also if a later one does not open."""

    _stack: ExitStack

    @abstractmethod
    def _open(self, stack: ExitStack) -> None:
        """Enter the parts' contexts on the stack."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
