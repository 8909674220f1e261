"""The interface of a private RabbitMQ, whatever its program: free loopback ports, and its own directory and users."""

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

#: The log line of a node of any version when it accepts connections.
_STARTED = "Server startup complete"

#: How many error lines of the log a message includes. Erlang logs one error in many lines, the cause first.
_ERRORS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Credentials:
    """The first user of a private broker, and the Erlang cookie with which its nodes and tools authenticate."""

    user: str = "unlink"
    password: str = field(default_factory=new_secret, repr=False)
    cookie: str = field(default_factory=new_secret, repr=False)

    def url(self, port: int, scheme: str = "amqp") -> str:
        """The URL of one of its ports, without a path. It contains the password: do not log it."""
        return f"{scheme}://{self.user}:{self.password}@{LOOPBACK}:{port}/"


@dataclass(kw_only=True, eq=False)
class LocalBroker:
    """The addresses and the first user of a RabbitMQ on this host. Another process may own it.

    Attributes:
        description: which RabbitMQ it is, such as `RabbitMQ 4.0.5`, and the reason if it is an old version.
        credentials: its first user, and the cookie that it shares with its peers.
        log: the file of its log.
        port: the AMQP port.
        management_port: the port of the HTTP API; None without the management plugin.
        metrics_port: the port of the plugin for Prometheus; None without it.
        environment: the environment variables with which RabbitMQ's tools, such as rabbitmq-diagnostics, reach the
            node. It contains no secret. It is empty for a node in a container, where the tools are in the container.
    """

    description: str
    credentials: Credentials = field(repr=False)
    log: Path
    port: int = field(default_factory=free_port)
    management_port: int | None = None
    metrics_port: int | None = None
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def url(self) -> str:
        """`amqp://user:password@127.0.0.1:port/`: the default virtual host. Contains the password: do not log it."""
        return self.credentials.url(self.port)

    @property
    def management_url(self) -> str:
        """`http://user:password@127.0.0.1:port`: the HTTP API is below `/api`. Contains the password: do not log it.

        Raises:
            ValueError: the node was created without `management`.
        """
        return self.credentials.url(_of_a_plugin(self.management_port), scheme="http").rstrip("/")

    @property
    def metrics_address(self) -> str:
        """`127.0.0.1:port`, the address from which Prometheus scrapes the broker's metrics.

        Raises:
            ValueError: the node was created without `management`.
        """
        return f"{LOOPBACK}:{_of_a_plugin(self.metrics_port)}"

    def accepts_connections(self) -> bool:
        """Whether it has started."""
        started = self.log.is_file() and _STARTED in self.log.read_text(errors="replace")
        return started and is_open(self.port)


class PrivateBroker(LocalBroker, Server):
    """A private RabbitMQ node, separate from the host's own. Ports, user and directory stay the same after a restart.

    As a context manager it starts the node; on exit it ends the process and removes all files. The same happens if this
    program dies in any way.

    Args:
        supervisor: runs its program and contains its directory; it is closed with the node.
        log: the file of its log.
        credentials: its first user, and the cookie that it shares with its peers.
        management: whether to enable the management plugin with its HTTP API, and the plugin for Prometheus.
        description: which RabbitMQ it is, such as `RabbitMQ 4.0.5`, and the reason if it is an old version.
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
        super().__init__(
            description=description,
            credentials=credentials,
            log=log,
            management_port=free_port() if management else None,
            metrics_port=free_port() if management else None,
        )
        self._supervisor = supervisor
        self._program: Program | None = None

    @property
    def running(self) -> bool:
        """Whether the node's program runs."""
        return self._program is not None and self._program.running

    def start(self) -> None:
        """Start the node, and return as soon as it accepts connections. Does nothing if it already runs.

        Raises:
            PartFailedError: the node ended, or took too long; the message ends with its log.
        """
        if not self.running:
            self.launch()
        self.await_startup()

    def launch(self) -> None:
        """Start the node without waiting, because the nodes of a cluster may wait for each other."""
        self.log.unlink(missing_ok=True)
        self._program = self._launched()

    def await_startup(self) -> None:
        """Wait until the node accepts connections.

        Raises:
            PartFailedError: as `start`.
        """
        wait_until(lambda: self._is_up() or not self.running, seconds=self._start_seconds)
        if self._program is not None and not self._is_up():
            self._program.kill()
            raise PartFailedError(f"RabbitMQ did not start; its log says:\n{self._complaints()}")

    def restart(self) -> None:
        """Shut the node down cleanly, and start it again on the same ports."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill the node and remove its files. Closing again does nothing."""
        self._supervisor.close()

    @abstractmethod
    def stop(self) -> None:
        """Shut the node down cleanly. Its directory with the queues is kept. Does nothing if the node does not run.

        Raises:
            PartFailedError: the node does not end.
        """

    @abstractmethod
    def kill(self) -> None:
        """Send SIGKILL. The node ends without a shutdown; data that it has written to files is not lost.

        RabbitMQ 3.10 loses a quorum queue that was declared within about a second before: it saves the names of quorum
        queues every half second (`auto_save` of the directory in its library Ra).
        """

    @abstractmethod
    def suspend(self) -> None:
        """Suspend the node, as by SIGSTOP. Its connections stay open, and it does not answer."""

    @abstractmethod
    def resume(self) -> None:
        """Let a suspended node continue, as by SIGCONT."""

    @abstractmethod
    def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl on the node and return its output. This takes a second or two.

        Raises:
            PartFailedError: it failed; the message is its output.
        """

    @abstractmethod
    def _launched(self) -> Program:
        """Start the program and return it."""

    def _is_up(self) -> bool:
        return self.running and self.accepts_connections()

    def _complaints(self) -> str:
        """The first errors in the node's log, which name the cause; the last lines of the log if it has no errors."""
        log = self.log.read_text(errors="replace") if self.log.is_file() else ""
        errors = [line for line in log.splitlines() if "[error]" in line]
        return "\n".join(errors[:_ERRORS_SHOWN]) or (self._program.log_tail() if self._program else "")


def _of_a_plugin(port: int | None) -> int:
    if port is None:
        raise ValueError("this broker was made without the management plugin")
    return port
