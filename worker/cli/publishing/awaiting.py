"""Waiting for the terminal events of published commands: which event answers which command, and the exit status."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contracts.events import Outcome
from worker.broker.awaited import Awaited
from worker.broker.received_event import ReceivedEvent

if TYPE_CHECKING:
    from worker.broker.client import BrokerClient
    from worker.cli.output.stalls import Stalls

#: The exit status for each terminal outcome.
EXIT_STATUS = {
    Outcome.SUCCEEDED: 0,
    Outcome.PLANNED: 0,
    Outcome.FAILED: 1,
    Outcome.REJECTED: 2,
    Outcome.TIMED_OUT: 3,
    Outcome.CANCELLED: 4,
}

#: The exit status of a dry run whose real command would be refused.
WOULD_BE_REFUSED = 5

#: The exit status of several commands is the first of these that occurred.
_WORST_FIRST = (2, 1, 3, 4, WOULD_BE_REFUSED)


@dataclass(slots=True)
class Following:
    """The commands that have not ended, and the terminal events of the others, by `Awaited.identity`."""

    awaited: Iterable[Awaited]
    open: dict[tuple[str, bool], Awaited] = field(init=False)
    ended: dict[tuple[str, bool], ReceivedEvent] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.open = {each.identity: each for each in self.awaited}

    def wait_instead(self, awaited: Awaited) -> None:
        """Wait for another command about the same key."""
        self.ended.pop(awaited.identity, None)
        self.open[awaited.identity] = awaited

    def note(self, event: ReceivedEvent) -> bool:
        """Record an event; return whether it answers one of these commands."""
        if event.outcome == Outcome.REJECTED:
            possible: Iterable[Awaited] = self.open.values()
        else:
            identity = (event.key or "", event.outcome == Outcome.PLANNED)
            possible = [self.open[identity]] if identity in self.open else []
        answered = next((each for each in possible if each.is_answered_by(event)), None)
        if answered is None or event.known_outcome is None:
            return False
        if event.known_outcome.terminal:
            del self.open[answered.identity]
            self.ended[answered.identity] = event
        return True

    def until_ended(
        self, client: BrokerClient, seconds: float | None, report: Callable[[ReceivedEvent], None], stalls: Stalls
    ) -> None:
        """Receive events until all commands have ended or `seconds` have passed. Report each, and why none arrives."""
        over = None if seconds is None else time.monotonic() + seconds
        while self.open and (over is None or time.monotonic() < over):
            event = client.next_event(seconds=0.5)
            concerned = event is not None and self.note(event)
            if event is not None and concerned:
                report(event)
            stalls.look(quiet=not concerned)

    @property
    def exit_status(self) -> int:
        """0 if all ended well; else that of the worst end. A command that has not ended counts as `timed_out`."""
        statuses = {exit_status_of(Outcome(event.outcome), event.data) for event in self.ended.values()}
        if self.open:
            statuses.add(EXIT_STATUS[Outcome.TIMED_OUT])
        return worst_of(statuses)


def worst_of(statuses: Collection[int]) -> int:
    """The exit status of several commands, from those of each."""
    return next((status for status in _WORST_FIRST if status in statuses), max(statuses, default=0))


def exit_status_of(outcome: Outcome, data: Mapping[str, Any]) -> int:
    """The exit status for one terminal event."""
    refused = outcome is Outcome.PLANNED and data.get("reason") is not None
    return WOULD_BE_REFUSED if refused else EXIT_STATUS[outcome]
