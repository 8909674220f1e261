"""Context managers for servers that must end together with their owner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Self


class Server(ABC):
    """A server that is started at the beginning of the context and closed at its end."""

    @abstractmethod
    def start(self) -> None:
        """Start the server. Does nothing if it already runs."""

    @abstractmethod
    def close(self) -> None:
        """Stop the server and remove its files. Closing again does nothing."""

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
    """Several parts that are opened together. They are closed in reverse order, even if a later part fails to open."""

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
