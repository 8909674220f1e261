"""Retries: of a run that the ledger knows, or of one whose event has answered a command."""

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
from worker.cli.submit.submission import Outgoing


def outgoing_retry(command: RetryCommand, known_by: Mapping[str, Any]) -> Outgoing:
    """A retry; `known_by` has the names of the unlink for people. Its answer is the end of a later run."""
    body = command.model_dump_json(exclude_none=True).encode()
    name = printable(named(command.idempotency_key, known_by))
    return Outgoing(command.idempotency_key, command.enterprise_manager, body, name, after_run=command.run)


@dataclass(frozen=True, slots=True)
class RetryOfEarlier:
    """Retries what had ended without success before `since`. What ends without success from then on is not retried."""

    since: datetime
    requested_by: str | None
    reason: str | None

    def __call__(self, event: ReceivedEvent) -> Outgoing | None:
        """The retry that is published in the place of a command that this event answers; None if it is its end."""
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
