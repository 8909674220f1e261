"""Counts requests to Enterprise Manager, and adds trace headers to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from worker.telemetry.isolation import Isolated
from worker.telemetry.tracing import outgoing_headers

if TYPE_CHECKING:
    from worker.enterprise_manager.wire import Exchange
    from worker.telemetry.metrics import Metrics


class RequestMetrics:
    """Observes each request to one Enterprise Manager (`worker.enterprise_manager.wire.RequestObserver`)."""

    def __init__(self, enterprise_manager: str, metrics: Metrics) -> None:
        self._name = enterprise_manager
        self._metrics = metrics

    def headers(self) -> Mapping[str, str]:
        """The W3C trace context headers of the current span."""
        return outgoing_headers()

    def exchanged(self, exchange: Exchange) -> None:
        """Count the request by the class of its status."""
        status = "none" if exchange.status is None else f"{exchange.status // 100}xx"
        metrics = self._metrics
        with Isolated("request metrics"):
            metrics.child(metrics.requests, self._name, exchange.method, status).inc()
            metrics.child(metrics.request_seconds, self._name, exchange.method).observe(exchange.seconds)
            if exchange.attempt > 1:
                metrics.child(metrics.request_retries, self._name).inc()
