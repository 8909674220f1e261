"""A message in `unlink.dead`: the headers in which the worker says why it is there, and what can be read of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from contracts.commands import Command
from contracts.reading import UnreadableMessageError, read_message
from worker.broker.delivery import plain_headers, text_or_none
from worker.broker.misrouted import latest_death
from worker.broker.topology import MISROUTED, command_queue
from worker.broker.written_time import read_moment

if TYPE_CHECKING:
    from pika.spec import BasicProperties

    from contracts.events import Reason
    from worker.unlinks.ports.broker import Delivery

#: Headers that the worker writes on a dead letter.
REASON_CODE_HEADER = "unlink-reason-code"
REASON_HEADER = "unlink-reason"
FAILED_AT_HEADER = "unlink-failed-at"
QUEUE_HEADER = "unlink-queue"
REASON_HEADERS = (REASON_CODE_HEADER, REASON_HEADER, FAILED_AT_HEADER, QUEUE_HEADER)
#: The run that ended with the dead letter; a replay retries it.
RUN_HEADER = "unlink-run"

#: The longest description of a reason, in characters.
MAX_REASON = 1000

#: The reason code of a message that neither a worker nor the broker dead-lettered. The broker dead-letters messages
#: from `unlink.misrouted`, with the reason `delivery_limit` (the limit of that queue is exceeded) or `expired` (the
#: message's own `expiration` has passed); see https://www.rabbitmq.com/docs/dlx#effects.
UNKNOWN_REASON = "unknown"

_LONGEST_CODE = 40
_COMMAND_QUEUE = command_queue("")


def headers_of_reason(delivery: Delivery, reason: Reason, run: int | None, at: datetime) -> dict[str, Any]:
    """The headers of a delivery's dead letter: the reason, when and from which queue, and the run that ends with it."""
    return {
        REASON_CODE_HEADER: reason.code.value,
        REASON_HEADER: reason.message[:MAX_REASON],
        FAILED_AT_HEADER: at.isoformat(),
        QUEUE_HEADER: command_queue(delivery.enterprise_manager) if delivery.misrouting is None else MISROUTED,
        **({} if run is None else {RUN_HEADER: run}),
    }


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter. Programs other than the worker may have written any part of it, headers included.

    `routing_key` is the routing key with which the message was published to `unlink.dead`.
    """

    body: bytes
    properties: BasicProperties
    routing_key: str

    @cached_property
    def headers(self) -> Mapping[str, object]:
        """The headers, in plain Python types."""
        return plain_headers(self.properties.headers)

    @cached_property
    def command(self) -> Command | None:
        """The command that it holds; None if it cannot be read as one."""
        return self._reading if not isinstance(self._reading, UnreadableMessageError) else None

    @property
    def problem(self) -> str | None:
        """Why it cannot be read as a command; None if it can."""
        return self._reading.problem if isinstance(self._reading, UnreadableMessageError) else None

    @property
    def key(self) -> str | None:
        """The idempotency key, if it can be read."""
        known = self._reading.partial if isinstance(self._reading, UnreadableMessageError) else self._reading
        return known.idempotency_key

    @cached_property
    def content(self) -> dict[str, Any]:
        """The command's fields; empty if it cannot be read as a command."""
        return {} if self.command is None else self.command.model_dump(mode="json")

    @property
    def message_id(self) -> str | None:
        """The AMQP property of that name."""
        return text_or_none(self.properties.message_id)

    @property
    def enterprise_manager(self) -> str:
        """The Enterprise Manager that the command names; if it cannot be read, the one that its queue is named after.

        If it was in no command queue either, its routing key.
        """
        if self.command is not None:
            return self.command.enterprise_manager
        queue = text_or_none(self.headers.get(QUEUE_HEADER)) or text_or_none(self._death.get("queue")) or ""
        return queue.removeprefix(_COMMAND_QUEUE) if queue.startswith(_COMMAND_QUEUE) else self.routing_key

    @property
    def reason_code(self) -> str:
        """The worker's reason code; without it, the reason in the broker's `x-death`; without both, `unknown`."""
        code = self.headers.get(REASON_CODE_HEADER) or self._death.get("reason")
        return code[:_LONGEST_CODE] if isinstance(code, str) else UNKNOWN_REASON

    @property
    def reason(self) -> str | None:
        """The worker's description of the reason; None if the worker did not dead-letter the message."""
        return text_or_none(self.headers.get(REASON_HEADER))

    @property
    def run(self) -> int | None:
        """The run of the key that the worker recorded as given up with this message; None if it recorded none."""
        run = self.headers.get(RUN_HEADER)
        return run if isinstance(run, int) and not isinstance(run, bool) and run > 0 else None

    @property
    def since(self) -> datetime | None:
        """When it was dead-lettered; if that is not known, when it was published; None if neither is known."""
        return read_moment(self.headers.get(FAILED_AT_HEADER) or self._death.get("time") or self.properties.timestamp)

    @cached_property
    def _reading(self) -> Command | UnreadableMessageError:
        try:
            return read_message(self.body, text_or_none(self.properties.content_type))
        except UnreadableMessageError as error:
            return error

    @property
    def _death(self) -> Mapping[str, Any]:
        """The latest entry of the header `x-death`; empty if the broker did not dead-letter the message."""
        return latest_death(self.headers)
