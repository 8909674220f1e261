"""What a strike is, and what it can reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.chaos.deployment import Deployment
from tests.chaos.outsiders import Observer, Publisher


@dataclass(frozen=True, slots=True)
class Target:
    """What strikes act on: the deployment, the publisher of commands and the observer of events."""

    deployment: Deployment
    publisher: Publisher
    observer: Observer


@dataclass(frozen=True, slots=True)
class Strike:
    """Something that goes wrong, and is repaired before `strike` returns; `vital` if every trial must have it."""

    name: str
    strike: Callable[[Target, Random], None]
    vital: bool = False
