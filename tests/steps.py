"""The core's steps, kept for a test to look at."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.unlinks.ports.steps import Step


@dataclass(slots=True)
class RecordedSteps:
    """Implements `worker.unlinks.ports.steps.Steps`."""

    steps: list[Step] = field(default_factory=list)

    def report(self, step: Step) -> None:
        """Keep it."""
        self.steps.append(step)
