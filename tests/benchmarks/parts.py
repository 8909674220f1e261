"""The parts of a measurement: a private broker, the Enterprise Manager stub, workers, and what a process has used."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import requests
from pika.adapters.blocking_connection import BlockingChannel

from tests.benchmarks.enterprise_manager_stub import job_id, link_id
from worker.broker.topology import COMMANDS, EVENTS
from worker.sandbox.contexts import Assembly
from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.supervisor import ProcessSupervisor, output_of, wait_until
from worker.sandbox.processes.worker_process import RUN, WorkerProcess
from worker.sandbox.rabbitmq.choice import private_broker

EM = "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__"

#: How long a measurement waits for what should happen, in seconds.
TIMEOUT_SECONDS = 600.0

#: Where the events are counted. A classic queue: its length is exact at once, and it costs the broker little.
_ENDS, _PROGRESS = "benchmark.ends", "benchmark.progress"

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far: seconds of CPU, and the most memory in MiB at any time."""

    cpu: float
    peak: float


def usage_of(pid: int) -> Usage:
    """What the process has used, by /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, int(peak.split()[1]) / 1024)


def resident(pid: int) -> float:
    """The memory that the process has now, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Parts(Assembly):
    """Broker and stub. A context manager."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def _open(self, stack: ExitStack) -> None:
        self.supervisor = stack.enter_context(ProcessSupervisor("benchmark"))
        self.broker = stack.enter_context(private_broker())
        self._about = self._start_stub()
        self._control = requests.Session()
        self._control.trust_env = False
        parameters = pika.URLParameters(self.broker.url)
        parameters.heartbeat = 0  # it is not served while a measurement waits
        self._connection = stack.enter_context(pika.BlockingConnection(parameters))
        self.channel: BlockingChannel = self._connection.channel()

    # --- Enterprise Manager -------------------------------------------------------------------------------------------

    def url(self, *, tls: bool) -> str:
        """Where the stub is."""
        return self._about["https" if tls else "http"]

    @property
    def ca_file(self) -> str:
        """What the stub's certificate is verified against."""
        return self._about["ca_file"]

    def reset(self, *, seconds: float = 0, spread: float = 0) -> None:
        """Forget what was counted. Tasks take so many seconds from now on."""
        self._control.post(f"{self._about['http']}/stub/reset?seconds={seconds}&spread={spread}").raise_for_status()

    def figures(self) -> tuple[Counter[str], dict[str, float]]:
        """The requests by kind, and when each task ended, by its link."""
        figures = self._control.get(f"{self._about['http']}/stub/figures", timeout=30).json()
        return Counter(figures["requests"]), figures["ends"]

    def floor(self, unlinks: int, threads: int, *, tls: bool) -> dict[str, float]:
        """The seconds and the CPU seconds of so many unlinks by `requests` alone."""
        first = next(self._numbers) * 100_000
        arguments = (self.url(tls=tls), self._about["ca_file"], first, unlinks, threads)
        command = [sys.executable, "-m", "tests.benchmarks.floor", *map(str, arguments)]
        figures: dict[str, float] = json.loads(output_of(command, "the floor", seconds=TIMEOUT_SECONDS))
        return figures

    def _start_stub(self) -> dict[str, str]:
        log = self.supervisor.directory / "stub.log"
        program = self.supervisor.start(
            [sys.executable, "-m", "tests.benchmarks.enterprise_manager_stub", self.supervisor.directory],
            environment=os.environ | {"PYTHONPATH": str(Path.cwd())},
            log=log,
        )
        wait_until(lambda: (log.exists() and log.read_text().endswith("\n")) or not program.running, seconds=30)
        if not program.running:
            raise PartFailedError(f"the stub did not start:\n{program.log_tail()}")
        about: dict[str, str] = json.loads(log.read_text())
        return about

    # --- workers ------------------------------------------------------------------------------------------------------

    def start_worker(
        self, changes: Mapping[str, str], *, tls: bool, ledger_url: str | None = None, program: Sequence[str] = RUN
    ) -> WorkerProcess:
        """Start a worker with a ledger of its own; returns when it takes commands. `changes` are further settings."""
        number = next(self._numbers)
        environment = {
            "UNLINK_BROKER__URL": self.broker.url,
            "UNLINK_LEDGER__URL": ledger_url or f"sqlite:///{self.supervisor.directory}/ledger-{number}.db",
            f"{EM}URL": self.url(tls=tls),
            f"{EM}USERNAME": "worker",
            f"{EM}PASSWORD": "benchmark-password",
            "UNLINK_HTTP__HOST": "127.0.0.1",
            "UNLINK_HTTP__PORT": "0",
        }
        if tls:
            environment[f"{EM}CA_FILE"] = self._about["ca_file"]
        environment |= {"PYTHONPATH": str(Path.cwd()), **changes}
        worker = WorkerProcess(self.supervisor, f"worker-{number}", environment, program)
        worker.wait_until_started()
        for queue in (_ENDS, _PROGRESS):
            # Of the progress events only the last is kept: the broker has them routed, as it has with a subscriber.
            bounded = {"x-max-length": 1} if queue == _PROGRESS else {}
            self.channel.queue_declare(queue, durable=True, arguments=bounded)
        for outcome in ("succeeded", "failed", "rejected", "cancelled", "timed_out"):
            self.channel.queue_bind(_ENDS, EVENTS, f"{outcome}.*")
        self.channel.queue_bind(_PROGRESS, EVENTS, "submitted.*")
        return worker

    def commands(self, unlinks: int) -> list[bytes]:
        """So many new commands, by job ID and link ID."""
        first = next(self._numbers) * 100_000
        return [_command(job_id(number)) for number in range(first, first + unlinks)]

    def publish(self, commands: list[bytes], *, a_second: float = float("inf")) -> None:
        """Publish them, so many a second."""
        persistent = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        began = time.monotonic()
        for number, body in enumerate(commands):
            if (early := began + number / a_second - time.monotonic()) > 0:
                self._connection.sleep(early)
            self.channel.basic_publish(COMMANDS, "default", body, persistent)

    def until_ended(self, unlinks: int) -> None:
        """Wait until so many terminal events are there.

        Raises:
            PartFailedError: they are not, after ten minutes.
        """
        if not wait_until(lambda: self.ended() >= unlinks, seconds=TIMEOUT_SECONDS, interval=0.02):
            raise PartFailedError(f"of {unlinks} unlinks {self.ended()} ended")

    def ended(self) -> int:
        """How many terminal events are there that were not taken."""
        count: int = self.channel.queue_declare(_ENDS, passive=True).method.message_count
        return count

    def take_events(self) -> list[Mapping[str, Any]]:
        """Take the terminal events from their queue."""
        events: list[Mapping[str, Any]] = []
        while True:
            _, _, body = self.channel.basic_get(_ENDS, auto_ack=True)
            if body is None:
                return events
            events.append(json.loads(body))

    def require_success(self, unlinks: int) -> None:
        """Take the events, and see that every unlink succeeded, verified.

        Raises:
            PartFailedError: one did not: then nothing was measured.
        """
        events = self.take_events()
        good = {event["subject"] for event in events if event["data"]["verified"] and event["data"]["changed"]}
        if len(good) != unlinks:
            raise PartFailedError(f"of {unlinks} unlinks {len(good)} succeeded; one event: {events[-1:]}")


def _command(job: str) -> bytes:
    command = {
        "command": "unlink.v1",
        "idempotency_key": f"bench:{job}",
        "job": {"id": job},
        "repository": {"link_id": link_id(job)},
        "requested_by": "j.doe@example.com",
        "ticket": {"system": "jira", "id": f"OPS-{job[1:8]}"},
    }
    return json.dumps(command).encode()
