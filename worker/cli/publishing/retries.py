"""Commands that retry a run: one that is in the ledger, or one whose event has answered a command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from contracts.commands import RetryCommand
from contracts.events import RETRIED
from worker.broker.received_event import ReceivedEvent
from worker.cli.output.naming import named
from worker.cli.output.terminal import printable
from worker.cli.publishing.drafts import Draft
from worker.cli.publishing.submission import Outgoing


def outgoing_retry(
    command: RetryCommand, known_by: Mapping[str, Any], stored_start: datetime | None = None
) -> Outgoing:
    """A retry to publish; the end of a later run answers it.

    `known_by` has the names of the unlink for people, `stored_start` is the `not_before` of the stored command.
    """
    body = command.model_dump_json(exclude_none=True).encode()
    name = printable(named(command.idempotency_key, known_by))
    return Outgoing(
        command.idempotency_key,
        command.enterprise_manager,
        body,
        name,
        after_run=command.run,
        not_before=command.not_before or _kept(stored_start, command.not_after),
    )


def _kept(stored_start: datetime | None, not_after: datetime | None) -> datetime | None:
    """The stored time, if the retry's own deadline does not replace it (`contracts.reading.to_run_again`)."""
    return stored_start if stored_start is None or not_after is None or stored_start < not_after else None


class RetryOfEarlier:
    """Retries the runs that had ended without success before: a worker has answered from its ledger.

    A key is retried once at most.

    Args:
        drafts: the commands that are published. A retry has the requester, the reason and the times of its command.
    """

    def __init__(self, drafts: Iterable[Draft]) -> None:
        self._not_retried = {each.command.idempotency_key: each.command for each in drafts if not each.command.dry_run}

    def __call__(self, event: ReceivedEvent) -> Outgoing | None:
        """The retry to publish after an event that answers a command; None if the event is the end of the command."""
        if event.outcome not in RETRIED or not event.from_ledger or event.key not in self._not_retried:
            return None
        asked = self._not_retried.pop(event.key)
        command = RetryCommand(
            command="retry.v1",
            idempotency_key=event.key,
            enterprise_manager=asked.enterprise_manager,
            run=event.run or 1,
            not_before=asked.not_before,
            not_after=asked.not_after,
            requested_by=asked.requested_by,
            reason=asked.reason,
        )
        return outgoing_retry(command, event.data)
