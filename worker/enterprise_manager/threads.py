"""Blocking calls beside the event loop, on a bounded number of threads that do not keep the process from ending.

The threads of `concurrent.futures` do keep it: a worker that has to stop would wait for the time-outs of an Enterprise
Manager that never answers.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_Result = TypeVar("_Result")


class Threads:
    """A pool of daemon threads. A thread is started when a call finds none idle, and is kept for later calls.

    To be used on one event loop.

    Args:
        name: the name of every thread.
        most: the largest number of threads. Further calls wait in a queue.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._threads = 0
        self._under_way = 0
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def run(self, call: Callable[[], _Result]) -> asyncio.Future[_Result]:
        """Queue the call. The future has its outcome, unless the loop has closed by then.

        Cancelling the future does not stop the call. Where no further thread can be started, the call waits for one of
        those that run.

        Raises:
            RuntimeError: no thread can be started, and none runs. The call is not queued.
        """
        self._add_a_thread_if_none_is_idle()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[_Result] = loop.create_future()
        self._under_way += 1

        def fulfil(result: _Result | None, error: BaseException | None) -> None:
            self._under_way -= 1
            if outcome.done():
                return
            if error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(result)  # type: ignore[arg-type] # without an error there is a result

        def run() -> None:
            result: _Result | None = None
            failure: BaseException | None = None
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it is raised where the outcome is awaited
                failure = error
            with suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(fulfil, result, failure)

        self._calls.put(run)
        return outcome

    def close(self) -> None:
        """End each thread after the calls that are queued."""
        for _ in range(self._threads):
            self._calls.put(None)
        self._threads = 0

    def _add_a_thread_if_none_is_idle(self) -> None:
        if self._under_way < self._threads or self._threads >= self._most:
            return
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError:  # "can't start new thread"
            if self._threads == 0:
                raise
        else:
            self._threads += 1

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
