"""Who published a message, where copies of it were published since.

The broker refuses a message whose `user_id` is not the user of the connection that it came on
(https://www.rabbitmq.com/docs/validated-user-id), so that property can be relied on, and a header cannot: anybody may
write one. A copy is published by somebody else, with that one's `user_id`. It tells in a header what was verified of
the original, and the header is believed only of those whose `user_id` is known to belong to forwarders: the worker, for
its delay queues and dead letters, and whoever a policy names, for replays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: On a copy: the `user_id` of the original; or a list of them, the last one that of the copy before this one.
SENDER_HEADER = "unlink-user-id"


def sender_of(user_id: str | None, headers: Mapping[str, object], forwarders: Collection[str]) -> str | None:
    """The user who published the original, as far as forwarders vouch for it; None if it was published unsigned.

    Args:
        user_id: the message's own property, verified by the broker.
        headers: the message's own, verified by nobody.
        forwarders: the broker users whose header is believed.
    """
    told = _told(headers)
    sender = user_id
    while sender in forwarders and told:
        sender = told.pop()
    return sender


def signed_by_worker(sender: str | None, worker: str) -> tuple[str | None, dict[str, Any]]:
    """The property and the header of the worker's copy, for a sender that it knows. Unsigned stays unsigned."""
    return (None, {}) if sender is None else (worker, {SENDER_HEADER: sender})


def signed_by_forwarder(
    user_id: str | None, headers: Mapping[str, object], forwarder: str
) -> tuple[str | None, dict[str, Any]]:
    """The property and the header of a copy by somebody who cannot tell who the worker is, and so decides nothing.

    What the original carried is passed on together with its own property, for the worker to judge.
    """
    if user_id is None:
        return None, {}
    return forwarder, {SENDER_HEADER: [*_told(headers), user_id]}


def _told(headers: Mapping[str, object]) -> list[str | None]:
    value = headers.get(SENDER_HEADER)
    told = value if isinstance(value, list) else [] if value is None else [value]
    return [each if isinstance(each, str) else None for each in told]
