"""Who commands and who listens: a publisher that counts what was confirmed, an observer that hears every event.

Both are plain users of pika, on a thread and a connection of their own, which they make anew when it is cut.
"""

from __future__ import annotations

import heapq
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, NackError, UnroutableError

from contracts.events import rejection_id
from tests.chaos.reckoning import ObservedEvent, Published
from worker.broker.topology import COMMANDS, EVENTS

#: The observer's queue: a quorum queue, so that no event is lost while nobody listens.
OBSERVED = "chaos.observed"

#: How often each looks whether there is something to do, in seconds.
_TICK = 0.05

#: The pause before a new connection, in seconds.
_PAUSE = 0.5

#: A connection that is silent for about as long as this is given up, in seconds.
_HEARTBEAT = 5

_PREFETCH = 500


class _Outsider(ABC):
    """A thread with a connection; `_work` is called again and again while it is open. A context manager."""

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._live, name=type(self).__name__.lower(), daemon=True)

    @abstractmethod
    def _begin(self, channel: BlockingChannel) -> None:
        """Prepare a new channel."""

    @abstractmethod
    def _work(self, channel: BlockingChannel) -> None:
        """Do what is due, and wait a little."""

    def _live(self) -> None:
        while not self._stopping.is_set():
            with suppress(AMQPError, OSError):
                self._live_once()
            self._stopping.wait(_PAUSE)

    def _live_once(self) -> None:
        parameters = pika.URLParameters(self._url())
        parameters.heartbeat = _HEARTBEAT
        parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = 2 * _HEARTBEAT
        connection = pika.BlockingConnection(parameters)
        try:
            channel = connection.channel()
            self._begin(channel)
            while not self._stopping.is_set():
                self._work(channel)
        finally:
            with suppress(AMQPError, OSError):
                connection.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(4 * _HEARTBEAT)


class Publisher(_Outsider):
    """Publishes commands when they are due, and notes whether the broker confirmed.

    Where a confirm was lost with the connection, the command may be there or not. Of these about every second one is
    published again, as a publisher does that wants to be certain; the others show what becomes of those.
    """

    def __init__(self, url: Callable[[], str], bodies: Mapping[str, bytes]) -> None:
        super().__init__(url)
        self._bodies = bodies
        self._lock = threading.Lock()
        self._due: list[tuple[float, str]] = []
        self._published: list[Published] = []

    def publish(self, key: str, at: float = 0.0) -> None:
        """Publish a command as soon as it is that late by `time.monotonic`."""
        with self._lock:
            heapq.heappush(self._due, (at, key))

    @property
    def published(self) -> list[Published]:
        """Every publishing so far."""
        with self._lock:
            return list(self._published)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to publish."""
        with self._lock:
            return not self._due

    def _begin(self, channel: BlockingChannel) -> None:
        channel.confirm_delivery()

    def _work(self, channel: BlockingChannel) -> None:
        while key := self._next():
            confirmed = False
            try:
                confirmed = self._publish(channel, key)
            finally:
                self._note(key, confirmed=confirmed)
        channel.connection.process_data_events(time_limit=_TICK)

    def _next(self) -> str | None:
        with self._lock:
            due = self._due and self._due[0][0] <= time.monotonic()
            return heapq.heappop(self._due)[1] if due else None

    def _publish(self, channel: BlockingChannel, key: str) -> bool:
        properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        try:
            channel.basic_publish(COMMANDS, "default", self._bodies[key], properties, mandatory=True)
        except (NackError, UnroutableError):
            return False
        return True

    def _note(self, key: str, *, confirmed: bool) -> None:
        with self._lock:
            self._published.append(Published(key, confirmed))
            if not confirmed and len(self._published) % 2:
                heapq.heappush(self._due, (time.monotonic() + _PAUSE, key))


class Observer(_Outsider):
    """Hears every event.

    Args:
        url: where it connects.
        invalid: messages that are rejected, by name: the event of such a message has its name for a key.
    """

    def __init__(self, url: Callable[[], str], invalid: Mapping[str, bytes]) -> None:
        super().__init__(url)
        self._names = {rejection_id(body): name for name, body in invalid.items()}
        self._lock = threading.Lock()
        self._received: list[ObservedEvent] = []
        self._listening = threading.Event()

    def until_listening(self, seconds: float) -> bool:
        """Whether its queue is there, and bound, within so many seconds: from then on no event is lost."""
        return self._listening.wait(seconds)

    @property
    def received(self) -> list[ObservedEvent]:
        """Every event so far."""
        with self._lock:
            return list(self._received)

    @property
    def ended(self) -> set[str | None]:
        """The keys that have a terminal event."""
        return {event.key for event in self.received if event.terminal}

    def _begin(self, channel: BlockingChannel) -> None:
        channel.queue_declare(OBSERVED, durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_bind(OBSERVED, EVENTS, "#")
        channel.basic_qos(prefetch_count=_PREFETCH)
        channel.basic_consume(OBSERVED, self._on_message)
        self._listening.set()

    def _work(self, channel: BlockingChannel) -> None:
        channel.connection.process_data_events(time_limit=_TICK)
        if not channel.is_open:
            raise AMQPError

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        del properties
        content = json.loads(body)
        event = ObservedEvent(
            id=content["id"],
            key=self._names.get(content["id"], content.get("subject")),
            outcome=content["data"]["outcome"],
            time=datetime.fromisoformat(content["time"]),
            data=content["data"],
            body=body,
            again=bool(method.redelivered),
            received_at=datetime.now(UTC),
        )
        with self._lock:
            self._received.append(event)
        channel.basic_ack(method.delivery_tag)
