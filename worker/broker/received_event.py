"""An event as a tool receives it, or as the ledger stores it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

#: The header of an event that a worker published as the ledger had it: its run had ended before.
FROM_LEDGER_HEADER = "unlink-from-ledger"


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event from the exchange: its bytes and its parsed content.

    `from_ledger`: its header says that it was published as the ledger had it.
    """

    body: bytes
    content: dict[str, Any]
    from_ledger: bool = False

    @property
    def id(self) -> str:
        """The CloudEvent's ID."""
        return str(self.content["id"])

    @property
    def key(self) -> str | None:
        """The idempotency key of the command that it is about."""
        subject: str | None = self.content.get("subject")
        return subject

    @property
    def outcome(self) -> str:
        """The outcome, such as `succeeded`; a value of `contracts.events.Outcome`, or a later version's."""
        return str(self.content["data"]["outcome"])

    @property
    def run(self) -> int | None:
        """The run of the command; None if nothing was run, or if a version without runs stored the event."""
        run: int | None = self.data.get("run")
        return run

    @property
    def made_at(self) -> datetime:
        """When the event was created: the CloudEvent's `time`."""
        return datetime.fromisoformat(str(self.content["time"]))

    @property
    def data(self) -> dict[str, Any]:
        """The event's `data`."""
        data: dict[str, Any] = self.content["data"]
        return data


def event_in(body: bytes, headers: Mapping[str, object] | None = None) -> ReceivedEvent | None:
    """The event about a command that a message contains; None for any other message, such as one about a batch.

    It is not validated against the contract: events of a newer worker may have more fields.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("outcome"), str) or not isinstance(content.get("id"), str):
        return None
    return ReceivedEvent(body, content, bool(headers and headers.get(FROM_LEDGER_HEADER)))
