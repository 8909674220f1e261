"""A worker dies at each of its requests in turn (to ledger, broker, Enterprise Manager), and its batch ends."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.simulation.batches import BATCH_ID, DrawnBatch
from tests.simulation.crashes import crash_scenario
from tests.simulation.promises import Violation
from tests.simulation.scenario import Repositories, Scenario, repository_uid
from tests.simulation.simulation import Simulation, logs_in_timeline

#: The requests at which a worker dies: each of the first. The batch has ended before the last.
REQUESTS = range(1, 200)

JOBS = [Repositories(number=number, copies=True, linked=[0], backups=0) for number in (1, 2)]


def command(key: str, job: Repositories) -> dict[str, Any]:
    """A member of the batch."""
    return {
        "command": "unlink.v1",
        "idempotency_key": key,
        "job": {"id": job.id},
        "repository": {"uid": repository_uid(0)},
        "batch": {"id": BATCH_ID, "size": 3},
    }


def scenario_of(workers: int) -> Scenario:
    """A batch of two links and a command that is rejected; one member is sent twice."""
    misspelt = {**command("misspelt", JOBS[0]), "jop": {}}
    return crash_scenario(
        workers=workers,
        jobs=JOBS,
        weather={},
        commands=[
            (1.0, command("first", JOBS[0])),
            (1.1, misspelt),
            (1.2, command("second", JOBS[1])),
            (1.3, command("first", JOBS[0])),
        ],
        batch=DrawnBatch(frozenset({"first", "second", "misspelt"}), 3),
    )


def crash_at(request: int, workers: int) -> tuple[Simulation, Violation | None, bool]:
    """Run it, and kill each worker at its n-th request; also whether any worker came so far."""
    simulation = Simulation(request, scenario=scenario_of(workers))
    for worker in simulation.workers:
        simulation.world.after(0.5, partial(worker.die_at_request, request))
    with logs_in_timeline(tracing=False):
        result = simulation.run()
    return simulation, result.violation, len(simulation.processes) > workers


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_survives_a_crash_at_each_request_of_its_members(workers: int) -> None:
    """A batch would never be reported ended, be reported with a wrong end, or too early."""
    for request in REQUESTS:
        simulation, violation, crashed = crash_at(request, workers)
        assert violation is None, f"request {request}: {violation}"
        assert simulation.observer.situations["batch ended"] > 0, request
        assert [simulation.observer.stories[key].removed for key in ("first", "second")] == [1, 1], request
        if not crashed:
            assert request > 10
            return
    pytest.fail(f"members of more than {REQUESTS[-1]} requests")
