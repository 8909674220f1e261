"""Runs a worker as a separate process that can be started, observed, suspended and killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import requests
from prometheus_client.parser import text_string_to_metric_families

from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.supervisor import Program, wait_until

#: How long to wait for a worker to start, to log an event, or to stop, in seconds.
TIMEOUT_SECONDS = 60.0


#: Python's arguments that run a worker.
RUN = ("-m", "worker", "run")


class Starter(Protocol):
    """Starts programs: a `ProcessSupervisor`, or a test's replacement for it."""

    directory: Path

    def start(
        self,
        arguments: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log: Path,
        ending: signal.Signals | None = None,
    ) -> Program:
        """Start a program in the directory."""


class WorkerProcess:
    """A process `unlink-worker run` with the given settings, in a supervisor's directory, which also has its log."""

    def __init__(
        self, supervisor: Starter, name: str, environment: Mapping[str, str], program: Sequence[str] = RUN
    ) -> None:
        self.name = name
        self._program = supervisor.start(
            [sys.executable, *program],
            environment=surroundings() | dict(environment),
            log=supervisor.directory / f"{name}.log",
            ending=signal.SIGTERM,
        )

    @property
    def pid(self) -> int:
        """Its process ID."""
        return self._program.pid

    @property
    def log_file(self) -> Path:
        """The file of its log."""
        return self._program.log

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._program.running

    def log(self) -> str:
        """Everything that it has logged so far."""
        return self._program.log.read_text(errors="replace")

    def wait_for_log(self, event: str, count: int = 1) -> None:
        """Return when the log has `event` at least `count` times.

        Raises:
            PartFailedError: the worker ended, or the wait exceeded `TIMEOUT_SECONDS`.
        """
        if not wait_until(
            lambda: self._logged(event) >= count or not self.running, seconds=TIMEOUT_SECONDS, interval=0.02
        ):
            raise PartFailedError(
                f"the worker {self.name} did not log {event}; its log ends:\n{self._program.log_tail()}"
            )
        if self._logged(event) < count:
            raise PartFailedError(f"the worker {self.name} ended; its log ends:\n{self._program.log_tail()}")

    def wait_until_started(self) -> None:
        """Return when it consumes commands.

        Raises:
            PartFailedError: as `wait_for_log`.
        """
        self.wait_for_log("worker.started")

    def unacknowledged(self) -> int:
        """The number of unacknowledged deliveries, according to its metrics."""
        metrics = self._get("metrics").text
        families = {family.name: family for family in text_string_to_metric_families(metrics)}
        return int(families["unlink_deliveries_in_hand"].samples[0].value)

    def ready(self) -> bool:
        """Whether the process runs and `/readyz` reports that it is ready."""
        try:
            return self.running and self._get("readyz").ok
        except requests.RequestException:
            return False

    def kill(self) -> None:
        """Send SIGKILL. The worker ends without a drain."""
        self._program.kill()

    def suspend(self) -> None:
        """Send SIGSTOP. The process is suspended, and its connections stay open."""
        self._program.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT. A suspended process continues."""
        self._program.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Send SIGTERM, and wait until the worker has drained and ended.

        Raises:
            PartFailedError: it still runs after `TIMEOUT_SECONDS`.
        """
        self._program.signal(signal.SIGTERM)
        self._program.wait(seconds=TIMEOUT_SECONDS)

    def _get(self, path: str) -> requests.Response:
        """A response of its HTTP server. The port is read from its log, which must be in JSON."""
        lines = (json.loads(line) for line in self.log().splitlines() if '"http.listening"' in line)
        with requests.Session() as session:
            session.trust_env = False  # a proxy of the user's is not for this host
            return session.get(f"http://127.0.0.1:{next(lines)['port']}/{path}", timeout=10)

    def _logged(self, event: str) -> int:
        return self.log().count(f'"{event}"')


def surroundings() -> dict[str, str]:
    """The environment variables of this process, without settings of a worker."""
    return {name: value for name, value in os.environ.items() if not name.startswith("UNLINK_")}
