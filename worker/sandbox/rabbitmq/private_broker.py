"""What a private RabbitMQ is, wherever its program comes from: free loopback ports, a directory, users of its own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from worker.sandbox.contexts import Server
from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.free_ports import LOOPBACK, free_port, is_open
from worker.sandbox.processes.supervisor import ProcessSupervisor, Program, wait_until
from worker.sandbox.secret import new_secret

#: The line with which a node of any version logs that it takes connections.
_STARTED = "Server startup complete"

#: How many of the log's errors a message repeats; Erlang logs one error in many lines, the cause first.
_ERRORS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Credentials:
    """The first user of a private broker, and the cookie by which its nodes and tools know each other."""

    user: str = "unlink"
    password: str = field(default_factory=new_secret, repr=False)
    cookie: str = field(default_factory=new_secret, repr=False)

    def url(self, port: int, scheme: str = "amqp") -> str:
        """The URL of one of its ports, without a path. Holds the password: not for a log."""
        return f"{scheme}://{self.user}:{self.password}@{LOOPBACK}:{port}/"


class PrivateBroker(Server):
    """A private RabbitMQ node, never the machine's own; its ports, user and directory are the same after a restart.

    As a context manager it starts the node, and leaves neither process nor file behind; nor does it if this program
    dies in between, in whatever way.

    Args:
        supervisor: where it lives; goes when the node is closed.
        log: the file of its log.
        credentials: its first user, and the cookie that it shares with its peers.
        management: whether the management plugin with its HTTP API runs too, and the one that gives metrics.
        description: which RabbitMQ it is, such as `RabbitMQ 4.0.5`, and why it is an old one.

    Attributes:
        environment: the environment in which RabbitMQ's own programs, such as rabbitmq-diagnostics, reach the node.
            Holds no secret. Empty for a node in a container, which has its programs with it.
        port: the AMQP port.
    """

    #: How long it may take to start, in seconds.
    _start_seconds: ClassVar[float]

    def __init__(
        self,
        supervisor: ProcessSupervisor,
        log: Path,
        *,
        credentials: Credentials,
        management: bool,
        description: str,
    ) -> None:
        self.description = description
        self.environment: dict[str, str] = {}
        self.port = free_port()
        self._management_port = free_port() if management else None
        self._metrics_port = free_port() if management else None
        self._supervisor = supervisor
        self._credentials = credentials
        self._log = log
        self._program: Program | None = None

    @property
    def url(self) -> str:
        """`amqp://user:password@127.0.0.1:port/`: the default virtual host. Holds the password: not for a log."""
        return self._credentials.url(self.port)

    @property
    def management_url(self) -> str:
        """`http://user:password@127.0.0.1:port`: the HTTP API is below `/api`. Holds the password: not for a log.

        Raises:
            ValueError: it was made without `management`.
        """
        return self._credentials.url(_of_a_plugin(self._management_port), scheme="http").rstrip("/")

    @property
    def metrics_address(self) -> str:
        """`127.0.0.1:port`, where Prometheus finds the broker's metrics.

        Raises:
            ValueError: it was made without `management`.
        """
        return f"{LOOPBACK}:{_of_a_plugin(self._metrics_port)}"

    @property
    def running(self) -> bool:
        """Whether the node's program runs."""
        return self._program is not None and self._program.running

    def start(self) -> None:
        """Start it, and return as soon as it takes connections. Does nothing if it runs.

        Raises:
            PartFailedError: it ended, or took too long; the message ends with its log.
        """
        if not self.running:
            self.launch()
        self.await_startup()

    def launch(self) -> None:
        """Start it without waiting: nodes of a cluster may wait for each other."""
        self._log.unlink(missing_ok=True)
        self._program = self._launched()

    def await_startup(self) -> None:
        """Wait until it takes connections.

        Raises:
            PartFailedError: as `start`.
        """
        wait_until(lambda: self._is_up() or not self.running, seconds=self._start_seconds)
        if self._program is not None and not self._is_up():
            self._program.kill()
            raise PartFailedError(f"RabbitMQ did not start; its log says:\n{self._complaints()}")

    def restart(self) -> None:
        """Stop in good order, and start again on the same ports."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill the node and remove every trace of it. Closing again does nothing."""
        self._supervisor.close()

    @abstractmethod
    def stop(self) -> None:
        """Let it end in good order; its directory, and so its queues, stay. Does nothing if it does not run.

        Raises:
            PartFailedError: it does not end.
        """

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL: a power cut for the node, though not for its disk.

        RabbitMQ 3.10 forgets a quorum queue that was declared less than about a second before: it saves their names
        every half second (`auto_save` of the directory in its library Ra).
        """

    @abstractmethod
    def suspend(self) -> None:
        """SIGSTOP: its connections stay open, and nothing answers."""

    @abstractmethod
    def resume(self) -> None:
        """SIGCONT: a suspended node goes on."""

    @abstractmethod
    def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl on the node and return what it prints. Takes a second or two.

        Raises:
            PartFailedError: it failed; the message is its output.
        """

    @abstractmethod
    def _launched(self) -> Program:
        """The program, started."""

    def _is_up(self) -> bool:
        started = self._log.is_file() and _STARTED in self._log.read_text(errors="replace")
        return started and self.running and is_open(self.port)

    def _complaints(self) -> str:
        """The first errors in its log, which name the cause, and its last lines, if there are none."""
        log = self._log.read_text(errors="replace") if self._log.is_file() else ""
        errors = [line for line in log.splitlines() if "[error]" in line]
        return "\n".join(errors[:_ERRORS_SHOWN]) or (self._program.log_tail() if self._program else "")


def _of_a_plugin(port: int | None) -> int:
    if port is None:
        raise ValueError("this broker was made without the management plugin")
    return port
