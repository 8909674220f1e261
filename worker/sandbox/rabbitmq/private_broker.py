"""A RabbitMQ of one's own for a while, on free loopback ports, with its own directory and Erlang cookie.

Where the program comes from, in this order: what the variable `SANDBOX_RABBITMQ_HOME` names; the version that
`SANDBOX_RABBITMQ_VERSION` asks for; RabbitMQ 4, installed (only its programs are used) or unpacked into the user's
cache folder from the system's packages or those of the newest released Debian; an older one likewise; and, as the last
way, a container engine with the official image.
"""

from __future__ import annotations

from worker.sandbox.contexts import Server
from worker.sandbox.errors import MissingPartError
from worker.sandbox.processes.free_ports import LOOPBACK
from worker.sandbox.processes.supervisor import ProcessSupervisor
from worker.sandbox.rabbitmq.container_node import ContainerNode, find_engine
from worker.sandbox.rabbitmq.installation import find_installation
from worker.sandbox.rabbitmq.node import Credentials, PortMapper, RabbitmqNode


class PrivateBroker(Server):
    """A private RabbitMQ node, never the machine's own.

    As a context manager it starts the node, and leaves neither process nor file behind; nor does it if this program
    dies in between, in whatever way.

    Args:
        name: the node's name before the `@`: letters, digits, `_` and `-`.
        management: whether the management plugin with its HTTP API runs too, and the one that gives metrics.

    Raises:
        MissingPartError: there is no RabbitMQ and none can be had; the message says what to install.
        PartFailedError: it did not start; the message ends with its log.
    """

    def __init__(self, name: str = "unlink", *, management: bool = False) -> None:
        self._credentials = Credentials()
        self._supervisor = ProcessSupervisor(f"broker-{name}")
        try:
            self._node = self._make_node(name, management=management)
        except BaseException:
            self._supervisor.close()
            raise

    @property
    def description(self) -> str:
        """Which RabbitMQ it is, such as `RabbitMQ 4.0.5`; if it is not what one would expect, with the reason."""
        return self._description

    @property
    def url(self) -> str:
        """`amqp://user:password@127.0.0.1:port/`: the default virtual host. Holds the password: not for a log."""
        return self._credentials.url(self._node.port)

    @property
    def port(self) -> int:
        """The AMQP port."""
        return self._node.port

    @property
    def management_url(self) -> str:
        """`http://user:password@127.0.0.1:port`: the HTTP API is below `/api`. Holds the password: not for a log.

        Raises:
            ValueError: it was made without `management`.
        """
        if self._node.management_port is None:
            raise ValueError("this broker was made without the management plugin")
        return self._credentials.url(self._node.management_port, scheme="http").rstrip("/")

    @property
    def metrics_address(self) -> str:
        """`127.0.0.1:port`, where Prometheus finds the broker's metrics.

        Raises:
            ValueError: it was made without `management`.
        """
        if self._node.metrics_port is None:
            raise ValueError("this broker was made without the management plugin")
        return f"{LOOPBACK}:{self._node.metrics_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which RabbitMQ's own programs, such as rabbitmq-diagnostics, reach the node.

        Empty for a node in a container, which has its programs with it.
        """
        return dict(self._node.environment)

    @property
    def running(self) -> bool:
        """Whether the node's program runs."""
        return self._node.running

    def start(self) -> None:
        """Start the node, and return as soon as it takes connections. Does nothing if it runs.

        Raises:
            PartFailedError: it ended, or took too long; the message ends with its log.
        """
        self._node.start()

    def stop(self) -> None:
        """Stop the node in good order; its directory, and so its queues, stay."""
        self._node.stop()

    def kill(self) -> None:
        """SIGKILL the node; its directory stays, and so do its durable queues that are older than a second or so.

        RabbitMQ 3.10 saves the names of quorum queues every half second, and forgets younger ones.
        """
        self._node.kill()

    def suspend(self) -> None:
        """SIGSTOP the node: its connections stay open, and nothing answers."""
        self._node.suspend()

    def resume(self) -> None:
        """Let a suspended node go on."""
        self._node.resume()

    def restart(self) -> None:
        """Stop in good order, and start again on the same ports."""
        self.stop()
        self.start()

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl on the node and return what it prints. Takes a second or two.

        Raises:
            PartFailedError: it failed; the message is what it said.
        """
        return self._node.rabbitmqctl(*arguments)

    def close(self) -> None:
        """Kill the node and remove every trace of it. Closing again does nothing."""
        self._supervisor.close()

    def _make_node(self, name: str, *, management: bool) -> RabbitmqNode | ContainerNode:
        try:
            installation = find_installation()
        except MissingPartError:
            engine = find_engine()
            if engine is None:
                raise
            self._description = f"RabbitMQ in a container of {engine}"
            return ContainerNode(self._supervisor, engine, credentials=self._credentials, management=management)
        self._description = installation.description
        mapper = PortMapper(self._supervisor, installation)
        return RabbitmqNode(
            self._supervisor, installation, mapper, name=name, credentials=self._credentials, management=management
        )
