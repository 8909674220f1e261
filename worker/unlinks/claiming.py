"""Claiming a key that another worker may have.

A redelivery means that the former worker has lost its connection. If that worker has ended, its lease expires, and the
claim waits for that; from a delay queue the command would return later, behind all commands that were sent meanwhile.
If the lease is renewed, the worker is alive and continues the unlink, and the claim stops waiting.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime
from typing import TypeVar

from worker.unlinks.ports.broker import Delivery
from worker.unlinks.ports.ledger import HeldElsewhere
from worker.unlinks.ports.steps import Reporter, StepKind
from worker.unlinks.waiting import DeferredError, Waiting

#: How long a command waits in a delay queue, in seconds, while its key is held: at least, and at most.
SHORTEST_TURN_SECONDS = 5.0
LONGEST_TURN_SECONDS = 120.0
#: The part of its age that it waits, between these two.
_PART_OF_AGE = 0.1
#: How often a waiting claim checks whether the lease was renewed or released, in seconds.
LOOK_AGAIN_SECONDS = 2.0
#: How long after the end of the lease the key is claimed, in seconds.
SOON_AFTER_SECONDS = 0.05

Result = TypeVar("Result")


def turn_seconds(deliveries: Iterable[Delivery], now: datetime) -> float:
    """How long deliveries wait in a delay queue, in seconds, while their key is held: the older, the longer.

    Each lost confirm of a delay makes one copy more. With short turns alone, a command that waits for long while
    confirms are lost becomes thousands.
    """
    age = max(((now - delivery.arrived_at).total_seconds() for delivery in deliveries), default=0.0)
    return min(max(age * _PART_OF_AGE, SHORTEST_TURN_SECONDS), LONGEST_TURN_SECONDS)


async def claim_once_free(
    claim: Callable[[], Awaitable[Result | HeldElsewhere]],
    deliveries: Collection[Delivery],
    waiting: Waiting,
    report: Reporter,
) -> Result:
    """Claim a key. A redelivery is claimed again once the lease has ended, unless the lease is renewed meanwhile.

    Raises:
        DeferredError: another worker has the key, or the delivery was held as long as it may be.
        LeavingError: the worker is to stop.
    """
    result = await claim()
    if isinstance(result, HeldElsewhere) and any(delivery.redelivered for delivery in deliveries):
        result = await _until_free(result, claim, waiting, report)
    if isinstance(result, HeldElsewhere):
        report(StepKind.HELD_ELSEWHERE)
        raise DeferredError("another worker has this key", turn_seconds(deliveries, waiting.clock.now()))
    return result


async def _until_free(
    held: HeldElsewhere,
    claim: Callable[[], Awaitable[Result | HeldElsewhere]],
    waiting: Waiting,
    report: Reporter,
) -> Result | HeldElsewhere:
    if held.until is None:
        return held
    report(StepKind.AWAITING_LEASE, seconds=round(held.seconds, 1))
    while True:
        await waiting.wait(min(held.seconds + SOON_AFTER_SECONDS, LOOK_AGAIN_SECONDS))
        result = await claim()
        if not isinstance(result, HeldElsewhere) or result.until != held.until:
            return result
        held = result
