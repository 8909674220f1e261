"""A Prometheus of one's own for a while, from the system's packages, unpacked and not installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import requests
import yaml

from worker.sandbox.packages import unpacked
from worker.sandbox.processes.free_ports import LOOPBACK, free_port
from worker.sandbox.processes.supervisor import ProcessSupervisor, wait_until

#: How often it scrapes, in seconds.
INTERVAL = 0.5


def prometheus_program(name: str) -> Path:
    """One of Prometheus' programs: `prometheus` or `promtool`.

    Raises:
        MissingPartError: it cannot be had.
    """
    program = unpacked("prometheus", companions="") / "usr" / "bin" / name
    if not program.is_file():
        # From Debian 13 on, promtool is a package of its own.
        program = unpacked(name, companions="") / "usr" / "bin" / name
    return program


class PrivatePrometheus:
    """Scrapes from the moment it is entered until it is left; nothing of it stays.

    Args:
        jobs: for each job the address to scrape, its path and its query parameters.
    """

    def __init__(self, jobs: Mapping[str, tuple[str, str, Mapping[str, str]]]) -> None:
        self._jobs = jobs
        self._port = free_port()

    def __enter__(self) -> Self:
        self._supervisor = ProcessSupervisor("prometheus")
        configuration = {
            "global": {"scrape_interval": f"{int(INTERVAL * 1000)}ms"},
            "scrape_configs": [
                {
                    "job_name": job,
                    "metrics_path": path,
                    "params": {name: [value] for name, value in parameters.items()},
                    "static_configs": [{"targets": [address]}],
                }
                for job, (address, path, parameters) in self._jobs.items()
            ],
        }
        file = self._supervisor.directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(configuration))
        program = self._supervisor.start(
            [
                prometheus_program("prometheus"),
                f"--config.file={file}",
                f"--storage.tsdb.path={self._supervisor.directory / 'data'}",
                f"--web.listen-address={LOOPBACK}:{self._port}",
            ],
            environment={},
            log=self._supervisor.directory / "prometheus.log",
        )
        if not wait_until(lambda: self._healthy() or not program.running, seconds=60) or not program.running:
            log = program.log_tail()
            self._supervisor.close()
            raise AssertionError(f"Prometheus did not start:\n{log}")
        return self

    def __exit__(self, *_: object) -> None:
        self._supervisor.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression yields now.

        Raises:
            AssertionError: Prometheus does not understand it.
        """
        answer = requests.get(self._url("api/v1/query"), params={"query": expression}, timeout=30).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def _healthy(self) -> bool:
        try:
            return requests.get(self._url("-/ready"), timeout=5).ok
        except requests.ConnectionError:
            return False

    def _url(self, path: str) -> str:
        return f"http://{LOOPBACK}:{self._port}/{path}"
