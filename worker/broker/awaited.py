"""Which event answers which command."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.events import Outcome, rejection_id
from worker.broker.received_event import ReceivedEvent


@dataclass(frozen=True, slots=True)
class Awaited:
    """A command whose terminal event is waited for. Only a dry run ends as `planned`.

    `after_run`: events of earlier runs do not answer the command, and events of this run only if it succeeded: it is
    then not run again, and its event is the answer.
    """

    key: str
    body: bytes
    dry_run: bool = False
    after_run: int = 0

    @property
    def identity(self) -> tuple[str, bool]:
        """What tells it from the others that are waited for: a dry run may have the key of a real command."""
        return self.key, self.dry_run

    def is_answered_by(self, event: ReceivedEvent) -> bool:
        """Whether the event answers this command. A rejection must match the message's bytes: a key may be reused."""
        if event.outcome == Outcome.REJECTED:
            return event.id == rejection_id(self.body)
        if event.key != self.key or (event.outcome == Outcome.PLANNED) != self.dry_run:
            return False
        run = event.run or 1
        return self.dry_run or run > self.after_run or (run == self.after_run and event.outcome == Outcome.SUCCEEDED)
