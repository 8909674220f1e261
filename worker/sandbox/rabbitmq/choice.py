"""Chooses a private RabbitMQ, on free loopback ports, with its own directory and Erlang cookie.

The program is the first of these that is available:

1. the installation that the variable `SANDBOX_RABBITMQ_HOME` names;
2. the version that the variable `SANDBOX_RABBITMQ_VERSION` names;
3. an installed RabbitMQ 4, of which only the programs are used;
4. RabbitMQ 4 from the system's packages or from those of the newest released Debian, unpacked into the user's cache
   folder;
5. an older RabbitMQ from the same sources;
6. the official image, run by a container engine; of the version that the variable names, if it names one.

If one of the two variables is set, neither another installation nor another version takes its place.
"""

from __future__ import annotations

from worker.sandbox.errors import MissingPartError
from worker.sandbox.processes.supervisor import ProcessSupervisor
from worker.sandbox.rabbitmq.container_node import ContainerNode, find_engine
from worker.sandbox.rabbitmq.installation import find_installation, image_version
from worker.sandbox.rabbitmq.node import PortMapper, RabbitmqNode
from worker.sandbox.rabbitmq.private_broker import Credentials, PrivateBroker


def private_broker(name: str = "unlink", *, management: bool = False) -> PrivateBroker:
    """A private RabbitMQ node, not started yet.

    Args:
        name: the node's name before the `@`: letters, digits, `_` and `-`.
        management: whether to enable the management plugin with its HTTP API, and the plugin for Prometheus.

    Raises:
        MissingPartError: there is no RabbitMQ and none can be downloaded; the message says what to install.
        PartFailedError: Erlang's port mapper, which the node needs, does not start.
    """
    supervisor = ProcessSupervisor(f"broker-{name}")
    try:
        try:
            installation = find_installation()
        except MissingPartError:
            version = image_version()
            engine = None if version is None else find_engine()
            if version is None or engine is None:
                raise
            return ContainerNode(supervisor, engine, version, credentials=Credentials(), management=management)
        mapper = PortMapper(supervisor, installation)
        return RabbitmqNode(
            supervisor, installation, mapper, name=name, credentials=Credentials(), management=management
        )
    except BaseException:
        supervisor.close()
        raise
