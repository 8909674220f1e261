"""Enterprise Manager, watched: the steps of an unlink at the port, and each request on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.telemetry import tracing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contracts.commands import JobReference, RepositoryReference
    from worker.enterprise_manager.wire import Exchange
    from worker.telemetry.metrics import Metrics
    from worker.unlinks.ports.enterprise_manager import EnterpriseManager, Job, Link, LinkedBackup, Task, TaskTicket


class WatchedEnterpriseManager:
    """An Enterprise Manager from whose calls the steps follow."""

    def __init__(self, enterprise_manager: EnterpriseManager) -> None:
        self._enterprise_manager = enterprise_manager

    async def find_job(self, reference: JobReference) -> Job:
        """Part of the look."""
        tracing.at("look")
        return await self._enterprise_manager.find_job(reference)

    async def find_repository(self, reference: RepositoryReference) -> str:
        """Part of the look."""
        tracing.at("look")
        return await self._enterprise_manager.find_repository(reference)

    async def links(self, job_id: str) -> Sequence[Link]:
        """Part of the look; once a DELETE has left, it verifies."""
        _look_or_verify()
        return await self._enterprise_manager.links(job_id)

    async def linked_backups(self, job_id: str) -> Sequence[LinkedBackup]:
        """Part of the look; once a DELETE has left, it verifies."""
        _look_or_verify()
        return await self._enterprise_manager.linked_backups(job_id)

    async def delete_link(self, job_id: str, object_in_job_id: str) -> Task:
        """The DELETE."""
        tracing.at("delete")
        journey = tracing.present_journey()
        if journey is not None:
            journey.sent = True
        return await self._enterprise_manager.delete_link(job_id, object_in_job_id)

    async def task(self, ticket: TaskTicket) -> Task:
        """Following the task."""
        tracing.at("follow")
        return await self._enterprise_manager.task(ticket)

    async def stop_task(self, ticket: TaskTicket) -> None:
        """Stopping the task."""
        tracing.at("stop")
        await self._enterprise_manager.stop_task(ticket)

    async def until_available(self) -> None:
        """Part of whatever step waits."""
        await self._enterprise_manager.until_available()


def _look_or_verify() -> None:
    journey = tracing.present_journey()
    if journey is not None:
        journey.at("verify" if journey.sent else "look")


class RequestObserver:
    """Sees each request on the wire (`worker.enterprise_manager.wire.RequestObserver`)."""

    def __init__(self, enterprise_manager: str, metrics: Metrics) -> None:
        self._name = enterprise_manager
        self._metrics = metrics

    def headers(self) -> Mapping[str, str]:
        """The trace goes along."""
        return tracing.outgoing_headers()

    def exchanged(self, exchange: Exchange) -> None:
        """Count it, by the class of its status."""
        status = "none" if exchange.status is None else f"{exchange.status // 100}xx"
        self._metrics.requests.labels(self._name, exchange.method, status).inc()
        self._metrics.request_seconds.labels(self._name, exchange.method).observe(exchange.seconds)
        if exchange.attempt > 1:
            self._metrics.request_retries.labels(self._name).inc()
