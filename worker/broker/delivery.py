"""One delivery of one message, bound to the channel that it came on."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from worker.broker.senders import sender_of
from worker.broker.topology import COMMAND_DELIVERY_LIMIT
from worker.unlinks.ports.broker import DELIVERY_LIMIT, Misrouting

if TYPE_CHECKING:
    from pika.channel import Channel
    from pika.spec import Basic, BasicProperties

#: The header that counts the attempts. Without the prefix `x-`, which is the broker's.
ATTEMPT_HEADER = "unlink-attempt"

#: On the copy of a message that the broker took from its queue: why, by the broker's name for it. The copy is answered
#: from the ledger. A sender who writes this header has the sender's own command given up.
TAKEN_AWAY_HEADER = "unlink-taken-away"

#: How often earlier copies of the message came back unacknowledged. The broker counts anew for each copy, and so would
#: never take away a command that ends every worker after its claim: such a command is delayed between two of its runs.
RETURNS_HEADER = "unlink-returns"

#: The broker's own count of that, for this copy; absent at the first delivery.
_DELIVERY_COUNT = "x-delivery-count"

#: A number that no count reaches; one more than the largest of AMQP's could not be written in a copy.
_NO_COUNT = 2**31

#: What the broker calls its reasons for dead-lettering.
_WORD = re.compile("[a-z_]{1,40}")

#: How deep a header may be nested and still be read.
_DEEPEST = 20


class BrokerDelivery:
    """One delivery (`worker.unlinks.ports.broker.Delivery`). To be used on the event loop's thread only.

    A delivery tag means something on its channel and nowhere else (on another it would acknowledge another message), so
    it is kept together with that channel.
    """

    def __init__(  # noqa: PLR0913 - all that is known of a delivery, by keyword
        self,
        channel: Channel,
        method: Basic.Deliver,
        properties: BasicProperties,
        body: bytes,
        *,
        enterprise_manager: str,
        reply_patterns: Sequence[str],
        taken_at: float,
        forwarders: Collection[str] = (),
        misrouting: Misrouting | None = None,
        taken_away: str | None = None,
        on_settled: Callable[[BrokerDelivery], None] = lambda _delivery: None,
    ) -> None:
        self._channel = channel
        self._tag = method.delivery_tag or 0
        self._settled = False
        self._on_settled = on_settled
        self._reply_patterns = reply_patterns
        self._forwarders = forwarders
        self.properties = properties
        self.body = body
        self.enterprise_manager = enterprise_manager
        self.taken_at = taken_at
        #: Whether the broker says that it delivered the message before.
        self.redelivered = method.redelivered is True
        self.headers: Mapping[str, object] = plain_headers(properties.headers)
        #: How it came to `unlink.misrouted`; None if it came from a command queue.
        self.misrouting = misrouting
        #: Why the broker had taken the message from its queue before, in the broker's word; None if it had not.
        self.taken_away = taken_away or word_or_none(self.headers.get(TAKEN_AWAY_HEADER))
        #: How often the message came back unacknowledged, with all of its copies.
        self.returns = sum(count_of(self.headers.get(name), least=0) for name in (RETURNS_HEADER, _DELIVERY_COUNT))
        if self.taken_away is None and self.returns > COMMAND_DELIVERY_LIMIT:
            self.taken_away = DELIVERY_LIMIT

    @property
    def content_type(self) -> str | None:
        """The AMQP property of that name."""
        return text_or_none(self.properties.content_type)

    @property
    def correlation_id(self) -> str | None:
        """The AMQP property of that name."""
        return text_or_none(self.properties.correlation_id)

    @property
    def reply_to(self) -> str | None:
        """The AMQP property of that name, if the allowed patterns match it; else None."""
        reply_to = text_or_none(self.properties.reply_to)
        if reply_to is None or not any(fnmatchcase(reply_to, pattern) for pattern in self._reply_patterns):
            return None
        return reply_to

    @property
    def user_id(self) -> str | None:
        """The broker user who published the message or, of a forwarder's copy, its original; None if unsigned."""
        return sender_of(text_or_none(self.properties.user_id), self.headers, self._forwarders)

    @property
    def attempt(self) -> int:
        """1, and one more for each earlier attempt that failed. An invalid header counts as missing."""
        return count_of(self.headers.get(ATTEMPT_HEADER), least=1)

    @property
    def live(self) -> bool:
        """Whether the channel that it came on is still open."""
        return self._channel.is_open

    def acknowledge(self) -> None:
        """Acknowledge it to the broker. Does nothing if the channel has gone, or if it was settled before."""
        if self._may_settle():
            self._channel.basic_ack(self._tag)
            self._on_settled(self)

    def requeue(self) -> None:
        """Give it back to its queue. Does nothing if the channel has gone, or if it was settled before.

        A nack and no reject: to RabbitMQ from 4.3 on, only the latter says that the message failed.
        """
        if self._may_settle():
            self._channel.basic_nack(self._tag, requeue=True)
            self._on_settled(self)

    def _may_settle(self) -> bool:
        # Settling twice makes the broker close the channel (406), which returns its other unacknowledged deliveries.
        if self._settled or not self.live:
            return False
        self._settled = True
        return True


def reply_patterns(setting: str) -> Sequence[str]:
    """The patterns of a comma-separated setting."""
    return [pattern.strip() for pattern in setting.split(",") if pattern.strip()]


def text_or_none(value: object) -> str | None:
    """A property as text. pika gives bytes where it is not UTF-8; that counts as missing."""
    return value if isinstance(value, str) else None


def word_or_none(value: object) -> str | None:
    """A header that holds one word of the broker's vocabulary; anything else is None."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def count_of(value: object, *, least: int) -> int:
    """A header that holds a count, which is never less than `least`; anything else counts as `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _NO_COUNT:
        return least
    return value


def plain_headers(headers: Mapping[str, object] | None) -> dict[str, object]:
    """The headers with Python's own types: pika's integers are of a class of its own, and a name may be bytes."""
    return {text_of(name): _plain(value, depth=0) for name, value in (headers or {}).items()}


def _plain(value: object, *, depth: int) -> object:
    if depth >= _DEEPEST:
        return None
    if isinstance(value, dict):
        return {text_of(name): _plain(inner, depth=depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, depth=depth + 1) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value


def text_of(name: object) -> str:
    """A routing key or a header's name as text. pika gives bytes where it is not UTF-8; these are escaped."""
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)
