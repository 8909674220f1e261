"""A worker as those see it who watch it: its probes, its metrics, its log."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from worker.sandbox.processes.supervisor import wait_until
from worker.sandbox.processes.worker_process import WorkerProcess

#: How long a test waits for what should happen, in seconds: these machines are shared.
TIMEOUT_SECONDS = 60.0

#: Where the worker under test serves, and nowhere else.
LOOPBACK = {"UNLINK_HTTP__HOST": "127.0.0.1", "UNLINK_HTTP__PORT": "0"}


class Observed:
    """One worker's probes and metrics, over HTTP."""

    def __init__(self, worker: WorkerProcess, port: int | None = None) -> None:
        self.worker = worker
        if port is None:
            (port,) = [line["port"] for line in lines(worker) if line["event"] == "http.listening"]
        self.address = f"127.0.0.1:{port}"

    def get(self, path: str) -> requests.Response:
        """An answer, whatever its status."""
        return requests.get(f"http://{self.address}{path}", timeout=10)

    def _status(self, path: str) -> int | None:
        try:
            return self.get(path).status_code
        except requests.ConnectionError:
            return None

    def value(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.get("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something."""
        assert wait_until(condition, seconds=TIMEOUT_SECONDS), (
            f"never: {what}; the log ends:\n{self.worker.log()[-3000:]}"
        )

    def until_ready(self, *, ready: bool) -> dict[str, Any]:
        """Wait until `/readyz` says so; what it says."""
        status = 200 if ready else 503
        self.until(lambda: self._status("/readyz") == status, f"/readyz with {status}")
        reported: dict[str, Any] = self.get("/readyz").json()
        return reported


def lines(worker: WorkerProcess) -> list[dict[str, Any]]:
    """The log so far, of whole lines."""
    return [json.loads(line) for line in worker.log().splitlines(keepends=True) if line.endswith("}\n")]
