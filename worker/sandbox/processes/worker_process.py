"""A worker as a process of its own, to be started, watched, killed and paused."""

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

#: How long a worker may take to start, to log what is waited for, or to stop, in seconds.
TIMEOUT_SECONDS = 60.0


#: What Python is to run.
RUN = ("-m", "worker", "run")


class Starter(Protocol):
    """Where programs are started: a `ProcessSupervisor`, or what a test puts in its place."""

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
    """`unlink-worker run` with the given settings, in a supervisor; its log goes to a file there."""

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
        """Where its log is."""
        return self._program.log

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._program.running

    def log(self) -> str:
        """All that it logged so far."""
        return self._program.log.read_text(errors="replace")

    def wait_for_log(self, event: str, count: int = 1) -> None:
        """Return once the log has `event` at least `count` times.

        Raises:
            PartFailedError: it ended, or took too long.
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
        """Return once it takes commands."""
        self.wait_for_log("worker.started")

    def unacknowledged(self) -> int:
        """How many deliveries it has not acknowledged yet, by its metrics."""
        metrics = self._get("metrics").text
        families = {family.name: family for family in text_string_to_metric_families(metrics)}
        return int(families["unlink_deliveries_in_hand"].samples[0].value)

    def ready(self) -> bool:
        """Whether it runs, and says that it can work."""
        try:
            return self.running and self._get("readyz").ok
        except requests.RequestException:
            return False

    def kill(self) -> None:
        """SIGKILL: it ends without a drain."""
        self._program.kill()

    def suspend(self) -> None:
        """SIGSTOP: it stands still, and its connections stay open."""
        self._program.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._program.signal(signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM, and wait until it has drained.

        Raises:
            PartFailedError: it still runs.
        """
        self._program.signal(signal.SIGTERM)
        self._program.wait(seconds=TIMEOUT_SECONDS)

    def _get(self, path: str) -> requests.Response:
        """An answer of its probes' server; its log, in JSON, names the port."""
        lines = (json.loads(line) for line in self.log().splitlines() if '"http.listening"' in line)
        return requests.get(f"http://127.0.0.1:{next(lines)['port']}/{path}", timeout=10)

    def _logged(self, event: str) -> int:
        return self.log().count(f'"{event}"')


def surroundings() -> dict[str, str]:
    """The environment of this program, without settings that are meant for another worker."""
    return {name: value for name, value in os.environ.items() if not name.startswith("UNLINK_")}
