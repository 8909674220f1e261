"""All of telemetry, put together for one worker."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING

import structlog

from worker.settings import SettingsInvalidError, secrets_of
from worker.telemetry import watched
from worker.telemetry.health import Health
from worker.telemetry.http import TelemetryServer
from worker.telemetry.logs import Redactor
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Journey, PassingOn, read_context, set_out
from worker.telemetry.watched.ends import Ends

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from worker.broker import Broker
    from worker.broker.delivery import BrokerDelivery
    from worker.enterprise_manager import Gateway
    from worker.ledger import SqlLedger
    from worker.settings import Settings, TracesSettings
    from worker.telemetry.tracing import Recorder
    from worker.unlinks.dispatcher import Dispatcher
    from worker.unlinks.ports.broker import Outbox
    from worker.unlinks.ports.clock import Clock
    from worker.unlinks.ports.enterprise_manager import EnterpriseManager
    from worker.unlinks.ports.ledger import Ledger


class Telemetry:
    """What one worker counts, records and says of itself.

    First the ports are wrapped, then `look_at` is given the parts, then `serve` answers.

    Raises:
        SettingsInvalidError: spans are asked for, and the SDK is not there.
    """

    def __init__(self, settings: Settings, worker: str, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.metrics = Metrics(settings.enterprise_managers)
        self._ends = Ends(self.metrics, clock)
        self._recorder = _recorder(settings.traces, worker)
        self._paused: frozenset[str] = frozenset()
        self.health: Health

    # --- the ports, watched -----------------------------------------------------------------------------------------

    def observer(self, enterprise_manager: str) -> watched.RequestObserver:
        """Who sees the requests to an Enterprise Manager."""
        return watched.RequestObserver(enterprise_manager, self.metrics)

    def ledger(self, ledger: Ledger) -> Ledger:
        """The ledger for the core."""
        return watched.WatchedLedger(ledger, self.metrics, self._ends, self._clock)

    def outbox(self, outbox: Outbox) -> Outbox:
        """The outbox for the core."""
        return watched.WatchedOutbox(outbox, self.metrics, self._ends)

    def enterprise_managers(self, gateways: Mapping[str, EnterpriseManager]) -> Mapping[str, EnterpriseManager]:
        """The Enterprise Managers for the core."""
        return {name: watched.WatchedEnterpriseManager(gateway) for name, gateway in gateways.items()}

    def deliver(self, delivery: BrokerDelivery, dispatcher: Dispatcher) -> None:
        """Hand a delivery to the core, in a context of its own that knows its trace."""
        contextvars.copy_context().run(self._deliver, delivery, dispatcher)

    def _deliver(self, delivery: BrokerDelivery, dispatcher: Dispatcher) -> None:
        redelivered = "true" if delivery.redelivered else "false"
        self.metrics.deliveries.labels(delivery.enterprise_manager, redelivered).inc()
        journey = Journey(self._recorder.begin(delivery, read_context(delivery.headers)))
        set_out(journey)
        structlog.contextvars.bind_contextvars(trace_id=journey.context.trace_id)
        dispatcher.receive(delivery).add_done_callback(lambda _task: journey.end())

    # --- the parts, looked at ---------------------------------------------------------------------------------------

    def look_at(
        self, broker: Broker, ledger: SqlLedger, gateways: Mapping[str, Gateway], dispatcher: Dispatcher
    ) -> None:
        """Take the state of the parts into the metrics, and into what probes are told."""
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
        metrics.watch("unlink_ledger_up", "Whether the database answered last time.", lambda: ledger.up)
        metrics.watch_each(
            "unlink_enterprise_manager_up",
            "Whether it is there, as far as is known.",
            lambda name: gateways[name].up,
        )
        metrics.watch_each(
            "unlink_enterprise_manager_paused",
            "Whether somebody paused it (unlink-worker pause).",
            lambda name: name in self._paused,
        )
        ledger.on_paused(self._set_paused)
        broker.on_availability(_from_the_second_time(metrics.reconnections.inc))
        ledger.on_renewal(lambda well: (metrics.renewals if well else metrics.renewal_failures).inc())
        self.health = Health(
            broker=broker,
            ledger=ledger,
            enterprise_managers=gateways,
            monotonic=self._clock.monotonic,
            clean=Redactor(secrets_of(self._settings)).clean_text,
        )

    def _set_paused(self, paused: frozenset[str]) -> None:
        self._paused = paused

    def serve(self) -> TelemetryServer:
        """Answer probes and scrapes from now on.

        Raises:
            SettingsInvalidError: it cannot listen there.
        """
        return TelemetryServer(self._settings.http, self.health, self.metrics.registry)

    async def close(self) -> None:
        """Send the spans that are left, within a few seconds."""
        await asyncio.to_thread(self._recorder.close)


def _recorder(settings: TracesSettings, worker: str) -> Recorder:
    if settings.endpoint is None:
        return PassingOn()
    try:
        from worker.telemetry.spans import OpenTelemetryRecorder  # noqa: PLC0415 - imported only if asked for
    except ImportError:
        raise SettingsInvalidError(
            "UNLINK_TRACES__ENDPOINT: needs OpenTelemetry's SDK: pip install 'unlink-worker[otel]', or leave it out"
        ) from None
    return OpenTelemetryRecorder(settings, worker)


def _from_the_second_time(count: Callable[[], None]) -> Callable[[bool], None]:
    """A listener that counts each time that something is up, but for the first."""
    times = 0

    def listener(up: bool) -> None:  # noqa: FBT001 - the listeners' form
        nonlocal times
        times += up
        if up and times > 1:
            count()

    return listener
