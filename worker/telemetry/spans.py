"""Spans, recorded with OpenTelemetry's SDK and sent to a collector over OTLP/HTTP.

Imported only where it is set up: the SDK is an extra (`pip install 'unlink-worker[otel]'`).
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

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from worker.settings import TracesSettings

#: How long one request to the collector may take, in seconds, repeats included.
EXPORT_SECONDS: Final = 10

#: How long a worker that stops waits for the last spans to be sent, in seconds; unlinks do not wait for it.
CLOSE_SECONDS: Final = 3.0


class SpanExport:
    """A tracer whose spans are sent from a thread of its own; what cannot be sent is dropped."""

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
        self.tracer: Tracer = self._provider.get_tracer("unlink-worker", version("unlink-worker"))

    def close(self) -> None:
        """Send what is left, within `CLOSE_SECONDS`. Blocks."""
        # On a thread that may be left behind: the SDK's own time limits are those of a collector that answers.
        closing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
