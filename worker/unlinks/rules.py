"""What the settings say to the core. Durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.unlinks.policy import Policy


@dataclass(frozen=True, slots=True)
class Pace:
    """How patiently one Enterprise Manager is followed, in seconds."""

    poll_interval: float = 2
    verify: float = 60
    settling: float = 120


@dataclass(frozen=True, slots=True)
class Rules:
    """How long a delivery is held, how often an attempt may fail, how each Enterprise Manager is followed, who may.

    Without a policy everybody may do everything.
    """

    hold_seconds: float = 1500
    max_attempts: int = 10
    paces: Mapping[str, Pace] = field(default_factory=dict)
    policy: Policy | None = None
