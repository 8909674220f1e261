"""The original sender of a message, also of a copied one.

The broker refuses a message whose `user_id` is not the user of its connection, unless that user has the tag
`impersonator` (https://www.rabbitmq.com/docs/validated-user-id). The property can therefore be trusted; a header, which
any publisher can write, cannot. A copy carries the `user_id` of its own publisher, and the verified `user_id` of the
original in a header. That header is trusted only if the copy's own `user_id` belongs to a forwarder. Forwarders are the
worker's own user, for delayed copies and dead letters, and the users that the policy or `UNLINK_FORWARDERS` names, for
replays and for what the console publishes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

#: The header of a copy: the `user_id` of the original, or a list that ends with the `user_id` of the previous copy.
SENDER_HEADER = "unlink-user-id"


def sender_of(user_id: str | None, headers: Mapping[str, object], forwarders: Collection[str]) -> str | None:
    """The user who published the original, as stated by forwarders; None if the original had no `user_id`.

    Args:
        user_id: the message's own property, verified by the broker.
        headers: the message's own, not verified.
        forwarders: the broker users whose header is trusted.
    """
    stated = _stated(headers)
    sender = user_id
    while sender in forwarders and stated:
        sender = stated.pop()
    return sender


def signed_by_worker(sender: str | None, worker: str) -> tuple[str | None, dict[str, Any]]:
    """The `user_id` and the sender header of a copy by the worker. The copy of an unsigned message has neither."""
    return (None, {}) if sender is None else (worker, {SENDER_HEADER: sender})


def signed_by_forwarder(
    user_id: str | None, headers: Mapping[str, object], forwarder: str
) -> tuple[str | None, dict[str, Any]]:
    """The `user_id` and the sender header of a copy by a tool, which does not know which users the worker trusts.

    The header lists the senders that the copied message states, and its `user_id`. The worker decides which it trusts.
    """
    if user_id is None:
        return None, {}
    return forwarder, {SENDER_HEADER: [*_stated(headers), user_id]}


def _stated(headers: Mapping[str, object]) -> list[str | None]:
    value = headers.get(SENDER_HEADER)
    stated = value if isinstance(value, list) else [] if value is None else [value]
    return [each if isinstance(each, str) else None for each in stated]
