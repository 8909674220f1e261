"""All of telemetry, for one worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from opentelemetry.trace import NoOpTracer

from worker.settings import Settings, SettingsInvalidError, TracesSettings, secrets_of
from worker.telemetry.health import Health
from worker.telemetry.http import TelemetryServer
from worker.telemetry.isolation import Isolated, IsolatedSinks
from worker.telemetry.logs import Redactor
from worker.telemetry.metrics import Metrics
from worker.telemetry.requests import RequestMetrics
from worker.telemetry.step_log import StepLog
from worker.telemetry.step_metrics import StepMetrics
from worker.telemetry.tracing import StepSpans
from worker.unlinks.dispatcher import Dispatcher
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.steps import Step

if TYPE_CHECKING:
    from worker.broker.broker import Broker
    from worker.enterprise_manager import Gateway
    from worker.ledger.sql_ledger import SqlLedger
    from worker.telemetry.spans import SpanExport


class Telemetry:
    """The telemetry of one worker.

    Call `look_at` with the parts first, then `serve` to answer probes and scrapes.

    Raises:
        SettingsInvalidError: an endpoint for spans is set, but OpenTelemetry's SDK is not installed.
    """

    def __init__(self, settings: Settings, worker: str, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.metrics = Metrics(settings.enterprise_managers)
        self._export = _span_export(settings.traces, worker)
        tracer = NoOpTracer() if self._export is None else self._export.tracer
        # Spans first: they set the `trace_id` of the log lines.
        self._sinks = IsolatedSinks(StepSpans(tracer), StepLog(), StepMetrics(self.metrics, clock))
        self._paused: frozenset[str] = frozenset()
        #: Removes secrets from a text.
        self.clean = Redactor(secrets_of(settings)).clean_text
        self.health: Health

    def report(self, step: Step) -> None:
        """Write spans, log lines and metrics for a step (`worker.unlinks.ports.steps.Steps`). Never raises."""
        self._sinks.report(step)

    def observer(self, enterprise_manager: str) -> RequestMetrics:
        """The observer of requests to an Enterprise Manager."""
        return RequestMetrics(enterprise_manager, self.metrics)

    # --- the state of the parts -------------------------------------------------------------------------------------

    def look_at(
        self, broker: Broker, ledger: SqlLedger, gateways: Mapping[str, Gateway], dispatcher: Dispatcher
    ) -> None:
        """Include the state of these parts in the metrics and in the responses to probes."""
        metrics = self.metrics
        metrics.watch("unlink_deliveries_in_hand", "Messages being worked on.", lambda: dispatcher.in_flight)
        metrics.watch("unlink_broker_up", "Whether both connections are open.", lambda: broker.up)
        metrics.watch(
            "unlink_broker_confirms_outstanding",
            "Publishes that wait for the broker's confirm.",
            lambda: broker.outbox.unconfirmed,
        )
        metrics.watch_each(
            "unlink_broker_consuming",
            "Whether the queue has a consumer here.",
            lambda name: name in broker.consuming,
        )
        metrics.watch(
            "unlink_broker_consuming_misrouted",
            "Whether the queue unlink.misrouted has a consumer here.",
            lambda: broker.consuming_misrouted,
        )
        metrics.watch("unlink_ledger_up", "Whether the last query was answered.", lambda: ledger.up)
        metrics.watch_each(
            "unlink_enterprise_manager_up",
            "Whether it is available, as far as is known.",
            lambda name: gateways[name].up,
        )
        metrics.watch_each(
            "unlink_enterprise_manager_paused",
            "Whether it is paused (unlink-worker pause).",
            lambda name: name in self._paused,
        )
        ledger.on_paused(self._set_paused)
        broker.on_availability(_from_the_second_time(metrics.reconnections.inc))
        ledger.on_call(self._ledger_called)
        ledger.on_renewal(self._leases_renewed)
        self.health = Health(
            broker=broker,
            ledger=ledger,
            enterprise_managers=gateways,
            monotonic=self._clock.monotonic,
            clean=self.clean,
        )

    def _ledger_called(self, call: str, seconds: float) -> None:
        with Isolated("ledger metrics"):
            self.metrics.child(self.metrics.ledger_seconds, call).observe(seconds)

    def _leases_renewed(self, well: bool) -> None:  # noqa: FBT001 - the listeners' form
        with Isolated("ledger metrics"):
            (self.metrics.renewals if well else self.metrics.renewal_failures).inc()

    def _set_paused(self, paused: frozenset[str]) -> None:
        self._paused = paused

    def serve(self) -> TelemetryServer:
        """Start the HTTP server for probes and scrapes.

        Raises:
            SettingsInvalidError: the server cannot listen on the address in the settings.
        """
        return TelemetryServer(self._settings.http, self.health, self.metrics.registry)

    async def close(self) -> None:
        """Export the remaining spans, within a few seconds."""
        if self._export is not None:
            await asyncio.to_thread(self._export.close)


def _span_export(settings: TracesSettings, worker: str) -> SpanExport | None:
    if settings.endpoint is None:
        return None
    try:
        from worker.telemetry import spans  # noqa: PLC0415 - imported only if an endpoint is set
    except ImportError:
        raise SettingsInvalidError(
            "UNLINK_TRACES__ENDPOINT: needs OpenTelemetry's SDK: pip install 'unlink-worker[otel]', or leave it out"
        ) from None
    return spans.SpanExport(settings, worker)


def _from_the_second_time(count: Callable[[], None]) -> Callable[[bool], None]:
    """A listener that calls `count` each time it is called with True, except for the first time."""
    times = 0

    def listener(up: bool) -> None:  # noqa: FBT001 - the listeners' form
        nonlocal times
        times += up
        if up and times > 1:
            count()

    return listener
