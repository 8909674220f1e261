"""The metrics. The cardinality of every label is bounded: its values are names from the settings or constants.

Counters that alerts use are initialised to zero at the start: Prometheus' `increase` does not count the first sample of
a new time series.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib.metadata import version
from typing import Final, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector

from contracts.commands import UNKNOWN_NAME
from contracts.events import Outcome, ReasonCode

#: In seconds. The range extends from an immediate publisher confirm to a command that waited for an hour.
PHASE_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1500, 3600)
#: In seconds. Enterprise Manager answers in milliseconds to seconds; the default time-out of a request is 30 s.
REQUEST_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
#: In seconds. The range extends from a commit on a local disk to a call during a database outage.
LEDGER_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)

#: The value of the label `reason` if there is no reason.
NO_REASON: Final = "none"

#: The reasons for dead-lettering a command.
_DEADLY: Final = (
    ReasonCode.INVALID_MESSAGE,
    ReasonCode.UNKNOWN_ENTERPRISE_MANAGER,
    ReasonCode.ACCESS_DENIED,
    ReasonCode.GAVE_UP,
)


_Metric = TypeVar("_Metric", bound=MetricWrapperBase)


def _child(metric: _Metric, *labels: str) -> _Metric:
    return metric.labels(*labels)


class Metrics:
    """All metrics of one worker, in a separate registry.

    Args:
        enterprise_managers: the configured names. The label `enterprise_manager` has these values and `UNKNOWN_NAME`.
    """

    def __init__(self, enterprise_managers: Iterable[str]) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call] # it has no type annotations
        self._names = sorted(enterprise_managers)
        #: The child of a metric by its labels, cached: a call of `labels` takes longer than an increment.
        self.child = cache(_child)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        Info("unlink_build", "The program that runs.", registry=self.registry).info(
            {"version": version("unlink-worker"), "python": platform.python_version()}
        )

        of_each = ["enterprise_manager"]
        # --- unlinks
        self.unlinks = self._counter(
            "unlink_unlinks", "Commands that came to an end, by outcome and reason.", [*of_each, "outcome", "reason"]
        )
        self.duration = self._histogram(
            "unlink_duration_seconds", "From a command's receipt to its end.", [*of_each, "outcome"], PHASE_BUCKETS
        )
        self.phases = self._histogram(
            "unlink_phase_duration_seconds",
            "How long a part of an unlink took: submit (receipt to accepted DELETE), finish (to the end), "
            "publish (to the broker's confirm of the terminal event).",
            [*of_each, "phase"],
            PHASE_BUCKETS,
        )
        self.in_flight = self._gauge("unlink_in_flight", "Unlinks that this worker has claimed.", of_each)
        self.claims = self._counter(
            "unlink_claims",
            "The result of claiming a command's key: new, taken_over, settled_before, held_elsewhere, key_reused.",
            [*of_each, "result"],
        )
        self.leases_lost = self._counter(
            "unlink_leases_lost", "Unlinks stopped here because another worker may have taken them over.", of_each
        )
        # --- the broker
        self.deliveries = self._counter(
            "unlink_deliveries", "Messages delivered, by whether they were redelivered.", [*of_each, "redelivered"]
        )
        self.deferrals = self._counter(
            "unlink_deferrals", "Commands put into a delay queue without having failed.", of_each
        )
        self.retries = self._counter(
            "unlink_retries", "Commands put into a delay queue after an unforeseen failure.", of_each
        )
        self.dead_letters = self._counter(
            "unlink_dead_letters", "Messages that this worker dead-lettered.", [*of_each, "reason"]
        )
        self.reconnections = self._counter("unlink_broker_reconnections", "Times that the broker came back.")
        # --- Enterprise Manager
        self.requests = self._counter(
            "unlink_enterprise_manager_requests",
            "Requests, by the class of the answer's status; none is no answer.",
            [*of_each, "method", "status"],
        )
        self.request_seconds = self._histogram(
            "unlink_enterprise_manager_request_duration_seconds",
            "How long a request took, from its sending to its complete answer.",
            [*of_each, "method"],
            REQUEST_BUCKETS,
        )
        self.request_retries = self._counter(
            "unlink_enterprise_manager_request_retries", "Requests that repeat one that failed.", of_each
        )
        # --- the ledger
        self.ledger_seconds = self._histogram(
            "unlink_ledger_call_duration_seconds",
            "How long a call of the ledger took, the wait for a database that is away included.",
            ["call"],
            LEDGER_BUCKETS,
        )
        self.renewals = self._counter("unlink_lease_renewals", "Renewals of all of this worker's leases.")
        self.renewal_failures = self._counter("unlink_lease_renewal_failures", "Renewals that failed.")
        self._start_at_zero()

    def watch(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Add a gauge that calls `value` at each scrape, on the HTTP server's thread."""
        self._gauge(name, documentation, []).set_function(value)

    def watch_each(self, name: str, documentation: str, value: Callable[[str], float]) -> None:
        """Add a gauge as `watch` does, with one time series for each Enterprise Manager. `value` receives its name."""
        gauge = self._gauge(name, documentation, ["enterprise_manager"])
        for enterprise_manager in self._names:
            gauge.labels(enterprise_manager).set_function(partial(value, enterprise_manager))

    def _counter(self, name: str, documentation: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(name, documentation, list(labels), registry=self.registry)

    def _gauge(self, name: str, documentation: str, labels: Iterable[str]) -> Gauge:
        return Gauge(name, documentation, list(labels), registry=self.registry)

    def _histogram(self, name: str, documentation: str, labels: list[str], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, documentation, labels, buckets=buckets, registry=self.registry)

    def _start_at_zero(self) -> None:
        for name in self._names:
            for plain in (self.in_flight, self.leases_lost, self.request_retries):
                plain.labels(name)
            for outcome in (Outcome.SUCCEEDED, Outcome.PLANNED, Outcome.CANCELLED):
                self.unlinks.labels(name, outcome.value, NO_REASON)
            self.unlinks.labels(name, Outcome.TIMED_OUT.value, ReasonCode.GAVE_UP.value)
            for reason in ReasonCode:
                self.unlinks.labels(name, Outcome.FAILED.value, reason.value)
            self.unlinks.labels(name, Outcome.REJECTED.value, ReasonCode.KEY_REUSED.value)
            for result in ("new", "taken_over", "settled_before", "held_elsewhere", "key_reused"):
                self.claims.labels(name, result)
        for name in (*self._names, UNKNOWN_NAME):
            for plain in (self.deferrals, self.retries):
                plain.labels(name)
            for reason in _DEADLY:
                self.unlinks.labels(name, Outcome.REJECTED.value, reason.value)
                self.dead_letters.labels(name, reason.value)
            for redelivered in ("false", "true"):
                self.deliveries.labels(name, redelivered)
