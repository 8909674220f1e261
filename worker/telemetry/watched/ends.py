"""How unlinks ended, read off their terminal events."""

from __future__ import annotations

import json
from collections import OrderedDict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from contracts.events import Outcome
from worker.telemetry.metrics import NO_REASON
from worker.telemetry.tracing import present_journey

if TYPE_CHECKING:
    from worker.telemetry.metrics import Metrics
    from worker.unlinks.ports.clock import Clock

#: How many settled events are remembered until they are published; they are published at once, but for an outage.
_MOST_REMEMBERED: Final = 10_000


class Ends:
    """Counts each end once: when it is settled, or, for those that never are, when it is published."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._unpublished: OrderedDict[str, None] = OrderedDict()

    def settled(self, event: bytes) -> None:
        """The ledger has it."""
        content = json.loads(event)
        self._count(content["data"])
        self._unpublished[content["id"]] = None
        if len(self._unpublished) > _MOST_REMEMBERED:
            self._unpublished.popitem(last=False)

    def published(self, event: bytes) -> None:
        """The broker has it. One that is only published again, for a repeated command, says nothing of durations."""
        content = json.loads(event)
        told = content["data"]
        never_settled = told["outcome"] in {Outcome.REJECTED, Outcome.PLANNED}
        if never_settled:
            self._count(told)
        if never_settled or content["id"] in self._unpublished:
            self._unpublished.pop(content["id"], None)
            self._phase(told, "publish", told["finished_at"], self._clock.now())

    def _count(self, told: dict[str, Any]) -> None:
        name, outcome = told["enterprise_manager"], told["outcome"]
        reason = (told.get("reason") or {}).get("code", NO_REASON)
        self._metrics.unlinks.labels(name, outcome, reason).inc()
        seconds = _seconds(told["received_at"], told["finished_at"])
        if seconds is not None:
            self._metrics.duration.labels(name, outcome).observe(seconds)
        self._phase(told, "submit", told["received_at"], told.get("submitted_at"))
        self._phase(told, "finish", told.get("submitted_at"), told["finished_at"])
        journey = present_journey()
        if journey is not None:
            journey.note(outcome=outcome, reason=reason)

    def _phase(self, told: dict[str, Any], phase: str, since: Any, until: Any) -> None:
        seconds = _seconds(since, until)
        if seconds is not None:
            self._metrics.phases.labels(told["enterprise_manager"], phase).observe(seconds)


def _seconds(since: Any, until: Any) -> float | None:
    """From one time of day to another, of hosts whose clocks may differ: never less than nothing."""
    if since is None or until is None:
        return None
    return max((_moment(until) - _moment(since)).total_seconds(), 0.0)


def _moment(told: Any) -> datetime:
    return told if isinstance(told, datetime) else datetime.fromisoformat(told)
