"""What one unlink costs: CPU of the worker, requests, time; and what its four requests cost with `requests` alone."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks.figures import Figure
from tests.benchmarks.parts import EM, Parts, usage_of

#: Unlinks before the measured ones: connections are open then, and code is warm.
WARM_UP = 200

#: The goals: milliseconds of CPU an unlink, over plain HTTP and over TLS; and the share of the floor's rate.
CPU_GOAL = {False: 3.0, True: 3.6}
RATE_GOAL = 0.7


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one unlink: milliseconds of CPU, and requests (of the floor not counted); and how many unlinks a second."""

    cpu: float
    rate: float
    requests: Counter[str]

    @property
    def all_requests(self) -> float:
        """All requests an unlink."""
        return sum(self.requests.values())


def floor(parts: Parts, unlinks: int, *, tls: bool) -> Cost:
    """By `requests` alone; on one thread or on four, whichever is faster."""
    runs = [(parts.floor(unlinks, threads, tls=tls)) for threads in (1, 4)]
    return max(
        (Cost(run["cpu"] / unlinks * 1000, unlinks / run["seconds"], Counter()) for run in runs),
        key=lambda cost: cost.rate,
    )


def ours(parts: Parts, unlinks: int, in_flight: int, *, tls: bool, ledger_url: str | None = None) -> Cost:
    """By one worker; its ledger is new if none is named."""
    parts.reset()
    settings = {f"{EM}MAX_IN_FLIGHT": str(in_flight), f"{EM}POLL_INTERVAL_SECONDS": "1"}
    worker = parts.start_worker(settings, tls=tls, ledger_url=ledger_url)
    parts.publish(parts.commands(WARM_UP))
    parts.until_ended(WARM_UP)
    parts.require_success(WARM_UP)
    parts.reset()
    before = usage_of(worker.pid)
    commands = parts.commands(unlinks)
    began = time.monotonic()
    parts.publish(commands)
    parts.until_ended(unlinks)
    seconds = time.monotonic() - began
    requests, _ = parts.figures()
    cpu = usage_of(worker.pid).cpu - before.cpu
    worker.stop()
    parts.require_success(unlinks)
    each = Counter({kind: count / unlinks for kind, count in requests.items()})
    return Cost(cpu / unlinks * 1000, unlinks / seconds, each)


def median(costs: list[Cost]) -> Cost:
    """The median of each figure; the requests of the last."""
    return Cost(
        statistics.median(cost.cpu for cost in costs),
        statistics.median(cost.rate for cost in costs),
        costs[-1].requests,
    )


def figures(parts: Parts, unlinks: int, in_flight: int, runs: int) -> Iterator[Figure]:
    """The floor and the worker, interleaved, over plain HTTP and over TLS; the medians."""
    for tls in (False, True):
        floors, costs = [], []
        for _ in range(runs):
            floors.append(floor(parts, unlinks // 2, tls=tls))
            costs.append(ours(parts, unlinks, in_flight, tls=tls))
        base, cost = median(floors), median(costs)
        way = f"{'TLS' if tls else 'plain HTTP'}, {in_flight} in flight"
        yield Figure(f"floor: CPU an unlink, {way}", base.cpu, "ms")
        yield Figure(f"CPU an unlink, {way}", cost.cpu, "ms", goal=CPU_GOAL[tls], of_floor=cost.cpu / base.cpu)
        yield Figure(f"floor: unlinks, {way}", base.rate, "/s")
        yield Figure(
            f"unlinks, {way}",
            cost.rate,
            "/s",
            goal=RATE_GOAL * base.rate,
            at_least=True,
            of_floor=cost.rate / base.rate,
        )
        yield Figure(f"requests an unlink, {way}", cost.all_requests, "")
