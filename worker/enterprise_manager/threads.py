"""Blocking calls beside the event loop, on threads that do not keep the process from ending.

Those of `concurrent.futures` do: a worker that is told to stop would wait for the time-outs of an Enterprise Manager
that never answers. How many calls there are at once is for the caller to bound.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


def beside_the_loop(call: Callable[[], _Result], name: str) -> asyncio.Future[_Result]:
    """Begin the call on a thread of its own; the future has its outcome, unless the loop has closed by then.

    To cancel the future does not stop the call.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_Result] = loop.create_future()

    def fulfil(result: _Result | None, error: BaseException | None) -> None:
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

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome
