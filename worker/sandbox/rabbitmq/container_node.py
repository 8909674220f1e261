"""A private RabbitMQ node in a container, for systems with neither RabbitMQ nor apt."""

from __future__ import annotations

import os
import shutil
import subprocess

from worker.sandbox.processes.free_ports import LOOPBACK
from worker.sandbox.processes.supervisor import ProcessSupervisor, Program, output_of
from worker.sandbox.rabbitmq.private_broker import Credentials, PrivateBroker

_ENGINES = ("docker", "podman")

#: The time-out of one call of the engine, in seconds. A clean shutdown of the node is one call.
_ENGINE_SECONDS = 90.0

#: RabbitMQ's ports in the container: AMQP, HTTP API, Prometheus.
_AMQP, _HTTP, _METRICS = 5672, 15672, 15692


def find_engine() -> str | None:
    """The first container engine that works; None if there is none."""
    for engine in _ENGINES:
        try:
            subprocess.run([engine, "info"], check=True, capture_output=True, timeout=20)  # noqa: S603 - one of two names
        except (OSError, subprocess.SubprocessError):
            continue
        return engine
    return None


class ContainerNode(PrivateBroker):
    """One RabbitMQ node in a container, which is removed when the supervisor is closed."""

    #: Long, because the first start downloads the image.
    _start_seconds = 600.0

    def __init__(
        self, supervisor: ProcessSupervisor, engine: str, version: str, *, credentials: Credentials, management: bool
    ) -> None:
        super().__init__(
            supervisor,
            supervisor.directory / "node.log",
            credentials=credentials,
            management=management,
            description=f"RabbitMQ {version} in a container of {engine}",
        )
        # The official image, under the short name that every container engine resolves.
        self._image = f"rabbitmq:{version}-management"
        self._engine = shutil.which(engine) or engine
        self._container = supervisor.directory.name
        # A file is used for secrets, because every user can read the arguments of the engine's client.
        self._settings = supervisor.directory / "settings"
        self._settings.touch(mode=0o600)
        self._settings.write_text(
            f"RABBITMQ_DEFAULT_USER={credentials.user}\nRABBITMQ_DEFAULT_PASS={credentials.password}\n"
        )

    def stop(self) -> None:  # noqa: D102 - as the base class says
        self._command("stop", self._container)
        self._wait()

    def kill(self) -> None:  # noqa: D102 - as above
        self._command("kill", self._container)
        self._wait()

    def suspend(self) -> None:  # noqa: D102 - as above
        self._command("pause", self._container)

    def resume(self) -> None:  # noqa: D102 - as above
        self._command("unpause", self._container)

    def rabbitmqctl(self, *arguments: str) -> str:  # noqa: D102 - as above
        return self._command("exec", self._container, "rabbitmqctl", "--quiet", *arguments)

    def _launched(self) -> Program:
        # The engine's client stays attached, so it runs as long as the container.
        command = (
            ("run", *self._options(), self._image) if self._program is None else ("start", "--attach", self._container)
        )
        return self._supervisor.start(
            [self._engine, *command],
            environment=dict(os.environ),
            log=self.log,
            afterwards=[self._engine, "rm", "--force", "--volumes", self._container],
        )

    def _options(self) -> list[str]:
        ports = {_AMQP: self.port, _HTTP: self.management_port, _METRICS: self.metrics_port}
        published = [
            part for inner, outer in ports.items() if outer for part in ("--publish", f"{LOOPBACK}:{outer}:{inner}")
        ]
        # The host name is fixed, because the node's data directory is named after it.
        return ["--name", self._container, "--hostname", "unlink", "--env-file", str(self._settings), *published]

    def _wait(self) -> None:
        if self._program is not None:
            self._program.wait(seconds=_ENGINE_SECONDS)

    def _command(self, *arguments: str) -> str:
        return output_of([self._engine, *arguments], f"{self._engine} {arguments[0]}", seconds=_ENGINE_SECONDS)
