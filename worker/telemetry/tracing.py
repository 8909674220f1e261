"""The trace that a command belongs to: taken from its headers, in every log line, passed on with all that follows.

Whoever publishes a command may send W3C's `traceparent` and `tracestate` as plain headers
(https://www.w3.org/TR/trace-context/). The same go out with the command's events, with its copies in delay queues, and
with the requests to Enterprise Manager. Without a recorder the caller's span stays the parent of all of them, as the
recommendation asks of whoever only passes a trace on; a command that names no trace begins one of its own, so that its
lines in the log can be found by `trace_id`.
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.unlinks.ports.broker import Delivery

#: A later version may say more at the end; version ff is none.
_TRACEPARENT: Final = re.compile(
    r"(?:00|(?!00|ff)(?P<later>[0-9a-f]{2}))"
    r"-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?(later)(?:-.*)?)"
)

#: The longest `tracestate` that is passed on, in characters: what the recommendation asks for at least.
MAX_TRACESTATE: Final = 512

_SAMPLED: Final = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace: what comes next is a child of it. IDs are lower-case hexadecimal."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """As it travels."""
        flags = _SAMPLED if self.sampled else 0
        parent = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{flags:02x}"}
        return parent | ({"tracestate": self.state} if self.state else {})


def read_context(headers: Mapping[str, object]) -> TraceContext | None:
    """The trace that a message belongs to; None if it names none that can be read."""
    match = _TRACEPARENT.fullmatch(_text(headers.get("traceparent")).strip())
    if match is None or not int(match["trace"], 16) or not int(match["span"], 16):
        return None
    state = _text(headers.get("tracestate")).strip()
    sampled = bool(int(match["flags"], 16) & _SAMPLED)
    passed_on = state if len(state) <= MAX_TRACESTATE and state.isascii() and state.isprintable() else ""
    return TraceContext(match["trace"], match["span"], sampled, passed_on)


def new_context() -> TraceContext:
    """A trace that begins here, and that nobody records."""
    return TraceContext(secrets.token_hex(16), secrets.token_hex(8), sampled=False)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


class Recording(Protocol):
    """The spans of one delivery, while it is worked on."""

    @property
    def context(self) -> TraceContext:
        """The span that is open now: the parent of whatever leaves."""
        ...

    def step(self, name: str) -> None:
        """The step before is over; this one begins."""
        ...

    def note(self, **attributes: str) -> None:
        """Something to remember of the whole."""
        ...

    def end(self) -> None:
        """All is over."""
        ...


class Recorder(Protocol):
    """Makes spans."""

    def begin(self, delivery: Delivery, parent: TraceContext | None) -> Recording:
        """The span of a delivery, child of the one that published it."""
        ...

    def close(self) -> None:
        """Send what is left, within a few seconds. Blocks."""
        ...


class _PassedOn:
    """A recording of nothing: the caller's place in the trace, unchanged."""

    def __init__(self, context: TraceContext) -> None:
        self.context = context

    def step(self, name: str) -> None:
        pass

    def note(self, **attributes: str) -> None:
        pass

    def end(self) -> None:
        pass


class PassingOn:
    """The recorder where none is set up."""

    def begin(self, delivery: Delivery, parent: TraceContext | None) -> Recording:
        """Pass the trace on, or begin one."""
        del delivery
        return _PassedOn(parent or new_context())

    def close(self) -> None:
        """Nothing is left."""


class Journey:
    """One delivery on its way through the core; its steps follow from what the core asks its ports.

    `sent`: a DELETE has left for it, now or in an earlier attempt, so that a look at the links verifies.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._step: str | None = None
        self.sent = False

    @property
    def context(self) -> TraceContext:
        """The parent of whatever leaves now."""
        return self._recording.context

    def at(self, step: str) -> None:
        """It is at this step now; being there already is no news."""
        if step != self._step:
            self._step = step
            self._recording.step(step)

    def note(self, **attributes: str) -> None:
        """Something to remember of the whole."""
        self._recording.note(**attributes)

    def end(self) -> None:
        """It is over."""
        self._recording.end()


_present: ContextVar[Journey | None] = ContextVar("journey", default=None)


def present_journey() -> Journey | None:
    """The journey in whose service this code runs; None outside of any, as in a probe or a renewal."""
    return _present.get()


def set_out(journey: Journey) -> None:
    """Make it the present one for this context and all tasks that come of it."""
    _present.set(journey)


def at(step: str) -> None:
    """The present journey, if there is one, is at this step now."""
    journey = _present.get()
    if journey is not None:
        journey.at(step)


def outgoing_headers() -> dict[str, str]:
    """What goes along with whatever leaves now; nothing outside of any journey."""
    journey = _present.get()
    return journey.context.headers if journey is not None else {}
