"""Deliveries from `unlink.misrouted`: the Enterprise Manager that each was for, and why it is there.

A message reaches that queue in two ways. `unlink.misrouted` is the alternate exchange of `unlink.commands`, for a
routing key without a queue. It is also the dead-letter exchange of the command queues, which dead-letter a message at
their delivery limit or when its own `expiration` has passed. The broker then writes the header `x-death`, with the
newest entry first (https://www.rabbitmq.com/docs/dlx#effects).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from contracts.commands import UNKNOWN_NAME
from worker.broker.delivery import BrokerDelivery, count_of, plain_headers, text_of, text_or_none, word_or_none
from worker.broker.topology import command_queue
from worker.settings import ConfiguredName
from worker.unlinks.ports.broker import Misrouting

if TYPE_CHECKING:
    from pika.channel import Channel
    from pika.spec import Basic, BasicProperties

#: The header that counts the seconds that a message without a queue has spent in delay queues.
MISROUTED_SECONDS_HEADER = "unlink-misrouted-seconds"

_ConfiguredName = TypeAdapter(ConfiguredName)


def misrouted_delivery(
    channel: Channel,
    method: Basic.Deliver,
    properties: BasicProperties,
    body: bytes,
    *,
    served: Container[str],
    **given: Any,
) -> BrokerDelivery:
    """A delivery from `unlink.misrouted`.

    Args:
        channel: the channel of the delivery, as pika passes it.
        method: contains the routing key, which is the Enterprise Manager's name. If the broker dead-lettered the
            message from a command queue, the name is that of the queue instead. A name that is not valid becomes
            `UNKNOWN_NAME`.
        properties: contain the broker's record of dead-lettering.
        body: the message.
        served: the names whose queues this worker consumes. For these names the count of seconds starts again, so that
            no other worker rejects a command whose queue is missing for a while.
        **given: the other arguments of `BrokerDelivery`.
    """
    headers = plain_headers(properties.headers)
    routing_key = text_of(method.routing_key or "")
    name, taken_away = routing_key, None
    death = latest_death(headers)
    queue, prefix = text_or_none(death.get("queue")) or "", command_queue("")
    if queue.startswith(prefix):
        name, taken_away = queue.removeprefix(prefix), word_or_none(death.get("reason"))
    seconds = 0 if name in served else count_of(headers.get(MISROUTED_SECONDS_HEADER), least=0)
    return BrokerDelivery(
        channel,
        method,
        properties,
        body,
        enterprise_manager=name if _is_valid(name) else UNKNOWN_NAME,
        misrouting=Misrouting(routing_key, seconds),
        taken_away=taken_away,
        **given,
    )


def latest_death(headers: Mapping[str, object]) -> Mapping[str, Any]:
    """The newest entry of the broker's record of dead-lettering; empty if there is none."""
    deaths = headers.get("x-death")
    latest = deaths[0] if isinstance(deaths, list) and deaths else None
    return latest if isinstance(latest, dict) else {}


def _is_valid(name: str) -> bool:
    try:
        _ConfiguredName.validate_python(name)
    except ValidationError:
        return False
    return True
