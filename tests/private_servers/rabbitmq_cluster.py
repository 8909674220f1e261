"""A RabbitMQ cluster of one's own for a while: several private nodes on one machine, each to be killed by itself."""

from __future__ import annotations

from worker.sandbox.contexts import Server
from worker.sandbox.processes.supervisor import ProcessSupervisor
from worker.sandbox.rabbitmq.installation import find_installation
from worker.sandbox.rabbitmq.node import PortMapper, RabbitmqNode
from worker.sandbox.rabbitmq.private_broker import Credentials


class PrivateCluster(Server):
    """Private RabbitMQ nodes that are one cluster; quorum queues declared on it have a member on each of up to five.

    As a context manager it starts them all, and leaves neither process nor file behind; nor does it if this program
    dies in between, in whatever way. It needs a RabbitMQ on this machine: a container engine is not enough.

    Args:
        nodes: how many.

    Attributes:
        nodes: each with `url`, `port`, `start`, `stop`, `kill`, `suspend`, `resume`, `rabbitmqctl` and `running`.

    Raises:
        MissingPartError: there is no RabbitMQ and none can be downloaded; the message says what to install.
        PartFailedError: a node did not start; the message ends with its log.
    """

    def __init__(self, nodes: int = 3) -> None:
        installation = find_installation()
        names = [f"node{number}" for number in range(1, nodes + 1)]
        self._supervisor = ProcessSupervisor("cluster")
        try:
            mapper = PortMapper(self._supervisor, installation)
            credentials = Credentials()
            self.nodes = tuple(
                RabbitmqNode(
                    self._supervisor,
                    installation,
                    mapper,
                    name=name,
                    credentials=credentials,
                    management=False,
                    # The first one founds the cluster and the others join it. Told of peers, it would first wait for
                    # them: RabbitMQ 4 for a minute or two.
                    peers=[] if name == names[0] else [names[0], name],
                )
                for name in names
            )
        except BaseException:
            self._supervisor.close()
            raise
        self._formed = False

    def start(self) -> None:
        """Start every node that does not run, and return when all take connections.

        Raises:
            PartFailedError: one of them does not.
        """
        if not self._formed:
            # The others find a cluster that they can join, so that no two found one each.
            self.nodes[0].start()
        # All at once: after all were stopped or killed, each waits for the one that was the last to go.
        for node in self.nodes:
            if not node.running:
                node.launch()
        for node in self.nodes:
            node.await_startup()
        self._formed = True

    def close(self) -> None:
        """Kill the nodes and remove every trace of them. Closing again does nothing."""
        self._supervisor.close()
