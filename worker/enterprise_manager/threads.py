"""Runs blocking calls on a bounded pool of daemon threads, which do not delay the end of the process.

The process waits for the threads of `concurrent.futures` when it ends. A worker that has to stop would wait for the
time-outs of an Enterprise Manager that does not answer.
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

    A pool belongs to one event loop.

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

    def run(self, call: Callable[[], _Result], ended: Callable[[], object] = lambda: None) -> asyncio.Future[_Result]:
        """Queue a call. The future receives its result or its exception, unless the loop was closed before.

        Cancelling the future does not stop the call. `ended` is called on the event loop when the call has ended and
        the future is done, even if it was cancelled. If no further thread can be started, the call waits for a running
        thread.

        Raises:
            RuntimeError: no thread runs, and none can be started. The call is not queued.
        """
        self._add_a_thread_if_none_is_idle()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[_Result] = loop.create_future()
        self._under_way += 1

        def fulfil(result: _Result | None, error: BaseException | None) -> None:
            self._under_way -= 1
            try:
                if outcome.done():
                    return
                if error is not None:
                    outcome.set_exception(error)
                else:
                    outcome.set_result(result)  # type: ignore[arg-type] # without an error there is a result
            finally:
                ended()

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
        """End the threads after the queued calls. Does not wait for them."""
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
            del call  # it holds its result, and would hold it until the next one
