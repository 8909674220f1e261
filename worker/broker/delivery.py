"""One delivery of one message, bound to the channel that delivered it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from worker.broker.senders import sender_of
from worker.broker.topology import COMMAND_DELIVERY_LIMIT
from worker.unlinks.ports.broker import DELIVERY_LIMIT, Misrouting

if TYPE_CHECKING:
    from pika.channel import Channel
    from pika.spec import Basic, BasicProperties

#: The header that counts the attempts. Its name has no prefix `x-`, which is the broker's.
ATTEMPT_HEADER = "unlink-attempt"

#: The header that tells the copies of a message that the broker dead-lettered it from a command queue; its value is the
#: broker's reason. Such a copy is answered from the ledger. Any sender can set this header, too. As the policy is
#: applied first, that only gives up a command that the sender may send.
TAKEN_AWAY_HEADER = "unlink-taken-away"

#: The header that counts how often earlier copies of the message returned to the queue unacknowledged. The broker
#: counts from 0 for each copy. A command that crashes every worker after its claim is delayed, and therefore copied,
#: before each further attempt, so that the broker's count alone would never reach the delivery limit.
RETURNS_HEADER = "unlink-returns"

#: The header that counts how often the broker refused the answer to the message. It is no attempt at the command.
REFUSALS_HEADER = "unlink-refusals"

#: The header of a delayed copy that says when the original was first delivered, in ISO 8601.
ARRIVED_HEADER = "unlink-arrived-at"

#: The broker's header that counts how often this copy returned unacknowledged; absent at the first delivery.
_DELIVERY_COUNT = "x-delivery-count"

#: A header's count must be lower. Without a limit, a sender could set AMQP's largest integer, and that integer plus one
#: could not be encoded in a copy.
_COUNT_LIMIT = 2**31

#: The pattern of the broker's reasons for dead-lettering.
_WORD = re.compile("[a-z_]{1,40}")

#: The deepest level of nesting at which a header is read.
_DEEPEST = 20


class BrokerDelivery:
    """One delivery (`worker.unlinks.ports.broker.Delivery`). Use it on the event loop's thread only.

    `taken_at` is the time of the delivery by `Clock.monotonic`, `now` the time of day then. `on_settled` is called
    once, when the delivery has been acknowledged or requeued.

    A delivery tag is valid only on its own channel: on another channel it would acknowledge another message. Therefore
    the tag is kept together with its channel.
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
        now: datetime,
        forwarders: Collection[str] = (),
        misrouting: Misrouting | None = None,
        taken_away: str | None = None,
        on_settled: Callable[[BrokerDelivery], None] = lambda _delivery: None,
    ) -> None:
        self._channel = channel
        self._tag = method.delivery_tag or 0
        self._settled = False
        self._body_dropped = False
        self._on_settled = on_settled
        self._reply_patterns = reply_patterns
        self._forwarders = forwarders
        self.properties = properties
        self.body = body
        self.enterprise_manager = enterprise_manager
        self.taken_at = taken_at
        #: Whether the broker says that it may have delivered the message before.
        self.redelivered = method.redelivered is True
        self.headers: Mapping[str, object] = plain_headers(properties.headers)
        #: When the message was first delivered: if the header of a copy does not say it, now.
        self.arrived_at = moment_of(self.headers.get(ARRIVED_HEADER)) or now
        #: The routing of a delivery from `unlink.misrouted`; None for a delivery from a command queue.
        self.misrouting = misrouting
        #: The broker's reason for dead-lettering the message from a command queue; None if it did not.
        self.taken_away = taken_away or word_or_none(self.headers.get(TAKEN_AWAY_HEADER))
        #: How often the message and its earlier copies returned to the queue unacknowledged.
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
        """The broker user who published the message; for a forwarder's copy, the original sender. None if not named."""
        return sender_of(text_or_none(self.properties.user_id), self.headers, self._forwarders)

    @property
    def attempt(self) -> int:
        """1 plus the number of earlier attempts that failed. An invalid header counts as missing."""
        return count_of(self.headers.get(ATTEMPT_HEADER), least=1)

    @property
    def refusals(self) -> int:
        """How often the broker refused the answer to the message. An invalid header counts as missing."""
        return count_of(self.headers.get(REFUSALS_HEADER), least=0)

    @property
    def live(self) -> bool:
        """Whether the channel of the delivery is still open: only then can the delivery be settled."""
        return self._channel.is_open

    @property
    def has_body(self) -> bool:
        """Whether the body was kept."""
        return not self._body_dropped

    def drop_body(self) -> None:
        """Forget the body: the delivery can only be requeued then."""
        self.body = b""
        self._body_dropped = True

    def acknowledge(self) -> None:
        """Acknowledge the delivery. Does nothing if its channel has closed, or if it is settled already."""
        if self._may_settle():
            self._channel.basic_ack(self._tag)
            self._on_settled(self)

    def requeue(self) -> None:
        """Return the message to its queue. Does nothing if its channel has closed, or if it is settled already.

        It sends `basic.nack`. From RabbitMQ 4.3 on, `basic.reject` would count as a failure of the message.
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
    """A property as text. pika returns bytes if the property is not UTF-8; it then counts as missing."""
    return value if isinstance(value, str) else None


def word_or_none(value: object) -> str | None:
    """A header that holds one word of the broker's vocabulary; anything else is None."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def count_of(value: object, *, least: int) -> int:
    """A header that holds a count, which is never less than `least`; anything else counts as `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _COUNT_LIMIT:
        return least
    return value


def moment_of(value: object) -> datetime | None:
    """A header that holds a time of day with its zone; anything else is None."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def plain_headers(headers: Mapping[str, object] | None) -> dict[str, object]:
    """The headers in plain Python types: pika has an integer class of its own, and a name may be bytes."""
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
    """A routing key or a header's name as text. pika returns bytes if it is not UTF-8; these are escaped."""
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)
