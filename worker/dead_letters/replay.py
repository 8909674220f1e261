"""Replaying dead letters: decides which are published again and which stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from contracts.commands import CancelCommand, RetryCommand, UnlinkCommand
from contracts.events import RETRIED

if TYPE_CHECKING:
    from worker.broker.dead_letters import DeadLetter
    from worker.dead_letters.queue import DeadQueue, Taken
    from worker.dead_letters.selection import Selection
    from worker.ledger import Inspection, Record

#: How many messages that stay are named.
MOST_NAMED = 20


class Left(StrEnum):
    """Why a message stays in the queue."""

    SETTLED = "settled"
    KEY_REUSED = "key_reused"
    UNREADABLE = "unreadable"
    NOT_SERVED = "not_served"


#: The text for each.
MEANINGS = {
    Left.SETTLED: "already ended: not done again; discard them",
    Left.KEY_REUSED: "their key belongs to another command: they would be rejected",
    Left.UNREADABLE: "cannot be read: they would be rejected again (--force sends them nevertheless)",
    Left.NOT_SERVED: "no worker has ever served their Enterprise Manager: they would be rejected again",
}


@dataclass(slots=True)
class Report:
    """How many messages were replayed, how many stay and why, and the first of these by name."""

    replayed: int = 0
    left: Counter[Left] = field(default_factory=Counter)
    named: dict[Left, list[str]] = field(default_factory=dict)

    def leave(self, why: Left, taken: Taken, outcome: str | None) -> None:
        """One stays."""
        self.left[why] += 1
        named = self.named.setdefault(why, [])
        if len(named) < MOST_NAMED:
            name = taken.message.key or taken.message.message_id or "(no key)"
            named.append(f"{name}  {outcome}" if outcome else name)

    @property
    def all_seen_to(self) -> bool:
        """Whether no message stays that needs attention."""
        return set(self.left) <= {Left.SETTLED}


@dataclass(frozen=True, slots=True)
class Replay:
    """The work on one queue. Without a ledger nothing is known to have settled.

    After `seconds` no more messages are taken from the queue.

    A message is removed only after the broker has confirmed its publication. An interrupted replay leaves at most one
    message in both places; its idempotency key makes the copy harmless.
    """

    queue: DeadQueue
    ledger: Inspection | None
    force: bool
    progress: Callable[[Report], None] = lambda _report: None
    seconds: float | None = None

    def run(self, selection: Selection, report: Report) -> None:
        """Replay the selected messages that may be replayed. `report` is correct whenever this ends.

        Raises:
            BrokerClientError: the broker went away, or refused.
            InspectionError: the ledger went away, or refused.
        """
        with self.queue.messages(self.seconds) as messages:
            for taken in selection.among(messages):
                why, outcome = self._why_left(taken.message)
                if why is None:
                    self.queue.replay(taken.message, _retry_of(taken.message))
                    self.queue.remove(taken)
                    report.replayed += 1
                else:
                    report.leave(why, taken, outcome)
                self.progress(report)

    def _why_left(self, message: DeadLetter) -> tuple[Left | None, str | None]:
        if message.command is None and not self.force:
            return Left.UNREADABLE, message.problem
        why, outcome = self._standing(message)
        if why is None and not self.queue.is_served(message.enterprise_manager):
            return Left.NOT_SERVED, message.enterprise_manager
        return why, outcome

    def _standing(self, message: DeadLetter) -> tuple[Left | None, str | None]:
        record = self._record(message)
        command = message.command
        if record is None or command is None:
            return None, None
        if isinstance(command, UnlinkCommand):
            another = record.fingerprint != command.fingerprint
        else:
            another = record.enterprise_manager != command.enterprise_manager
        if another:
            return Left.KEY_REUSED, None
        # A command that has not ended joins its run under way; a retry of the last run starts the next one.
        if record.outcome is None or (record.outcome in RETRIED and _retried_run(message) == record.entry.run):
            return None, None
        return Left.SETTLED, record.outcome.value

    def _record(self, message: DeadLetter) -> Record | None:
        command = message.command
        if self.ledger is None or command is None:
            return None
        if isinstance(command, UnlinkCommand) and command.dry_run:
            return None  # a dry run leaves no record; the one in the ledger is the real command's
        return self.ledger.record(command.idempotency_key)


def _retried_run(message: DeadLetter) -> int | None:
    """The run that a replay retries; None if the command itself is sent again."""
    command = message.command
    if message.run is None and isinstance(command, RetryCommand):
        return command.run
    return None if isinstance(command, CancelCommand) else message.run


def _retry_of(message: DeadLetter) -> RetryCommand | None:
    """A retry of the run that was given up and settled; the command itself would only be answered with its event."""
    command = message.command
    if command is None or message.run is None or isinstance(command, CancelCommand):
        return None
    return RetryCommand(
        command="retry.v1",
        idempotency_key=command.idempotency_key,
        enterprise_manager=command.enterprise_manager,
        run=message.run,
        requested_by=command.requested_by,
        reason=command.reason,
    )
