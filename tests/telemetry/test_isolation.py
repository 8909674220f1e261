"""A fault in telemetry disturbs nothing that telemetry looks at."""

from __future__ import annotations

import asyncio
from typing import Any

import prometheus_client
import pytest
import structlog

from tests.end_to_end.in_process import worker_for
from worker.clock import SystemClock
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, SimulatedEnterpriseManager
from worker.settings import Settings
from worker.telemetry.instruments import Telemetry
from worker.telemetry.step_log import StepLog
from worker.telemetry.step_metrics import StepMetrics
from worker.telemetry.tracing import StepSpans


def fail(*_: object, **__: object) -> Any:
    """As a span exporter, a metric with an odd label or a log processor may fail."""
    raise ValueError("an odd label")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (StepSpans, "report"),
        (StepLog, "report"),
        (StepMetrics, "report"),
        (prometheus_client.Counter, "labels"),
        (prometheus_client.Histogram, "labels"),
    ],
)
def test_a_part_that_fails_disturbs_no_unlink(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
) -> None:
    """A collector that is set up wrongly would make every unlink fail, or leave its delivery unanswered."""
    em = simulated_enterprise_manager
    settings: dict[str, Any] = {
        "broker": {"url": "amqp://localhost"},
        "ledger": {"url": "sqlite:///unused"},
        "enterprise_managers": {"default": {"url": em.url, "username": em.username, "password": em.password}},
    }
    telemetry = Telemetry(Settings(**settings), "in-process", SystemClock())
    monkeypatch.setattr(owner, name, fail)

    async def unlink() -> None:
        async with worker_for(em, telemetry=telemetry, poll_interval_seconds=0.1) as worker:
            delivery = worker.send({"job": {"id": VENDOR_JOB_ID}, "repository": {"link_id": VENDOR_LINK_ID}})
            end = await worker.end_of()
            assert (end["outcome"], end["evidence"], end["attempts"]) == ("succeeded", "task", 1)
            async with asyncio.timeout(10):
                while not delivery.acknowledged:  # noqa: ASYNC110 - it follows the event at once
                    await asyncio.sleep(0.01)

    with structlog.testing.capture_logs() as logged:
        asyncio.run(unlink())
    assert any(line["event"] == "telemetry.failed" and line["problem"] == "an odd label" for line in logged)
