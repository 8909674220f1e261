"""Properties and headers of a delayed, dead-lettered or replayed copy: which are copied, and which must not be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pika.spec import BasicProperties

from worker.broker.dead_letters import REASON_HEADER, REASON_HEADERS, RUN_HEADER
from worker.broker.delivery import (
    ARRIVED_HEADER,
    ATTEMPT_HEADER,
    REFUSALS_HEADER,
    RETURNS_HEADER,
    TAKEN_AWAY_HEADER,
    BrokerDelivery,
    plain_headers,
    text_or_none,
)
from worker.broker.misrouted import MISROUTED_SECONDS_HEADER
from worker.broker.senders import SENDER_HEADER, signed_by_forwarder, signed_by_worker

#: The longest text in a property of AMQP 0-9-1, in bytes.
MAX_SHORT_TEXT = 255

#: The largest headers that are copied, in bytes, if a frame can hold them.
MAX_HEADERS = 48 * 1024

#: The bytes of a frame that are left free. The properties of a message, headers included, must fit into one frame with
#: 21 other bytes (AMQP 0-9-1, sections 4.2.3 and 4.2.6.1). The broker closes the connection if they do not.
_SPARE = 64

#: The header of a copy that says that the original's headers were not copied.
HEADERS_DROPPED = "unlink-headers-dropped"

#: Headers that the broker writes and evaluates; they are not copied. Before RabbitMQ 4.0.1, a message with a copied
#: `x-death` is silently lost after its next delay (https://github.com/celery/celery/issues/9867). A count of deliveries
#: belongs to the original.
_BROKERS_OWN = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")

#: Headers that are not copied: the worker sets them anew on each copy that needs them.
_OF_ONE_COPY = {
    SENDER_HEADER,
    REFUSALS_HEADER,
    RETURNS_HEADER,
    TAKEN_AWAY_HEADER,
    ARRIVED_HEADER,
    MISROUTED_SECONDS_HEADER,
    RUN_HEADER,
}

#: Headers that a replayed message must not have: they say what became of the message before it was dead-lettered.
_HISTORY = {
    ATTEMPT_HEADER,
    *REASON_HEADERS,
    HEADERS_DROPPED,
}

#: Headers with further routing keys (sender-selected distribution). Each delay would publish to all of them again.
_SENDER_SELECTED = {"cc", "bcc"}

#: The pseudo-queue of direct reply-to, before the broker has replaced it by a generated name. Only the channel that
#: consumes from it may publish with it.
_DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"


def copied_properties(
    delivery: BrokerDelivery, extra: Mapping[str, Any], worker: str, frame_max: int
) -> BasicProperties:
    """The properties of a copy that the worker publishes: persistent, with the headers `extra` added.

    They fit into a frame of `frame_max` bytes. If they would not, the original's headers are left out; and if that is
    not enough, the description of the reason is shortened.

    `expiration` is not copied, since the copy must not expire in its queue. `priority` is not copied, and neither is a
    text property whose value is not text or is longer than AMQP allows. The broker refuses the `user_id` of another
    user. The copy of a signed message therefore has `worker`, the worker's broker user, as its `user_id`, and names
    the sender in a header.
    """
    user_id, signature = signed_by_worker(delivery.user_id, worker)
    return _copied(delivery.properties, {**extra, **signature}, user_id, frame_max)


def replayed_properties(original: BasicProperties, forwarder: str, frame_max: int) -> BasicProperties:
    """The properties of a replayed dead letter, without its history; the broker user `forwarder` publishes it.

    They fit into a frame of `frame_max` bytes, without the original's headers if need be.
    """
    headers = plain_headers(original.headers)
    user_id, signature = signed_by_forwarder(text_or_none(original.user_id), headers, forwarder)
    copy = _copied(original, signature, user_id, frame_max, left_behind=_HISTORY)
    copy.headers = {name: value for name, value in (copy.headers or {}).items() if name != HEADERS_DROPPED}
    return copy


def _copied(
    original: BasicProperties,
    extra: Mapping[str, Any],
    user_id: str | None,
    frame_max: int,
    left_behind: Collection[str] = (),
) -> BasicProperties:
    reply_to = short_text(original.reply_to)
    copy = BasicProperties(
        content_type=short_text(original.content_type),
        content_encoding=short_text(original.content_encoding),
        headers={**_copied_headers(original.headers, left_behind), **extra},
        delivery_mode=2,
        correlation_id=short_text(original.correlation_id),
        reply_to=None if reply_to == _DIRECT_REPLY_TO else reply_to,
        message_id=short_text(original.message_id),
        timestamp=original.timestamp,
        type=short_text(original.type),
        app_id=short_text(original.app_id),
        user_id=user_id,
    )
    if _size(copy) > frame_max - _SPARE:
        copy.headers = {HEADERS_DROPPED: True, **extra}
    excess = _size(copy) - (frame_max - _SPARE)
    if excess > 0 and isinstance(reason := extra.get(REASON_HEADER), str):
        shortened = reason.encode(errors="replace")[:-excess].decode(errors="ignore")
        copy.headers = {HEADERS_DROPPED: True, **extra, REASON_HEADER: shortened}
    return copy


def short_text(value: object) -> str | None:
    """The value, if it is text that fits into a property; else None. A lone surrogate becomes a question mark."""
    encoded = value.encode(errors="replace") if isinstance(value, str) else None
    return encoded.decode() if encoded is not None and len(encoded) <= MAX_SHORT_TEXT else None


def _copied_headers(headers: Mapping[str, Any] | None, left_behind: Collection[str]) -> dict[str, Any]:
    kept = {
        name: value for name, value in (headers or {}).items() if name not in left_behind and not _is_of_one_copy(name)
    }
    return kept if _fit(kept) else {HEADERS_DROPPED: True}


def _is_of_one_copy(name: object) -> bool:
    lower = name.lower() if isinstance(name, str) else ""
    return lower.startswith(_BROKERS_OWN) or lower in _SENDER_SELECTED | _OF_ONE_COPY


def _fit(headers: dict[str, Any]) -> bool:
    try:
        return _size(BasicProperties(headers=headers)) <= MAX_HEADERS
    except Exception:  # noqa: BLE001 - headers that cannot be encoded, for any reason, are left out
        return False


def _size(properties: BasicProperties) -> int:
    """How many bytes they take in a frame."""
    return sum(len(piece) for piece in properties.encode())
