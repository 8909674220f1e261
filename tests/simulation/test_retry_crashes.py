"""A worker dies at each of its requests in turn, while it starts a run and sees it through."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Literal

import pytest

from tests.simulation.crashes import crash_scenario
from tests.simulation.promises import Violation
from tests.simulation.scenario import Repositories, Scenario, Weather, repository_uid
from tests.simulation.simulation import Simulation, logs_in_timeline

#: When the retry is published, in seconds: run 1 has ended by then.
RETRY_AT = 20.0
#: How long the task of a command takes whose first run times out, in seconds: it is at work when the second begins.
TASK_SECONDS = 130.0
#: The requests at which a worker dies: each of the first, then some of those that renew the lease while a task runs. A
#: run takes fewer than the last, unless it goes on for ever.
REQUESTS = (*range(1, 60), *range(60, 700, 11))

JOB = Repositories(number=1, copies=True, linked=[0], backups=0)
UNLINK: dict[str, Any] = {
    "command": "unlink.v1",
    "idempotency_key": "key",
    "job": {"id": JOB.id},
    "repository": {"uid": repository_uid(0)},
}
RETRY = {"command": "retry.v1", "idempotency_key": "key", "run": 1}

First = Literal["refused", "timed_out"]


def scenario_of(first: First, workers: int) -> Scenario:
    """One command, whose first run does not succeed, and its retry, which is published twice."""
    return crash_scenario(
        workers=workers,
        jobs=[JOB],
        weather={"refused": float(first == "refused"), "stop_works": False, "stop_forgets": False},
        commands=[
            (0.0, UNLINK | {"timeout_seconds": 600 if first == "refused" else 10}),
            (RETRY_AT, RETRY),
            (RETRY_AT + 0.5, RETRY),
        ],
    )


def crash_at(request: int, first: First, workers: int) -> tuple[Simulation, Violation | None, bool]:
    """Run it, and kill each worker at its n-th request after the retry; also whether any worker came so far."""
    simulation = Simulation(request, scenario=scenario_of(first, workers))
    weather, world = simulation.weather, simulation.world
    world.after(RETRY_AT / 2, weather.calm)
    for worker in simulation.workers:
        world.after(RETRY_AT, partial(worker.die_at_request, request))
    with logs_in_timeline(tracing=False):
        result = simulation.run()
    return simulation, result.violation, len(simulation.processes) > workers


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("first", ["refused", "timed_out"])
def test_a_run_survives_a_crash_at_each_of_its_requests(
    first: First, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry would be lost, start two runs, or remove a link beside an old DELETE that is still being carried out."""
    if first == "timed_out":
        monkeypatch.setattr(Weather, "task_seconds", lambda _weather: TASK_SECONDS)
    for request in REQUESTS:
        simulation, violation, crashed = crash_at(request, first, workers)
        assert violation is None, f"request {request}: {violation}"
        story = simulation.observer.stories["key"]
        ends = [json.loads(end)["data"]["outcome"] for end in story.ended]
        assert ends == ["failed" if first == "refused" else first, "succeeded"], request
        assert story.removed == 1, request
        if not crashed:
            assert request > 1
            return
    pytest.fail(f"a run of more than {REQUESTS[-1]} requests")
