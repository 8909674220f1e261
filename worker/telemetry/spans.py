"""Records spans with OpenTelemetry's SDK, and exports them to a collector over OTLP/HTTP.

This module is imported only if an endpoint is set: the SDK is an extra (`pip install 'unlink-worker[otel]'`).
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

#: How long one export to the collector may take, in seconds, including retries.
EXPORT_SECONDS: Final = 10

#: How long the worker waits for the export of the last spans when it stops, in seconds. Unlinks do not wait for it.
CLOSE_SECONDS: Final = 3.0


class SpanExport:
    """A tracer whose spans are exported from a separate thread. Spans that cannot be exported are dropped."""

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
        """Export the remaining spans, within `CLOSE_SECONDS`. Blocks."""
        # On a daemon thread, which may outlast this call: the SDK's own time limits only hold for a collector that
        # answers.
        closing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
