"""Bounds the memory that messages take which are larger than the contract allows.

Such a message is rejected, but its dead letter must hold it whole. RabbitMQ 4 accepts 16 MiB by default, and earlier
versions 128 MiB: a prefetch of 64 of them would exceed the memory of a worker. The broker limits deliveries by number
only: it does not implement `prefetch_size`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from contracts.commands import MAX_MESSAGE_BYTES
from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    from worker.broker.delivery import BrokerDelivery

#: How many bytes of large messages may be in hand at once, unless a single message is larger.
MAX_BYTES = 16 * 1024 * 1024

#: How often it is checked, in seconds, whether a message that waits can return to its queue.
CHECK_SECONDS = 5.0

#: How long a message may wait, in seconds: much less than the broker's consumer timeout.
LONGEST_WAIT_SECONDS = 300.0


class LargeMessages:
    """The large messages of all queues of a worker.

    A message for which there is no room is not kept: only its delivery tag is. It returns to its queue when there is
    room, and is delivered again, to this worker or to another one. Meanwhile it counts towards the prefetch, so that
    the broker does not send further messages instead.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sizes: dict[BrokerDelivery, int] = {}
        #: Deliveries without their bodies, the oldest first.
        self._waiting: deque[BrokerDelivery] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @staticmethod
    def is_large(delivery: BrokerDelivery) -> bool:
        """Whether the message is larger than the contract allows."""
        return len(delivery.body) > MAX_MESSAGE_BYTES

    def admit(self, delivery: BrokerDelivery) -> bool:
        """Whether the delivery may be handed on. If not, its body is dropped, and it returns to its queue later."""
        if not self.is_large(delivery):
            return True
        size = len(delivery.body)
        if self._sizes and sum(self._sizes.values()) + size > MAX_BYTES:
            delivery.drop_body()
            self._waiting.append(delivery)
            self._check_later()
            return False
        self._sizes[delivery] = size
        return True

    def release(self, delivery: BrokerDelivery) -> None:
        """Note that a delivery was settled, or that its channel has closed. Does nothing if it was not admitted."""
        if self._sizes.pop(delivery, None) is not None:
            self._return_oldest()

    def _return_oldest(self) -> None:
        self._waiting = deque(waiting for waiting in self._waiting if waiting.live)
        if self._waiting:
            self._waiting.popleft().requeue()

    def _check_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check)

    def _check(self) -> None:
        """Return what has waited for long; and one message if there is room: the last one went to another worker."""
        self._timer = None
        if not self._sizes:
            self._return_oldest()
        long_ago = self._clock.monotonic() - LONGEST_WAIT_SECONDS
        while self._waiting and self._waiting[0].taken_at < long_ago:
            self._return_oldest()
        if self._waiting:
            self._check_later()
