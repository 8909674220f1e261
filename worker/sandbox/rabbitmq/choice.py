"""A private RabbitMQ, on free loopback ports, with its own directory and Erlang cookie.

Where the program comes from, in this order: what the variable `SANDBOX_RABBITMQ_HOME` names; the version that
`SANDBOX_RABBITMQ_VERSION` asks for; RabbitMQ 4, installed (only its programs are used) or unpacked into the user's
cache folder from the system's packages or those of the newest released Debian; an older one likewise; and, as the last
way, a container engine with the official image.
"""

from __future__ import annotations

from worker.sandbox.errors import MissingPartError
from worker.sandbox.processes.supervisor import ProcessSupervisor
from worker.sandbox.rabbitmq.container_node import ContainerNode, find_engine
from worker.sandbox.rabbitmq.installation import find_installation
from worker.sandbox.rabbitmq.node import PortMapper, RabbitmqNode
from worker.sandbox.rabbitmq.private_broker import Credentials, PrivateBroker


def private_broker(name: str = "unlink", *, management: bool = False) -> PrivateBroker:
    """A private RabbitMQ node, not started yet.

    Args:
        name: the node's name before the `@`: letters, digits, `_` and `-`.
        management: whether the management plugin with its HTTP API runs too, and the one that gives metrics.

    Raises:
        MissingPartError: there is no RabbitMQ and none can be had; the message says what to install.
        PartFailedError: it did not start; the message ends with its log.
    """
    supervisor = ProcessSupervisor(f"broker-{name}")
    try:
        try:
            installation = find_installation()
        except MissingPartError:
            engine = find_engine()
            if engine is None:
                raise
            return ContainerNode(supervisor, engine, credentials=Credentials(), management=management)
        mapper = PortMapper(supervisor, installation)
        return RabbitmqNode(
            supervisor, installation, mapper, name=name, credentials=Credentials(), management=management
        )
    except BaseException:
        supervisor.close()
        raise
