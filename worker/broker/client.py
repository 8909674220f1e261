"""A blocking client of the broker for tools: publishes commands, receives events. One connection, one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPConnectionError, AMQPError, ChannelClosedByBroker, UnroutableError

from worker.broker.connection import connection_parameters, user_of
from worker.broker.delivery import plain_headers
from worker.broker.problems import ACCESS_REFUSED, ChannelLostError, explain_channel, explain_connect
from worker.broker.received_event import NoEventError, ReceivedEvent, event_in
from worker.broker.senders import SENDER_HEADER
from worker.broker.tolerant import TolerantSelectConnection
from worker.broker.topology import DELAY_TIERS, delay_exchange
from worker.settings import BrokerSettings, SettingsInvalidError

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

#: How many events may be delivered and not yet read. More events wait in the broker, not in this process's memory.
_PREFETCH = 500

#: What a tool says of such messages, once.
SKIPPED = "A message on the exchange unlink.events is no event of a worker. Such messages are skipped."


class BrokerClientError(Exception):
    """The broker could not be reached, or refused an operation. The message is one line that names the remedy."""


class NoQueueError(BrokerClientError):
    """There is no queue for the commands of this Enterprise Manager: probably no worker has ever served it."""


class UnconfirmedError(AMQPError):
    """The broker has not confirmed a message in time. Ends the connection, as pika's own errors do."""


class BrokerClient:
    """A connection to the broker, as a context manager.

    `skipped`: called with one line when `next_event` skips a message that is no event of a worker; once only.

    Raises:
        BrokerClientError: from every method, if the broker cannot be reached or refuses the operation.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._queue: str | None = None
        self.skipped: Callable[[str], None] | None = None

    def __enter__(self) -> Self:
        try:
            parameters = connection_parameters(self._settings, "command line")
            self._user = user_of(self._settings)
        except SettingsInvalidError as error:
            raise BrokerClientError(str(error)) from error
        try:
            self._connection = pika.BlockingConnection(
                parameters,
                _impl_class=TolerantSelectConnection,  # type: ignore[arg-type] # the stubs have an instance of it
            )
            self._channel: BlockingChannel = self._connection.channel()
            self._channel.confirm_delivery()
            # pika's own connection: the callbacks of a blocking one are not called during a publish.
            self._carrier: Any = self._connection._impl  # type: ignore[attr-defined] # noqa: SLF001 - no public way
            self._alarmed = False
            self._carrier.add_on_connection_blocked_callback(lambda *_: self._alarm(on=True))
            self._carrier.add_on_connection_unblocked_callback(lambda *_: self._alarm(on=False))
        except (AMQPError, AMQPConnectorException, OSError) as error:
            raise BrokerClientError(explain_connect(_unwrapped(error), parameters)) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After Ctrl-C pika may be between two frames, or the broker may hang: the answer to a close might never come.
        # The connection ends with the process.
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            return
        with suppress(AMQPError):  # the connection may be lost without notice
            if self._connection.is_open:
                self._connection.close()

    @property
    def user(self) -> str:
        """The broker user of this connection."""
        return self._user

    @property
    def frame_max(self) -> int:
        """The size of the largest frame that this connection may carry, in bytes."""
        return int(self._carrier.params.frame_max)

    def listen(self, *routing_keys: str, skipped: Callable[[str], None] | None = None) -> None:
        """Queue events for `next_event` from now on: all, or those that match one of the routing keys (`*.default`).

        `skipped` is set as the attribute of that name.
        """
        self.skipped = skipped
        with translated():
            self._queue = self._channel.queue_declare("", exclusive=True, auto_delete=True).method.queue
            for routing_key in routing_keys or ("#",):
                self._channel.queue_bind(self._queue, "unlink.events", routing_key)
            self._channel.basic_qos(prefetch_count=_PREFETCH)

    def next_event(self, seconds: float) -> ReceivedEvent | None:
        """The next event about a command, or None if there is none within `seconds`. Call `listen` first.

        Other messages on the events exchange are skipped, whoever has published them.
        """
        over = time.monotonic() + seconds
        while (message := self._next_message(over)) is not None:
            try:
                event = event_in(*message)
            except NoEventError:
                self._report_skipped()
            else:
                if event is not None:
                    return event
            if time.monotonic() > over:
                break
        return None

    def _report_skipped(self) -> None:
        if self.skipped is not None:
            self.skipped(SKIPPED)
            self.skipped = None

    def _next_message(self, over: float) -> tuple[bytes, dict[str, object]] | None:
        """The body and the headers of the next message; None if there is none by `over`, on the monotonic clock."""
        if self._queue is None:
            raise AssertionError("listen first")
        with translated():
            for method, properties, body in self._channel.consume(self._queue, inactivity_timeout=0.1):
                if method is not None and body is not None and method.delivery_tag is not None:
                    self._channel.basic_ack(method.delivery_tag)
                    return body, plain_headers(getattr(properties, "headers", None))
                if time.monotonic() > over:
                    break
        return None

    def count(self, queue: str) -> int:
        """How many messages of a queue are ready; unacknowledged ones do not count."""
        with translated():
            return int(self._channel.queue_declare(queue, passive=True).method.message_count)

    def require_queue(self, enterprise_manager: str) -> None:
        """Raise `NoQueueError` if there is no queue for this Enterprise Manager's commands: they would be rejected.

        From 4.3 on, RabbitMQ does not tell a user without any permission on the queue whether it exists. The check
        then passes.
        """
        with translated():
            probe = self._connection.channel()
            try:
                probe.queue_declare(f"unlink.commands.{enterprise_manager}", passive=True)
            except ChannelClosedByBroker as error:
                if error.reply_code == ACCESS_REFUSED or ChannelLostError(error).not_ready:
                    return
                raise NoQueueError(
                    f"no worker has ever served an Enterprise Manager named {enterprise_manager!r} on this broker "
                    f"(there is no queue unlink.commands.{enterprise_manager})"
                ) from error
            probe.close()

    def consumers(self, enterprise_manager: str) -> int | None:
        """The number of consumers of its command queue; None if the user may not ask, or there is no queue."""
        declared = self._look_at(f"unlink.commands.{enterprise_manager}")
        return None if declared is None else int(declared.consumer_count)

    def waiting(self, enterprise_manager: str) -> int | None:
        """The number of ready messages in its command queue; None if the user may not ask, or there is no queue."""
        return self.ready(f"unlink.commands.{enterprise_manager}")

    def ready(self, queue: str) -> int | None:
        """The number of ready messages in a queue; None if the user may not ask, or there is no queue."""
        declared = self._look_at(queue)
        return None if declared is None else int(declared.message_count)

    def delayed(self) -> int | None:
        """The number of messages in the delay queues; None if the user may not ask, or one of them is missing."""
        declared = [self._look_at(delay_exchange(seconds)) for seconds in DELAY_TIERS]
        return None if None in declared else sum(int(each.message_count) for each in declared if each)

    def _look_at(self, queue: str) -> Any | None:
        with translated():
            probe = self._connection.channel()
            try:
                declared = probe.queue_declare(queue, passive=True)
            except ChannelClosedByBroker:
                return None
            probe.close()
        return declared.method

    def publish(
        self, command: bytes, enterprise_manager: str, *, message_id: str | None = None, sender: str | None = None
    ) -> None:
        """Publish a command, persistent and signed with `user_id`; returns once the broker has confirmed it.

        `sender`: the user on whose behalf it is published. Workers trust it if this broker user is one of their
        forwarders.

        Raises:
            NoQueueError: the broker returned the command, because no queue took it.
        """
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent.value,
            message_id=message_id,
            user_id=self._user,
            headers=None if sender is None else {SENDER_HEADER: sender},
        )
        self.publish_confirmed("unlink.commands", enterprise_manager, command, properties)

    def publish_confirmed(self, exchange: str, routing_key: str, body: bytes, properties: pika.BasicProperties) -> None:
        """Publish a message; returns once the broker has confirmed it, and raises if it does not do so in time."""
        loop = self._carrier.ioloop
        with translated():
            self._deadline = loop.call_later(self._settings.confirm_seconds, self._give_up)
            try:
                self._channel.basic_publish(exchange, routing_key, body, properties, mandatory=True)
            finally:
                loop.remove_timeout(self._deadline)

    def _give_up(self) -> None:
        """End the wait for a confirm, but not in an alarm: if the alarm lasts, pika closes the connection."""
        seconds = self._settings.confirm_seconds
        if self._alarmed:
            self._deadline = self._carrier.ioloop.call_later(seconds, self._give_up)
        else:
            self._carrier._terminate_stream(  # noqa: SLF001 - pika would wait without a limit, also for a close
                UnconfirmedError(
                    f"the broker did not confirm the message in {seconds:g} seconds, and may have taken it: see that "
                    "all nodes of the broker run, and send it again with the same key"
                )
            )

    def _alarm(self, *, on: bool) -> None:
        self._alarmed = on


@contextmanager
def translated() -> Iterator[None]:
    """Turn pika's exceptions into `BrokerClientError`."""
    try:
        yield
    except UnroutableError as error:
        raise NoQueueError("the broker has no queue for this command") from error
    except UnconfirmedError as error:
        raise BrokerClientError(str(error)) from error
    except (AMQPError, OSError) as error:
        raise BrokerClientError(explain_channel(error)) from error


def _unwrapped(error: BaseException) -> BaseException:
    """The cause of the error, if pika's blocking adapter has wrapped it in an error without a message."""
    inner = error.args[0] if type(error) is AMQPConnectionError and error.args else None
    return inner if isinstance(inner, BaseException) else error
