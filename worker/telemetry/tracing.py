"""Trace context propagation: read from a command's headers, logged with every line, and sent with outgoing messages.

A publisher may send W3C's `traceparent` and `tracestate` as message headers (https://www.w3.org/TR/trace-context/). The
worker sends these headers with the command's events, with its copies in delay queues, and with the requests to
Enterprise Manager. Without the SDK, the publisher's span is the parent in all of them. A command without a trace
context starts a new trace, so that its log lines can be found by `trace_id`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import structlog
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from contracts.events import EventData, Outcome
from worker.telemetry.isolation import Isolated
from worker.unlinks.ports.broker import Delivery
from worker.unlinks.ports.steps import Step, StepKind

_W3C: Final = TraceContextTextMapPropagator()

#: The longest `tracestate` that is propagated, in characters: the minimum that the W3C recommendation requires.
MAX_TRACESTATE: Final = 512

_COMMANDS: Final = "unlink.commands"
_EVENTS: Final = "unlink.events"
_MISROUTED: Final = "unlink.misrouted"

#: The name and the kind of the span that starts with a step.
_SPANS: Final = {
    StepKind.CLAIMING: ("claim", SpanKind.INTERNAL),
    StepKind.LOOKING: ("look", SpanKind.CLIENT),
    StepKind.INTENDING: ("intend", SpanKind.INTERNAL),
    StepKind.SENDING: ("delete", SpanKind.CLIENT),
    StepKind.FOLLOWING: ("follow", SpanKind.CLIENT),
    StepKind.VERIFYING: ("verify", SpanKind.CLIENT),
    StepKind.STOPPING_TASK: ("stop", SpanKind.CLIENT),
    StepKind.SETTLING: ("settle", SpanKind.INTERNAL),
    StepKind.PUBLISHING: ("publish", SpanKind.PRODUCER),
    StepKind.DELAYING: ("delay", SpanKind.PRODUCER),
    StepKind.DEAD_LETTERING: ("dead-letter", SpanKind.PRODUCER),
}
_PUBLISHING: Final = {
    "messaging.system": "rabbitmq",
    "messaging.operation.type": "send",
    "messaging.operation.name": "publish",
    "messaging.destination.name": _EVENTS,
}
_FAILED: Final = {Outcome.FAILED, Outcome.TIMED_OUT, Outcome.REJECTED}


def read_context(headers: Mapping[str, object]) -> Context:
    """The trace context in a message's headers; an empty context if there is none, or if it is not valid."""
    carrier = {name: value for name in _W3C.fields if isinstance(value := headers.get(name), str)}
    if len(carrier.get("tracestate", "")) > MAX_TRACESTATE:
        del carrier["tracestate"]
    return _W3C.extract(carrier, Context())


@dataclass(slots=True)
class _Trace:
    """The spans of one delivery: the span of the whole delivery, and the span of the current step."""

    whole: Span
    step: Span | None = None
    name: str | None = None
    #: The outgoing headers while there is no current step.
    headers: Mapping[str, str] | None = None

    def begin(self, tracer: Tracer, name: str, kind: SpanKind) -> None:
        """End the span of the current step, and start one for this step, unless they are the same step."""
        if name == self.name:
            return
        self.end_step()
        self.name = name
        self.step = tracer.start_span(
            f"publish {_EVENTS}" if name == "publish" else name,
            context=set_span_in_context(self.whole),
            kind=kind,
            attributes={"unlink.step": name} | (_PUBLISHING if name == "publish" else {}),
        )

    def end_step(self) -> None:
        if self.step is not None:
            self.step.end()
            self.step = None


_present: ContextVar[_Trace | None] = ContextVar("trace", default=None)


def current_trace_id() -> str | None:
    """The trace of the delivery in whose task it is called, as its log lines name it; None outside of such a task."""
    trace = _present.get()
    return None if trace is None else _trace_id_of(trace.whole)


def _trace_id_of(span: Span) -> str:
    return format_trace_id(span.get_span_context().trace_id)


def outgoing_headers() -> Mapping[str, str]:
    """The trace headers for a request or message; none outside of a delivery's task, for example in a probe."""
    trace = _present.get()
    if trace is None:
        return {}
    if trace.step is not None:
        return _headers_of(trace.step)
    if trace.headers is None:
        trace.headers = _headers_of(trace.whole)
    return trace.headers


def _headers_of(span: Span) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    with Isolated("trace headers"):
        _W3C.inject(headers, set_span_in_context(span))
    return headers


class StepSpans:
    """Records one span for a delivery, and a child span for each step. Without the SDK it only propagates the trace."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._records = not isinstance(tracer, NoOpTracer)

    def report(self, step: Step) -> None:
        """Start and end spans for a step."""
        if step.kind is StepKind.RECEIVED and step.delivery is not None:
            context = read_context(step.delivery.headers)
            span = self._begin(step.delivery, context) if self._records else get_current_span(context)
            whole = span if span.get_span_context().is_valid else _new_trace()
            _present.set(_Trace(whole))
            structlog.contextvars.bind_contextvars(trace_id=_trace_id_of(whole))
            return
        trace = _present.get()
        if trace is None or not self._records:
            return
        if step.kind in _SPANS:
            trace.begin(self._tracer, *_SPANS[step.kind])
        elif step.kind is StepKind.ANSWERED:
            trace.end_step()
            trace.whole.end()
        elif step.event is not None and step.kind in {StepKind.SETTLED, StepKind.PUBLISHED}:
            _set_outcome(trace.whole, step.event.data)

    def _begin(self, delivery: Delivery, context: Context) -> Span:
        name = delivery.enterprise_manager
        queue = f"{_COMMANDS}.{name}" if delivery.misrouting is None else _MISROUTED
        attributes: dict[str, str | int] = {
            "messaging.system": "rabbitmq",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": f"{_COMMANDS}:{name}:{queue}",
            "messaging.rabbitmq.destination.routing_key": name,
            "messaging.message.body.size": len(delivery.body),
            "unlink.enterprise_manager": name,
            "unlink.attempt": delivery.attempt,
        }
        if delivery.correlation_id is not None:
            attributes["messaging.message.conversation_id"] = delivery.correlation_id
        return self._tracer.start_span(
            f"process {queue}", context=context, kind=SpanKind.CONSUMER, attributes=attributes
        )


def _new_trace() -> Span:
    """A span of a new trace. The span is not recorded."""
    return NonRecordingSpan(SpanContext(secrets.randbits(128) | 1, secrets.randbits(64) | 1, is_remote=False))


def _set_outcome(span: Span, data: EventData) -> None:
    """Set the span's attributes and status from the outcome: failed, timed out and rejected are errors."""
    span.set_attribute("unlink.outcome", data.outcome.value)
    reason = data.reason.code.value if data.reason else None
    span.set_attribute("unlink.reason", reason or "none")
    if data.outcome in _FAILED:
        span.set_attribute("error.type", reason or data.outcome.value)
        span.set_status(StatusCode.ERROR, reason or data.outcome.value)
