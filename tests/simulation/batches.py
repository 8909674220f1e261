"""The batch of a run: which of its commands belong together, and when their event may, and must, be published.

Drawn apart from all else, so that the other draws of a seed stay as they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from contracts.batches import batch_ended_id
from worker.unlinks.ports.ledger import MemberEnd, NewMember

if TYPE_CHECKING:
    from tests.simulation.promises import Observer
    from tests.simulation.scenario import Scenario

BATCH_ID = "batch"
#: How often a run has a batch, how often that was never sent whole, and how often it has a command that breaks the
#: contract.
RATE = 0.4
NEVER_WHOLE = 0.15
WITH_A_REJECTION = 0.3
#: How often a key joins only with a repeat, after it has ended.
LATE = 0.5


@dataclass(frozen=True, slots=True)
class DrawnBatch:
    """The keys of a batch, and its size: larger if one of its commands is never sent."""

    keys: frozenset[str]
    size: int


def draw_batch(seed: int, scenario: Scenario) -> None:
    """Give some commands of a seed a batch."""
    chance = Random(f"batch {seed}")  # noqa: S311 - must be repeatable
    commands = [command for _, command in scenario.commands if isinstance(command, dict)]
    keys = sorted({command["idempotency_key"] for command in commands if _may_belong(command)})
    if not keys or chance.random() >= RATE:
        return
    chosen = chance.sample(keys, chance.randint(1, len(keys)))
    if chance.random() < WITH_A_REJECTION:
        chosen.append("misspelt")
        misspelt = {"command": "unlink.v1", "idempotency_key": "misspelt", "jop": {"name": "job-1"}}
        scenario.commands.append((chance.random() * scenario.horizon, misspelt))
    size = len(chosen) + (chance.random() < NEVER_WHOLE)
    batch = {"id": BATCH_ID, "size": size}

    def named(command: dict[str, Any] | bytes) -> dict[str, Any] | bytes:
        if not isinstance(command, dict) or command["command"] != "unlink.v1":
            return command
        return command | {"batch": batch} if command["idempotency_key"] in chosen else command

    repeated = {each["idempotency_key"] for each in scenario.late if isinstance(each, dict) and _may_belong(each)}
    of_two_contents = {
        each["idempotency_key"]
        for each in commands
        for other in commands
        if each["idempotency_key"] == other["idempotency_key"] and each.get("if_absent") != other.get("if_absent")
    }
    joins_late = {key for key in sorted((repeated & set(chosen)) - of_two_contents) if chance.random() < LATE}
    scenario.commands = [
        (at, command if isinstance(command, dict) and command["idempotency_key"] in joins_late else named(command))
        for at, command in scenario.commands
    ]
    scenario.late = [named(command) for command in scenario.late]
    scenario.batch = DrawnBatch(frozenset(chosen), size)


def _may_belong(command: dict[str, Any]) -> bool:
    """Whether it comes to an end of its own in the ledger: one of another Enterprise Manager would be another's."""
    return command["command"] == "unlink.v1" and not command.get("dry_run") and "enterprise_manager" not in command


class BatchObserver:
    """Keeps its own account of the batch: of which ends it consists, at each time at which all have ended."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.drawn: DrawnBatch | None = None
        self._rejections: dict[str, str] = {}
        #: The IDs that the batch's event has had so far.
        self._right: set[str] = set()

    def rejected(self, member: NewMember, end: MemberEnd) -> None:
        """A rejection was counted."""
        self._rejections[member.key] = end.event_id
        self.look()

    def look(self) -> None:
        """Something has ended."""
        if (present := self._present()) is not None:
            self._right.add(present)

    def _present(self) -> str | None:
        """The ID of the event that is right now; None if the batch has not ended."""
        drawn = self.drawn
        if drawn is None or drawn.size != len(drawn.keys):
            return None
        ends = [self._end_of(key) for key in drawn.keys]
        return None if None in ends else batch_ended_id("default", None, BATCH_ID, [end for end in ends if end])

    def _end_of(self, key: str) -> str | None:
        story = self._observer.stories.get(key)
        if story is None:
            return self._rejections.get(key)
        return None if story.settled is None else str(json.loads(story.settled)["id"])

    def published(self, event: dict[str, Any]) -> None:
        """A worker wants the event of a batch published."""
        self._observer.situations["batch ended"] += 1
        if not self._observer.given_up and event["id"] not in self._right:
            self._observer.broken("3 nothing is claimed that is not so", "a batch was said to have ended that had not")

    def check_end(self, published: dict[str, set[bytes]]) -> None:
        """It is over: the batch has ended, if all of it was sent."""
        present = self._present()
        if present is None or self._observer.given_up:
            return
        if len(published.get(present, ())) != 1:
            what = f"a batch has ended, and its event was published in {len(published.get(present, ()))} versions"
            self._observer.broken("1 nothing is lost", what)
