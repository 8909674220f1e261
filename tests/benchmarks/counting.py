"""What an unlink costs, counted: calls of Python functions, statements of the ledger, requests. Not timed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks.figures import Figure
from tests.benchmarks.parts import EM, Parts

#: Two runs of so many unlinks: the difference of the counts is that of the unlinks alone, without start and stop.
RUNS = (100, 300)

#: What was counted when this was last set. More than a fifth above it fails the check: see `test_cost`.
CALLS, STATEMENTS, REQUESTS = 4400.0, 6.3, 3.1
TOLERANCE = 1.2

_STATEMENT = "Connection._execute_context"


@dataclass(frozen=True, slots=True)
class Counted:
    """Of one unlink. `by_function` has the calls of each function."""

    calls: float
    statements: float
    requests: float
    by_function: Counter[str]


def count(parts: Parts) -> Counted:
    """Run unlinks in a worker that counts."""
    runs, requests = [], []
    for unlinks in RUNS:
        file = parts.supervisor.directory / f"calls-{unlinks}.json"
        parts.reset()
        program = ("-m", "tests.benchmarks.counted_worker", str(file))
        settings = {f"{EM}MAX_IN_FLIGHT": "200", f"{EM}POLL_INTERVAL_SECONDS": "1"}
        worker = parts.start_worker(settings, tls=False, program=program)
        parts.publish(parts.commands(unlinks))
        parts.until_ended(unlinks)
        worker.stop()
        parts.require_success(unlinks)
        runs.append(Counter(json.loads(file.read_text())))
        requests.append(parts.figures()[0].total())
    few, many = RUNS
    each = Counter({name: (calls - runs[0][name]) / (many - few) for name, calls in runs[1].items()})
    statements = sum(calls for name, calls in each.items() if name.endswith(_STATEMENT))
    return Counted(each.total(), statements, (requests[1] - requests[0]) / (many - few), each)


def figures(counted: Counted) -> Iterator[Figure]:
    """As figures, each with the most that the check allows."""
    yield Figure("calls of Python functions an unlink", counted.calls, "", goal=CALLS * TOLERANCE)
    yield Figure("statements an unlink", counted.statements, "", goal=STATEMENTS * TOLERANCE)
    yield Figure("requests an unlink, counted", counted.requests, "", goal=REQUESTS * TOLERANCE)
