"""A private RabbitMQ node in a container: the last way to have one, where there is neither RabbitMQ nor apt."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.free_ports import LOOPBACK, free_port, is_open
from worker.sandbox.processes.supervisor import output_of, wait_until

if TYPE_CHECKING:
    from worker.sandbox.processes.supervisor import ProcessSupervisor, Program
    from worker.sandbox.rabbitmq.node import Credentials

_ENGINES = ("docker", "podman")

#: The official image, by the name that every engine resolves by itself.
_IMAGE = "rabbitmq:4-management"

#: The first start downloads the image. In seconds.
_START_SECONDS = 600.0

#: For one call of the engine, in seconds; a stop in good order is one.
_ENGINE_SECONDS = 90.0

_STARTED = "Server startup complete"

#: RabbitMQ's ports in the container, of AMQP, of the HTTP API, and for Prometheus.
_AMQP, _HTTP, _METRICS = 5672, 15672, 15692


def find_engine() -> str | None:
    """The container engine that answers, if any."""
    for engine in _ENGINES:
        try:
            subprocess.run([engine, "info"], check=True, capture_output=True, timeout=20)  # noqa: S603 - one of two names
        except (OSError, subprocess.SubprocessError):
            continue
        return engine
    return None


class ContainerNode:
    """One RabbitMQ node in a container that goes with the supervisor; what `RabbitmqNode` is elsewhere."""

    def __init__(
        self, supervisor: ProcessSupervisor, engine: str, *, credentials: Credentials, management: bool
    ) -> None:
        self.port = free_port()
        self.management_port = free_port() if management else None
        self.metrics_port = free_port() if management else None
        self.environment: dict[str, str] = {}
        self._supervisor = supervisor
        self._engine = shutil.which(engine) or engine
        self._container = supervisor.directory.name
        self._log = supervisor.directory / "node.log"
        self._program: Program | None = None
        # A file, since everybody can read the arguments of the engine's client.
        self._settings = supervisor.directory / "settings"
        self._settings.touch(mode=0o600)
        self._settings.write_text(
            f"RABBITMQ_DEFAULT_USER={credentials.user}\nRABBITMQ_DEFAULT_PASS={credentials.password}\n"
        )

    @property
    def running(self) -> bool:
        """Whether the container runs: the engine's client stays attached to it."""
        return self._program is not None and self._program.running

    def start(self) -> None:
        """Start it, and return as soon as it takes connections. Does nothing if it runs.

        Raises:
            PartFailedError: it ended, or took too long; the message ends with its log.
        """
        if self.running:
            return
        self._log.unlink(missing_ok=True)
        if self._program is None:
            self._program = self._attach("run", *self._options(), _IMAGE)
        else:
            self._program = self._attach("start", "--attach", self._container)
        wait_until(lambda: self._is_up() or not self.running, seconds=_START_SECONDS)
        if not self._is_up():
            raise PartFailedError(f"RabbitMQ did not start; its log ends with:\n{self._program.log_tail()}")

    def stop(self) -> None:
        """Let it end in good order, and keep its files."""
        self._command("stop", self._container)
        self._wait()

    def kill(self) -> None:
        """SIGKILL; its files stay."""
        self._command("kill", self._container)
        self._wait()

    def suspend(self) -> None:
        """Let it hang."""
        self._command("pause", self._container)

    def resume(self) -> None:
        """It goes on."""
        self._command("unpause", self._container)

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl in the container and return what it prints.

        Raises:
            PartFailedError: it failed; the message is what it said.
        """
        return self._command("exec", self._container, "rabbitmqctl", "--quiet", *arguments)

    def _options(self) -> list[str]:
        ports = {_AMQP: self.port, _HTTP: self.management_port, _METRICS: self.metrics_port}
        published = [
            part for inner, outer in ports.items() if outer for part in ("--publish", f"{LOOPBACK}:{outer}:{inner}")
        ]
        # A fixed host name: the node's directory is named after it.
        return ["--name", self._container, "--hostname", "unlink", "--env-file", str(self._settings), *published]

    def _attach(self, *arguments: str) -> Program:
        return self._supervisor.start(
            [self._engine, *arguments],
            environment=dict(os.environ),
            log=self._log,
            afterwards=[self._engine, "rm", "--force", "--volumes", self._container],
        )

    def _is_up(self) -> bool:
        started = self._log.is_file() and _STARTED in self._log.read_text(errors="replace")
        return started and self.running and is_open(self.port)

    def _wait(self) -> None:
        if self._program is not None:
            self._program.wait(seconds=_ENGINE_SECONDS)

    def _command(self, *arguments: str) -> str:
        return output_of([self._engine, *arguments], f"{self._engine} {arguments[0]}", seconds=_ENGINE_SECONDS)
