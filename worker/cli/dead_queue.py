"""Going through `unlink.dead`: each letter is taken unacknowledged, and then removed, or given back at the end.

Nothing is lost: what is not acknowledged returns to the queue, also if this program is killed. What is given back goes
back one by one in its order, since a quorum queue mixes up what returns all at once (measured on RabbitMQ 3.10.8).
Each look counts against the queue's delivery limit (`worker.broker.topology.BROWSED_DELIVERY_LIMIT`).
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pika.exceptions import AMQPError

from worker.broker.copies import replayed_properties
from worker.broker.dead_letters import DeadLetter
from worker.broker.topology import COMMANDS, DEAD
from worker.cli.mailbox import Mailbox, MailboxError, translated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pika.adapters.blocking_connection import BlockingChannel

#: How many letters are taken at once, and so how many are in memory.
BATCH = 200

#: After so long without a letter, in seconds, somebody else has taken those that are missing.
QUIET_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Taken:
    """A letter in hand. `position` counts from 1, from the head of the queue."""

    position: int
    letter: DeadLetter
    tag: int


class DeadQueue(Mailbox):
    """A connection to the broker for going through the dead letters.

    Raises:
        MailboxError: in every method, if the broker is away or refuses.
    """

    _held: dict[int, None]
    _reader: BlockingChannel
    _served: dict[str, bool]

    @contextmanager
    def letters(self) -> Iterator[Iterator[Taken]]:
        """The letters that are there now, oldest first; when the context ends, those that were not removed go back."""
        with translated():
            self._held, self._served = {}, {}
            self._reader = self._connection.channel()
        try:
            yield self._all()
        finally:
            self._give_back()

    def replay(self, letter: DeadLetter) -> None:
        """Publish its command anew; returns once the broker has it safe. Whoever calls then removes the letter."""
        properties = replayed_properties(letter.properties, self._user)
        with translated():
            self._channel.basic_publish(COMMANDS, letter.enterprise_manager, letter.body, properties, mandatory=True)

    def remove(self, taken: Taken) -> None:
        """Take it out of the queue for good."""
        with translated():
            self._reader.basic_ack(taken.tag)
        del self._held[taken.tag]

    def is_served(self, enterprise_manager: str) -> bool:
        """Whether there is a queue for it. Without one its commands would come straight back as dead letters."""
        if enterprise_manager not in self._served:
            try:
                self.require_queue(enterprise_manager)
            except MailboxError:
                if not self._connection.is_open:
                    raise
                self._served[enterprise_manager] = False
            else:
                self._served[enterprise_manager] = True
        return self._served[enterprise_manager]

    def _all(self) -> Iterator[Taken]:
        # Those that come while this lasts are left for the next time: a replayed one may be among them.
        position, count = 0, self.count(DEAD)
        while position < count:
            batch = self._batch(position, min(BATCH, count - position))
            if not batch:
                return
            yield from batch
            position += len(batch)

    def _batch(self, position: int, size: int) -> list[Taken]:
        # The prefetch is the size, and nothing is acknowledged before the consumer is cancelled: no letter more comes.
        batch: list[Taken] = []
        with translated():
            self._reader.basic_qos(prefetch_count=size)
            for method, properties, body in self._reader.consume(DEAD, inactivity_timeout=QUIET_SECONDS):
                if method is None or properties is None or body is None or method.delivery_tag is None:
                    break
                self._held[method.delivery_tag] = None
                letter = DeadLetter(body, properties, method.routing_key or "")
                batch.append(Taken(position + len(batch) + 1, letter, method.delivery_tag))
                if len(batch) == size:
                    break
            self._reader.cancel()
        return batch

    def _give_back(self) -> None:
        with suppress(AMQPError):  # with the channel, all that was held goes back anyhow
            for tag in self._held:
                self._reader.basic_nack(tag, requeue=True)
            self._reader.close()
