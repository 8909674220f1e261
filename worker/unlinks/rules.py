"""The settings of the core. Durations are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.unlinks.policy import Policy


@dataclass(frozen=True, slots=True)
class Pace:
    """The intervals and limits for one Enterprise Manager, in seconds."""

    poll_interval: float = 2
    verify: float = 60
    settling: float = 120


@dataclass(frozen=True, slots=True)
class Rules:
    """The hold, the number of attempts, the pace of each Enterprise Manager, and the policy.

    Without a policy every sender may send every command.
    """

    hold_seconds: float = 1500
    max_attempts: int = 10
    paces: Mapping[str, Pace] = field(default_factory=dict)
    policy: Policy | None = None
