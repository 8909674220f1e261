"""Which event answers which command."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.events import Outcome, rejection_id
from worker.broker.received_event import ReceivedEvent


@dataclass(frozen=True, slots=True)
class Awaited:
    """A command whose terminal event is waited for. Only a dry run ends as `planned`.

    `after_run`: events of this run and of earlier runs do not answer the command.
    """

    key: str
    body: bytes
    dry_run: bool = False
    after_run: int = 0

    def is_answered_by(self, event: ReceivedEvent) -> bool:
        """Whether the event answers this command. A rejection must match the message's bytes: a key may be reused."""
        if event.outcome == Outcome.REJECTED:
            return event.id == rejection_id(self.body)
        if event.key != self.key or (event.outcome == Outcome.PLANNED) != self.dry_run:
            return False
        return self.dry_run or (event.run or 1) > self.after_run
