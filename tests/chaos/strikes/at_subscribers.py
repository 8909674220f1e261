"""What happens to those who command and listen: they are cut off, and one of them lets its queue run full."""

from __future__ import annotations

import time
from random import Random

from pika.adapters.blocking_connection import BlockingChannel

from tests.chaos.strikes.strike import Strike, Target
from worker.broker.outbox import REFUSED_SECONDS
from worker.broker.topology import EVENTS

_FULL = "chaos.full"


def _cut_off(target: Target, rng: Random) -> None:
    target.deployment.outsiders_way.cut()
    time.sleep(rng.uniform(0.5, 3))
    target.deployment.outsiders_way.heal()


def _run_full(target: Target, rng: Random) -> None:
    """For longer than a worker tries to publish one event."""
    kind = rng.choice(("classic", "quorum"))

    def declare(channel: BlockingChannel) -> None:
        arguments = {"x-queue-type": kind, "x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(_FULL, durable=True, arguments=arguments)
        channel.queue_bind(_FULL, EVENTS, "#")

    target.deployment.on_broker(declare)
    time.sleep(REFUSED_SECONDS * rng.uniform(1.1, 1.3))
    target.deployment.on_broker(lambda channel: channel.queue_delete(_FULL))


STRIKES = (
    Strike("publisher and observer are cut off", _cut_off, vital=True),
    Strike("a subscriber's queue is full, and refuses events", _run_full),
)
