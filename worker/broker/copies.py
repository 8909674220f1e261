"""Properties and headers of a delayed or dead-lettered copy: what is copied of the original, and what must not be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pika.spec import BasicProperties

from worker.broker.delivery import (
    ATTEMPT_HEADER,
    RETURNS_HEADER,
    TAKEN_AWAY_HEADER,
    BrokerDelivery,
    plain_headers,
    text_or_none,
)
from worker.broker.misrouted import MISROUTED_SECONDS_HEADER
from worker.broker.senders import SENDER_HEADER, signed_by_forwarder, signed_by_worker
from worker.unlinks.ports.broker import Delivery

#: A property of AMQP 0-9-1 that is text holds at most so many bytes.
MAX_SHORT_TEXT = 255

#: The largest headers that are copied, in bytes. Headers travel in one frame, at most 128 KiB by default, and may grow
#: when they are encoded again; one byte too many would end the connection, on every try.
MAX_HEADERS = 48 * 1024

#: Says that the original's headers were left behind.
HEADERS_DROPPED = "unlink-headers-dropped"

#: What the broker writes, and reads again: with a copied `x-death`, a message is silently never delivered after its
#: next delay (before RabbitMQ 4.0.1); a count of deliveries belongs to the original.
_BROKERS_OWN = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")

#: What the worker writes when it puts a message into the dead letters.
REASON_CODE_HEADER = "unlink-reason-code"
REASON_HEADER = "unlink-reason"
FAILED_AT_HEADER = "unlink-failed-at"
QUEUE_HEADER = "unlink-queue"
#: The run that ended with the dead letter; a replay retries it.
RUN_HEADER = "unlink-run"

#: What the worker writes on a copy anew, or leaves off.
_OF_ONE_COPY = {SENDER_HEADER, RETURNS_HEADER, TAKEN_AWAY_HEADER, MISROUTED_SECONDS_HEADER, RUN_HEADER}

#: What a message that starts afresh must not bring along.
_OF_ITS_LIFE_SO_FAR = {
    ATTEMPT_HEADER,
    REASON_CODE_HEADER,
    REASON_HEADER,
    FAILED_AT_HEADER,
    QUEUE_HEADER,
    HEADERS_DROPPED,
}

#: A sender's list of further routing keys. Each delay would send yet another copy to all of them.
_SENDER_SELECTED = {"cc", "bcc"}

#: A consumer's pseudo-queue before the broker has made a name of it; no other connection may publish with it.
_DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"


def copied_properties(delivery: Delivery, extra: Mapping[str, Any], worker: str) -> BasicProperties:
    """The properties of the worker's copy, persistent, with our own headers added.

    Left behind are `expiration` (it would run out in a queue where nothing may), priority and whatever is not text as
    AMQP has it. The broker refuses another user's `user_id`, so the copy is signed by `worker`, the worker's broker
    user, and names the sender in a header.
    """
    original = delivery.properties if isinstance(delivery, BrokerDelivery) else _properties_of(delivery)
    user_id, signature = signed_by_worker(delivery.user_id, worker)
    return _copied(original, {**extra, **signature}, user_id)


def replayed_properties(original: BasicProperties, forwarder: str) -> BasicProperties:
    """The properties of a dead letter that starts afresh, published by the broker user `forwarder`."""
    headers = plain_headers(original.headers)
    user_id, signature = signed_by_forwarder(text_or_none(original.user_id), headers, forwarder)
    copy = _copied(original, {}, user_id)
    kept = {name: value for name, value in (copy.headers or {}).items() if name not in _OF_ITS_LIFE_SO_FAR}
    copy.headers = {**kept, **signature}
    return copy


def _copied(original: BasicProperties, extra: Mapping[str, Any], user_id: str | None) -> BasicProperties:
    reply_to = short_text(original.reply_to)
    return BasicProperties(
        content_type=short_text(original.content_type),
        content_encoding=short_text(original.content_encoding),
        headers={**_copied_headers(original.headers), **extra},
        delivery_mode=2,
        correlation_id=short_text(original.correlation_id),
        reply_to=None if reply_to == _DIRECT_REPLY_TO else reply_to,
        message_id=short_text(original.message_id),
        timestamp=original.timestamp,
        type=short_text(original.type),
        app_id=short_text(original.app_id),
        user_id=user_id,
    )


def _properties_of(delivery: Delivery) -> BasicProperties:
    return BasicProperties(
        content_type=delivery.content_type,
        correlation_id=delivery.correlation_id,
        reply_to=delivery.reply_to,
        headers=cast("dict[str, Any]", delivery.headers),
    )


def short_text(value: object) -> str | None:
    """Text that fits into a property; else None."""
    return value if isinstance(value, str) and len(value.encode(errors="replace")) <= MAX_SHORT_TEXT else None


def _copied_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    kept = {name: value for name, value in (headers or {}).items() if not _left_behind(name)}
    return kept if _fit(kept) else {HEADERS_DROPPED: True}


def _left_behind(name: object) -> bool:
    lower = name.lower() if isinstance(name, str) else ""
    return lower.startswith(_BROKERS_OWN) or lower in _SENDER_SELECTED | _OF_ONE_COPY


def _fit(headers: dict[str, Any]) -> bool:
    try:
        encoded = BasicProperties(headers=headers).encode()
    except Exception:  # noqa: BLE001 - if a sender's headers cannot be encoded for any reason, the message is sent without
        return False
    return sum(len(piece) for piece in encoded) <= MAX_HEADERS
