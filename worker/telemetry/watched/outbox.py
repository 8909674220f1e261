"""The outbox, watched: ends that were published, put-offs, retries and dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.telemetry import tracing

if TYPE_CHECKING:
    from collections.abc import Collection

    from contracts.events import Event, Reason
    from worker.telemetry.metrics import Metrics
    from worker.telemetry.watched.ends import Ends
    from worker.unlinks.ports.broker import Delivery, Outbox


class WatchedOutbox:
    """An outbox (`worker.unlinks.ports.broker.Outbox`) that tells what the broker has confirmed."""

    def __init__(self, outbox: Outbox, metrics: Metrics, ends: Ends) -> None:
        self._outbox = outbox
        self._metrics = metrics
        self._ends = ends

    async def publish(self, event: Event | bytes, reply_to: Collection[str] = ()) -> None:
        """Watched: terminal events, which the core gives as bytes. Progress leaves beside the path and is no step."""
        if not isinstance(event, bytes):
            await self._outbox.publish(event, reply_to)
            return
        tracing.at("publish")
        await self._outbox.publish(event, reply_to)
        self._ends.published(event)

    async def delay(self, delivery: Delivery, seconds: float, *, failed: bool) -> None:
        """Watched: a retry if the attempt failed, else a put-off."""
        tracing.at("put off")
        await self._outbox.delay(delivery, seconds, failed=failed)
        counter = self._metrics.retries if failed else self._metrics.deferrals
        counter.labels(delivery.enterprise_manager).inc()

    async def dead_letter(self, delivery: Delivery, reason: Reason) -> None:
        """Watched."""
        tracing.at("dead-letter")
        await self._outbox.dead_letter(delivery, reason)
        self._metrics.dead_letters.labels(delivery.enterprise_manager, reason.code.value).inc()
