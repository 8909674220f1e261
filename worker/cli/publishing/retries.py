"""Commands that retry a run: one that is in the ledger, or one whose event has answered a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from contracts.commands import RetryCommand
from contracts.events import RETRIED
from worker.broker.received_event import ReceivedEvent
from worker.cli.output.naming import named
from worker.cli.output.terminal import printable
from worker.cli.publishing.submission import Outgoing


def outgoing_retry(command: RetryCommand, known_by: Mapping[str, Any]) -> Outgoing:
    """A retry to publish; the end of a later run answers it. `known_by` has the names of the unlink for people."""
    body = command.model_dump_json(exclude_none=True).encode()
    name = printable(named(command.idempotency_key, known_by))
    return Outgoing(command.idempotency_key, command.enterprise_manager, body, name, after_run=command.run)


@dataclass(frozen=True, slots=True)
class RetryOfEarlier:
    """Retries runs that ended without success before `since`. Runs that end from then on are not retried."""

    since: datetime
    requested_by: str | None
    reason: str | None

    def __call__(self, event: ReceivedEvent) -> Outgoing | None:
        """The retry to publish after an event that answers a command; None if the event is the end of the command."""
        if event.outcome not in RETRIED or event.made_at >= self.since or event.key is None:
            return None
        command = RetryCommand(
            command="retry.v1",
            idempotency_key=event.key,
            enterprise_manager=event.data["enterprise_manager"],
            run=event.run or 1,
            requested_by=self.requested_by,
            reason=self.reason,
        )
        return outgoing_retry(command, event.data)
