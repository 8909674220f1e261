"""Browsing `unlink.dead`: each message is received, and then acknowledged (removed), or returned at the end.

Nothing is lost: unacknowledged messages return to the queue, also if this program is killed. Returned messages keep
their order, unless the program is killed before. Each browsing counts against the queue's delivery limit
(`worker.broker.topology.BROWSED_DELIVERY_LIMIT`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pika.exceptions import AMQPError

from contracts.commands import RetryCommand
from worker.broker.client import BrokerClient, BrokerClientError, translated
from worker.broker.copies import replayed_properties
from worker.broker.dead_letters import DeadLetter
from worker.broker.delivery import text_of
from worker.broker.topology import COMMANDS, DEAD

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

#: How many messages one consumer takes, and so how many are in memory. A quorum queue mixes up those that return all at
#: once, from one consumer, if they are more than 32: it keeps them in an Erlang map, which is sorted only up to that
#: size (measured on RabbitMQ 3.10.8; the same for what returns faster than the queue writes it down).
BATCH = 32

#: After this long without a message, in seconds, another consumer has the missing ones.
QUIET_SECONDS = 5.0

#: How long the queue may take to show the returned messages, in seconds, if no other consumer takes them.
BACK_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Taken:
    """A message taken from the queue and not acknowledged. `position` counts from 1, from the head of the queue."""

    position: int
    message: DeadLetter
    tag: int


class DeadQueue(BrokerClient):
    """A connection to the broker, to browse the dead letters.

    Raises:
        BrokerClientError: in every method, if the broker is away or refuses.
    """

    #: The batch of each unacknowledged message, by its delivery tag.
    _held: dict[int, int]
    _reader: BlockingChannel
    _served: dict[str, bool]

    @contextmanager
    def messages(self, seconds: float | None = None) -> Iterator[Iterator[Taken]]:
        """The present messages, oldest first. When the context ends, those that were not removed return.

        After `seconds` no more are taken from the queue.
        """
        with translated():
            self._held, self._served = {}, {}
            self._reader = self._connection.channel()
        messages = self._all(None if seconds is None else time.monotonic() + seconds)
        try:
            yield messages
            # To the end, even for one message: the messages behind it would otherwise come to stand before those
            # returned now, and the listed positions would change.
            for _ in messages:
                pass
        finally:
            self._give_back()

    def replay(self, message: DeadLetter, retry: RetryCommand | None = None) -> None:
        """Publish its command again, or a retry of the run that it ended. Returns when the broker has confirmed.

        The caller then removes the message.
        """
        properties, body = replayed_properties(message.properties, self._user, self.frame_max), message.body
        if retry is not None:
            properties.content_type = "application/json"
            body = retry.model_dump_json(exclude_none=True).encode()
        self.publish_confirmed(COMMANDS, message.enterprise_manager, body, properties)

    def remove(self, taken: Taken) -> None:
        """Acknowledge it: it is removed from the queue."""
        with translated():
            self._reader.basic_ack(taken.tag)
        del self._held[taken.tag]

    def is_served(self, enterprise_manager: str) -> bool:
        """Whether there is a queue for it. Without one its commands would be rejected after ten minutes."""
        if enterprise_manager not in self._served:
            try:
                self.require_queue(enterprise_manager)
            except BrokerClientError:
                if not self._connection.is_open:
                    raise
                self._served[enterprise_manager] = False
            else:
                self._served[enterprise_manager] = True
        return self._served[enterprise_manager]

    def _all(self, over: float | None) -> Iterator[Taken]:
        # Messages that arrive meanwhile are left for the next time: a replayed one may be among them.
        position, count = 0, self.count(DEAD)
        while position < count and (over is None or time.monotonic() < over):
            batch = self._batch(position, min(BATCH, count - position))
            if not batch:
                return
            yield from batch
            position += len(batch)

    def _batch(self, position: int, size: int) -> list[Taken]:
        # The prefetch is the size, and nothing is acknowledged before the consumer is cancelled: no other arrives.
        batch: list[Taken] = []
        with translated():
            self._reader.basic_qos(prefetch_count=size)
            for method, properties, body in self._reader.consume(DEAD, inactivity_timeout=QUIET_SECONDS):
                if method is None or properties is None or body is None or method.delivery_tag is None:
                    break
                self._held[method.delivery_tag] = position
                message = DeadLetter(body, properties, text_of(method.routing_key or ""))
                batch.append(Taken(position + len(batch) + 1, message, method.delivery_tag))
                if len(batch) == size:
                    break
            self._reader.cancel()
        return batch

    def _give_back(self) -> None:
        with suppress(AMQPError):  # the end of the channel returns all unacknowledged messages anyway
            for tag in {batch: tag for tag, batch in self._held.items()}.values():  # the last one of each batch
                self._reader.basic_nack(tag, multiple=True, requeue=True)
                self._ready()  # answered when the queue has had time to take it
            over = time.monotonic() + BACK_SECONDS
            while self._ready() < len(self._held) and time.monotonic() < over:
                self._connection.process_data_events(time_limit=0.02)
            self._reader.close()

    def _ready(self) -> int:
        return int(self._reader.queue_declare(DEAD, passive=True).method.message_count)
