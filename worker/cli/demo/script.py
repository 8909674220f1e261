"""What a step of the demo uses: publishing commands, receiving events, and the simulated Enterprise Manager's state."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from worker.broker.client import BrokerClient
from worker.broker.received_event import ReceivedEvent
from worker.cli.output.event_text import explanation
from worker.sandbox.processes.supervisor import wait_until

if TYPE_CHECKING:
    from worker.sandbox.environment import SandboxEnvironment
    from worker.sandbox.processes.worker_process import WorkerProcess
    from worker.sandbox.simulated_enterprise_manager import SimulatedEnterpriseManager

#: How long a step waits for an expected event or state, in seconds.
TIMEOUT_SECONDS = 90.0
#: How long it waits for events that must not come, in seconds.
SILENCE = 0.7


class StepError(Exception):
    """A step did not end as expected."""


class DemoScript:
    """The sandbox as a step sees it. `report` prints a line as it happens."""

    def __init__(self, sandbox: SandboxEnvironment, client: BrokerClient, report: Callable[[str], None]) -> None:
        self._sandbox = sandbox
        self._client = client
        self.report = report
        self.worker: WorkerProcess = sandbox.start_worker()
        client.listen()

    @property
    def enterprise_manager(self) -> SimulatedEnterpriseManager:
        """The simulated Enterprise Manager."""
        return self._sandbox.enterprise_manager

    def until_acknowledged(self) -> None:
        """Wait until the worker has acknowledged its deliveries: an earlier repeat gets no event of its own.

        Raises:
            StepError: a delivery was not acknowledged in time.
        """
        if not wait_until(lambda: self.worker.unacknowledged() == 0, seconds=TIMEOUT_SECONDS, interval=0.02):
            raise StepError(f"a command was not acknowledged within {TIMEOUT_SECONDS:g} s")

    def replace_worker(self) -> None:
        """Start a second worker in place of the first."""
        self.worker = self._sandbox.start_worker()

    def send(self, command: dict[str, Any]) -> None:
        """Publish a command, or any other message."""
        self._client.publish(json.dumps(command).encode(), "default")

    def events_until_the_end(self, key: str | None) -> list[ReceivedEvent]:
        """Print the events about this key up to the terminal one, and return them."""
        events = [self.next_event(key)]
        while events[-1].outcome == "submitted":
            events.append(self.next_event(key))
        return events

    def next_event(self, key: str | None) -> ReceivedEvent:
        """Print the next event about this key, and return it."""
        over = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < over:
            event = self._client.next_event(seconds=0.5)
            if event is not None and event.key == key:
                self.report(f"{event.outcome}: {explanation(event)}")
                return event
        raise StepError(f"no end within {TIMEOUT_SECONDS:g} s; the worker's log ends:\n{self.worker.log()[-1500:]}")

    def expect(self, what: str, *, seen: object, wanted: object) -> None:
        """Fail the step unless a value is as expected."""
        if seen != wanted:
            raise StepError(f"{what}: {seen!r}, where it should be {wanted!r}")

    def expect_deletes(self, link_id: str, wanted: int) -> None:
        """Count the DELETEs of this link that reached Enterprise Manager."""
        self.expect("DELETEs of the link", seen=self.enterprise_manager.deletes_of(link_id), wanted=wanted)

    def expect_dead_letters(self, wanted: int) -> None:
        """Check how many dead letters there are. The last one is written after the event of its rejection."""
        wait_until(lambda: self.dead_letters() == wanted, seconds=TIMEOUT_SECONDS)
        self.expect("dead letters", seen=self.dead_letters(), wanted=wanted)

    def expect_silence(self) -> None:
        """Check that no further event comes."""
        event = self._client.next_event(seconds=SILENCE)
        if event is not None:
            raise StepError(f"one event too many: {event.outcome} of {event.key}")

    def waiting_commands(self) -> int:
        """How many commands are ready on the queue, by the broker's count."""
        return self._client.count("unlink.commands.default")

    def dead_letters(self) -> int:
        """How many messages are in `unlink.dead`."""
        return self._client.count("unlink.dead")
