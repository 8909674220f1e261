"""Scenarios in which workers crash at chosen requests, and nothing else is drawn."""

from __future__ import annotations

from functools import partial

from tests.simulation.scenario import Scenario
from worker.unlinks.rules import Pace, Rules

#: A scenario of crashes alone. Called with `workers`, `jobs`, `weather` and `commands`, and perhaps a `batch`.
crash_scenario = partial(
    Scenario,
    seed=0,
    faults=frozenset({"crashes"}),
    prefetch=20,
    lease_seconds=15,
    rules=Rules(hold_seconds=1500, max_attempts=10, paces={"default": Pace(poll_interval=1, settling=120)}),
    same_names=False,
    horizon=1000,
    repositories=1,
)
