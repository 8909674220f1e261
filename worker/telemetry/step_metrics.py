"""The metrics of unlinks, written from their steps."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from contracts.events import EventData, Outcome
from worker.telemetry.metrics import NO_REASON, Metrics
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.steps import Step, StepKind

#: The value of the label `result` for each outcome of a claim.
_CLAIMS: Final = {
    StepKind.CLAIMED: "new",
    StepKind.TOOK_OVER: "taken_over",
    StepKind.SETTLED_BEFORE: "settled_before",
    StepKind.HELD_ELSEWHERE: "held_elsewhere",
    StepKind.KEY_REUSED: "key_reused",
}

#: Outcomes that are never settled in the ledger.
_NEVER_SETTLED: Final = {Outcome.PLANNED, Outcome.REJECTED}


class StepMetrics:
    """Counts the steps, and each end of an unlink once.

    An end is counted when it is settled. An end that is never settled is counted when its event is published.
    """

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._claimed: set[str | None] = set()
        #: The counters whose only label is the Enterprise Manager.
        self._counters = {
            StepKind.LEASE_LOST: metrics.leases_lost,
            StepKind.DEFERRED: metrics.deferrals,
            StepKind.RETRIED: metrics.retries,
        }

    def report(self, step: Step) -> None:
        """Count a step."""
        metrics, name = self._metrics, step.enterprise_manager
        if step.kind in self._counters:
            metrics.child(self._counters[step.kind], name).inc()
        elif step.kind in _CLAIMS:
            metrics.child(metrics.claims, name, _CLAIMS[step.kind]).inc()
        match step.kind:
            case StepKind.RECEIVED if step.delivery is not None:
                metrics.child(metrics.deliveries, name, "true" if step.delivery.redelivered else "false").inc()
            case StepKind.CLAIMED | StepKind.TOOK_OVER:
                self._claimed.add(step.key)
                metrics.child(metrics.in_flight, name).inc()
            case StepKind.RELEASED | StepKind.SETTLED:
                self._no_longer_claimed(step)
            case StepKind.DEAD_LETTERED:
                metrics.child(metrics.dead_letters, name, step.facts["reason"]).inc()
        if step.event is not None:
            self._count_event(step.kind, name, step.event.data)

    def _count_event(self, kind: StepKind, name: str, data: EventData) -> None:
        if (kind is StepKind.PUBLISHED) == (data.outcome in _NEVER_SETTLED):
            self._count_end(name, data)
        if kind is StepKind.PUBLISHED:
            self._observe_phase(name, "publish", data.finished_at, self._clock.now())

    def _no_longer_claimed(self, step: Step) -> None:
        if step.key in self._claimed:
            self._claimed.remove(step.key)
            self._metrics.child(self._metrics.in_flight, step.enterprise_manager).dec()

    def _count_end(self, name: str, data: EventData) -> None:
        self._metrics.child(
            self._metrics.unlinks, name, data.outcome.value, data.reason.code.value if data.reason else NO_REASON
        ).inc()
        seconds = _seconds(data.received_at, data.finished_at)
        if seconds is not None:
            self._metrics.child(self._metrics.duration, name, data.outcome.value).observe(seconds)
        self._observe_phase(name, "submit", data.received_at, data.submitted_at)
        self._observe_phase(name, "finish", data.submitted_at, data.finished_at)

    def _observe_phase(self, name: str, phase: str, since: datetime | None, until: datetime | None) -> None:
        seconds = _seconds(since, until)
        if seconds is not None:
            self._metrics.child(self._metrics.phases, name, phase).observe(seconds)


def _seconds(since: datetime | None, until: datetime | None) -> float | None:
    """The seconds between two times, at least 0: the clocks of the hosts may differ. None if a time is missing."""
    return None if since is None or until is None else max((until - since).total_seconds(), 0.0)
