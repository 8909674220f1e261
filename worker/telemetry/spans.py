"""Spans, recorded with OpenTelemetry's SDK and sent to a collector over OTLP/HTTP.

Imported only where it is set up: the SDK is an extra (`pip install 'unlink-worker[otel]'`). Attributes are those of the
messaging conventions (https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/, in development); what these have
no name for begins with `unlink.`.
"""

from __future__ import annotations

import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from contracts.events import Outcome
from worker.telemetry.tracing import TraceContext

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from worker.settings import TracesSettings
    from worker.unlinks.ports.broker import Delivery

#: How long one request to the collector may take, in seconds, repeats included.
EXPORT_SECONDS: Final = 10

#: How long a worker that stops waits for the last spans to be taken, in seconds; unlinks do not wait for it.
CLOSE_SECONDS: Final = 3.0

_COMMANDS: Final = "unlink.commands"
_EVENTS: Final = "unlink.events"

_KINDS: Final = {
    "look": SpanKind.CLIENT,
    "delete": SpanKind.CLIENT,
    "follow": SpanKind.CLIENT,
    "verify": SpanKind.CLIENT,
    "stop": SpanKind.CLIENT,
    "publish": SpanKind.PRODUCER,
    "put off": SpanKind.PRODUCER,
    "dead-letter": SpanKind.PRODUCER,
}
_PUBLISHING: Final = {
    "messaging.system": "rabbitmq",
    "messaging.operation.type": "send",
    "messaging.operation.name": "publish",
    "messaging.destination.name": _EVENTS,
}
_FAILED: Final = {Outcome.FAILED.value, Outcome.TIMED_OUT.value, Outcome.REJECTED.value}


class OpenTelemetryRecorder:
    """Implements `worker.telemetry.tracing.Recorder`; sends from a thread of its own, and drops what it cannot send."""

    def __init__(self, settings: TracesSettings, worker: str) -> None:
        resource = Resource.create(
            {
                "service.name": "unlink-worker",
                "service.version": version("unlink-worker"),
                "service.instance.id": worker,
            }
        )
        self._provider = TracerProvider(
            resource=resource,
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=settings.endpoint, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("unlink-worker", version("unlink-worker"))

    def begin(self, delivery: Delivery, parent: TraceContext | None) -> SpanRecording:
        """The span of a delivery, child of the one that published it."""
        name = delivery.enterprise_manager
        queue = f"{_COMMANDS}.{name}"
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
        span = self._tracer.start_span(
            f"process {queue}", context=_as_context(parent), kind=SpanKind.CONSUMER, attributes=attributes
        )
        return SpanRecording(self._tracer, span)

    def close(self) -> None:
        """Send what is left, within `CLOSE_SECONDS`. Blocks."""
        # On a thread that may be left behind: the SDK's own time limits are those of a collector that answers.
        closing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class SpanRecording:
    """One span for a delivery, and one child for each step."""

    def __init__(self, tracer: Tracer, whole: Span) -> None:
        self._tracer = tracer
        self._whole = whole
        self._step: Span | None = None

    @property
    def context(self) -> TraceContext:
        """The step that is under way, or the whole."""
        context = (self._step or self._whole).get_span_context()
        return TraceContext(
            f"{context.trace_id:032x}",
            f"{context.span_id:016x}",
            context.trace_flags.sampled,
            context.trace_state.to_header(),
        )

    def step(self, name: str) -> None:
        """The step before is over; this one begins."""
        self._end_step()
        self._step = self._tracer.start_span(
            f"publish {_EVENTS}" if name == "publish" else name,
            context=set_span_in_context(self._whole),
            kind=_KINDS.get(name, SpanKind.INTERNAL),
            attributes={"unlink.step": name} | (_PUBLISHING if name == "publish" else {}),
        )

    def note(self, **attributes: str) -> None:
        """Attributes of the whole; an outcome that is no success is an error."""
        for name, value in attributes.items():
            self._whole.set_attribute(f"unlink.{name}", value)
        if attributes.get("outcome") in _FAILED:
            reason = attributes.get("reason", attributes["outcome"])
            self._whole.set_attribute("error.type", reason)
            self._whole.set_status(StatusCode.ERROR, reason)

    def end(self) -> None:
        """All is over."""
        self._end_step()
        self._whole.end()

    def _end_step(self) -> None:
        if self._step is not None:
            self._step.end()
            self._step = None


def _as_context(parent: TraceContext | None) -> Context | None:
    if parent is None:
        return None
    context = SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([parent.state] if parent.state else []),
    )
    return set_span_in_context(NonRecordingSpan(context))
