"""Commands that no queue keeps: for a name without a queue, for one that is served only later, and poison.

Drawn apart from all else, so that the other draws of a seed stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

#: A name that no worker ever serves, and one that workers serve once they were updated.
NOBODY = "nobody"
LATE = "late"
#: A routing key that is no valid name; a command that has it in its body breaks the contract.
NO_NAME = "no.name"
#: A job whose mere look-up ends the worker.
POISON = "poison"

ASTRAY, POISONED = "astray", "poison"
#: How often either of them is among the faults of a run.
RATE = 0.15
#: As often as that the broker has a command delivered again, at most, where poison is about; and else.
LOW_LIMITS = (2, 5, 20)
NO_LIMIT = 1_000_000


@dataclass(slots=True)
class Astray:
    """What goes astray in one run.

    Attributes:
        faults: which of the two kinds.
        commands: when each is sent, with which routing key.
        late_at: from when on a worker that starts serves `LATE`; each worker is updated after that.
        delivery_limit: of the command queues.
    """

    faults: list[str] = field(default_factory=list)
    commands: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)
    late_at: float = float("inf")
    delivery_limit: int = NO_LIMIT


def draw_astray(seed: int, horizon: float) -> Astray:
    """What goes astray in the run of a seed."""
    chance = Random(f"astray {seed}")  # noqa: S311 - must be repeatable
    astray = Astray()
    if chance.random() < RATE:
        astray.faults.append(ASTRAY)
        for number in range(chance.randint(1, 3)):
            name = chance.choice((NOBODY, LATE, LATE, NO_NAME))
            command = _command(f"astray-{number}", "no such job", name)
            astray.commands += [(chance.random() * horizon / 2, name, command)] * chance.choice((1, 1, 2))
        astray.late_at = chance.random() * horizon
    if chance.random() < RATE:
        astray.faults.append(POISONED)
        astray.delivery_limit = chance.choice(LOW_LIMITS)
        astray.commands.append((chance.random() * horizon, "default", _command("poison", POISON, "default")))
    return astray


def _command(key: str, job: str, enterprise_manager: str) -> dict[str, Any]:
    return {
        "command": "unlink.v1",
        "idempotency_key": key,
        "enterprise_manager": enterprise_manager,
        "job": {"name": job},
        "repository": {"name": "repository-0"},
    }
