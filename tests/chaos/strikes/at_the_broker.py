"""What happens to the broker: nodes are killed, alarms go off, and an operator deletes or forbids what is needed."""

from __future__ import annotations

import time
from random import Random

from pika.adapters.blocking_connection import BlockingChannel

from tests.chaos.outsiders import OBSERVED
from tests.chaos.plan import INVALID
from tests.chaos.strikes.strike import Strike, Target
from worker.broker.topology import EVENTS, UNROUTED, command_queue
from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.supervisor import wait_until

_ALL = ".*"

#: How long the workers may take to declare the exchange of events again, in seconds: Enterprise Manager and ledger may
#: be away at the same time. And how many old commands are repeated, so that they have something to publish.
_DECLARED_SECONDS = 90.0
_REPEATED = 5

#: What the workers' user may still configure, write and read: nothing; only read; or write all but the events.
_FORBIDDEN = (("", "", ""), (_ALL, "", _ALL), (_ALL, r"^(?!unlink\.events$)", _ALL))


def _kill_node(target: Target, rng: Random) -> None:
    node = rng.choice(target.deployment.cluster.nodes)
    node.kill()
    time.sleep(rng.uniform(2, 8))
    node.start()


def _memory_alarm(target: Target, rng: Random) -> None:
    node = rng.choice(target.deployment.cluster.nodes)
    node.rabbitmqctl("set_vm_memory_high_watermark", "0")
    time.sleep(rng.uniform(3, 9))
    node.rabbitmqctl("set_vm_memory_high_watermark", "0.6")


def _disk_alarm(target: Target, rng: Random) -> None:
    node = rng.choice(target.deployment.cluster.nodes)
    node.rabbitmqctl("set_disk_free_limit", "1000000000000000")
    time.sleep(rng.uniform(3, 9))
    node.rabbitmqctl("set_disk_free_limit", "1MB")


def _forbid(target: Target, rng: Random) -> None:
    target.deployment.permit_workers(*rng.choice(_FORBIDDEN))
    # The broker remembers for a minute what a channel was allowed to do.
    target.deployment.reconnect_to_broker()
    time.sleep(rng.uniform(5, 10))
    target.deployment.permit_workers(_ALL, _ALL, _ALL)


def _delete_command_queue(target: Target, _rng: Random) -> None:
    """What the operator deletes with the queue is not the workers' to answer: its publisher sends it again."""
    target.deployment.on_broker(lambda channel: channel.queue_delete(command_queue("default")))
    time.sleep(1)  # for the publisher to note what was confirmed before
    published = {each.key for each in target.publisher.published}
    # A rejected one may have been in a worker's hands, with its event out and its dead letter to come.
    for key in (published - target.observer.ended) | {key for key in published if key.startswith(INVALID)}:
        target.publisher.publish(key)


def _delete_events_exchange(target: Target, _rng: Random) -> None:
    """A worker declares it again when it has something to publish, without an operator's help.

    Its bindings are its subscribers', who bind anew and fetch what was unrouted.
    """
    target.deployment.on_broker(lambda channel: channel.exchange_delete(EVENTS))
    over = time.monotonic() + _DECLARED_SECONDS
    while not wait_until(lambda: target.deployment.has_exchange(EVENTS), seconds=5, interval=0.5):
        if time.monotonic() > over:
            raise PartFailedError(f"no worker has declared {EVENTS} again within {_DECLARED_SECONDS:g} s")
        for key in {each.key for each in target.publisher.published[:_REPEATED]}:
            target.publisher.publish(key)  # a repeat is answered with an event
    target.deployment.on_broker(lambda channel: channel.queue_bind(OBSERVED, EVENTS, "#"))
    time.sleep(1)  # until all nodes know the binding
    target.deployment.on_broker(_fetch_unrouted)


def _fetch_unrouted(channel: BlockingChannel) -> None:
    channel.confirm_delivery()
    while True:
        method, properties, body = channel.basic_get(UNROUTED)
        if method is None or body is None:
            return
        channel.basic_publish("", OBSERVED, body, properties, mandatory=True)
        channel.basic_ack(method.delivery_tag or 0)


STRIKES = (
    Strike("a node of the broker is killed and restarted", _kill_node, vital=True),
    Strike("a memory alarm goes off in the broker", _memory_alarm),
    Strike("a disk alarm goes off in the broker", _disk_alarm),
    Strike("the workers' user loses its permissions in the broker", _forbid),
    Strike("the queue of commands is deleted", _delete_command_queue),
    Strike("the exchange of events is deleted", _delete_events_exchange),
)
