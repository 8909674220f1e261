from __future__ import annotations

import pika
import pika.exceptions
import pytest

from tests.private_servers.rabbitmq_cluster import PrivateCluster
from worker.sandbox.processes.supervisor import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_QUORUM = {"x-queue-type": "quorum"}


def _publish(url: str, body: bytes) -> bool:
    """Whether the cluster confirmed it; while a queue elects a leader it may refuse."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("kept", durable=True, arguments=_QUORUM)
        try:
            channel.basic_publish("", "kept", body, mandatory=True)
        except pika.exceptions.NackError:
            return False
    return True


def _take(url: str) -> bytes | None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        body: bytes | None = connection.channel().basic_get("kept", auto_ack=True)[2]
        return body


def test_a_cluster_goes_on_without_a_node_and_comes_back_after_losing_all() -> None:
    """The chaos suite would test three lone nodes, or could not kill one of a cluster, or all, and go on."""
    with PrivateCluster(nodes=3) as cluster:
        first, second, third = cluster.nodes
        assert wait_until(lambda: _publish(first.url, b"one"), seconds=30)
        assert wait_until(lambda: _members(third.rabbitmqctl("list_queues", "online")) == 3, seconds=30, interval=1)
        first.kill()
        assert wait_until(lambda: _publish(second.url, b"two"), seconds=30)
        first.start()
        assert _take(first.url) == b"one"
        for node in cluster.nodes:
            node.kill()
        cluster.start()
        assert _take(third.url) == b"two"


def _members(listing: str) -> int:
    return listing.count("@localhost")
