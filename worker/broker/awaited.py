"""Which event answers which command."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.events import Outcome, rejection_id
from worker.broker.received_event import ReceivedEvent


@dataclass(frozen=True, slots=True)
class Awaited:
    """A command whose end is waited for. A dry run ends as `planned`, and anything else does not.

    `after_run`: the end of this run, or of an earlier one, is not what is waited for.
    """

    key: str
    body: bytes
    dry_run: bool = False
    after_run: int = 0

    def is_answered_by(self, event: ReceivedEvent) -> bool:
        """Whether the event is about this command. A rejection must be of this very message: a key may be reused."""
        if event.outcome == Outcome.REJECTED:
            return event.id == rejection_id(self.body)
        if event.key != self.key or (event.outcome == Outcome.PLANNED) != self.dry_run:
            return False
        return self.dry_run or (event.run or 1) > self.after_run
