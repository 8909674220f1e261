"""Injected faults, each for the next requests that match it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import ConfigDict

FaultKind = Literal[
    "status",
    "never_answers",
    "acts_and_never_answers",
    "drops_connection",
    "acts_and_drops_connection",
    "latency",
    "truncated",
    "cut_off",
    "wrong_content",
    "task_fails",
    "task_hangs",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, applied to `times` of the requests that match it.

    kind:
        status: answer `status` without acting; `answer` says with what body.
        never_answers: hold the connection without acting.
        acts_and_never_answers: act, then hold the connection.
        drops_connection: reset the connection without acting.
        acts_and_drops_connection: act, then reset it: the answer is lost.
        latency: act, and answer after `seconds`.
        truncated: act, and answer half a document, properly framed.
        cut_off: act, and close the connection in the middle of the document.
        wrong_content: act, and answer `body` as `content_type` in place of the document; `status` where one is given.
        task_fails: accept the edit; its task fails with `message`.
        task_hangs: accept the edit; its task never ends, and the link stays.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: FaultKind
    #: The HTTP method; None matches any.
    method: str | None = None
    #: A substring of the path with its query, percent-encoded as it was sent; the empty string matches any.
    path: str = ""
    #: How many matching requests get the fault; None means all until `clear_faults`.
    times: int | None = 1
    #: How many matching requests are answered normally before the first fault.
    after: int = 0
    status: int | None = None
    answer: Literal["error", "html", "empty"] = "error"
    message: str = "The operation could not be completed."
    seconds: float = 1
    body: str = "<html><body>It works!</body></html>"
    content_type: str = "text/html; charset=utf-8"
    #: The `Retry-After` header of the kind `status`.
    retry_after: str | None = None


class Faults:
    """The faults that were not used up yet. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Append a fault. If several match a request, the oldest one is used."""
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        """Remove all remaining faults."""
        with self._lock:
            self._waiting.clear()

    def left(self) -> list[Fault]:
        """The faults that were not applied to all of their requests yet."""
        with self._lock:
            return list(self._waiting)

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for this request, or None. The request counts for the fault's `after` or `times`."""
        if not self._waiting:
            return None
        with self._lock:
            for position, fault in enumerate(self._waiting):
                if fault.method not in {None, method} or fault.path.lower() not in path.lower():
                    continue
                if fault.after > 0:
                    self._waiting[position] = replace(fault, after=fault.after - 1)
                    continue
                if fault.times is not None:
                    self._count(position, fault, fault.times)
                return fault
        return None

    def _count(self, position: int, fault: Fault, times: int) -> None:
        if times > 1:
            self._waiting[position] = replace(fault, times=times - 1)
        else:
            del self._waiting[position]
