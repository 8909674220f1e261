"""From a task's end to the arrival of its event; requests and memory with many unlinks in flight."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import pika

from tests.benchmarks.figures import Figure
from tests.benchmarks.parts import EM, Parts, resident, usage_of
from worker.broker.topology import EVENTS
from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.supervisor import wait_until

INTERVAL = 1.0

#: The goals, in seconds; requests an unlink with a thousand in flight; MiB.
P50_GOAL, P99_GOAL = 0.3, INTERVAL + 0.05
REQUESTS_GOAL = 3.3
IDLE_GOAL, FULL_GOAL = 70.0, 200.0

#: Ends at the beginning that are left out: the worker has nothing to go by yet.
UNCOUNTED = 0.2


class Arrivals:
    """Notes when each terminal event arrives, on a thread and a connection of its own. A context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.at: dict[str, float] = {}
        self._listening = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def _listen(self) -> None:
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            channel = connection.channel()
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(queue, EVENTS, "succeeded.*")
            for _, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=0.1):
                self._listening.set()
                if self._stopping.is_set():
                    return
                if body is not None:
                    now = time.monotonic()
                    event = json.loads(body)
                    self.at[event["data"]["repository"]["link_id"]] = now

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(10)


@dataclass(frozen=True, slots=True)
class Following:
    """What was seen of many unlinks. `late` are the latencies in seconds, sorted; memory is in MiB."""

    in_flight: int
    late: list[float]
    requests: float
    idle: float
    peak: float

    def quantile(self, share: float) -> float:
        """The latency that this share of the unlinks stays below."""
        return self.late[min(int(len(self.late) * share), len(self.late) - 1)]


def follow(parts: Parts, unlinks: int, in_flight: int, *, seconds: float, spread: float) -> Following:
    """Run so many unlinks whose tasks take so long, give or take the spread.

    Commands come as fast as they end: at a rate that the worker can keep up with, so that it is not the queue that an
    event waits for.
    """
    settings = {f"{EM}MAX_IN_FLIGHT": str(in_flight * 2), f"{EM}POLL_INTERVAL_SECONDS": str(INTERVAL)}
    rate = in_flight / seconds
    return _run(parts, unlinks, in_flight, settings, seconds=seconds, spread=spread, a_second=rate)


def _run(
    parts: Parts,
    unlinks: int,
    in_flight: int,
    settings: Mapping[str, str],
    *,
    seconds: float,
    spread: float,
    a_second: float,
) -> Following:
    parts.reset()
    worker = parts.start_worker(settings, tls=True)
    idle = resident(worker.pid)
    parts.reset(seconds=seconds, spread=spread)
    with Arrivals(parts.broker.url) as arrivals:
        parts.publish(parts.commands(unlinks), a_second=a_second)
        if not wait_until(lambda: len(arrivals.at) >= unlinks, seconds=900, interval=0.1):
            raise PartFailedError(f"of {unlinks} unlinks {len(arrivals.at)} succeeded")
        requests, ends = parts.figures()
        peak = usage_of(worker.pid).peak
    worker.stop()
    parts.require_success(unlinks)
    order = sorted(arrivals.at, key=lambda link: ends[link])
    counted = order[int(unlinks * UNCOUNTED) :]
    late = sorted(arrivals.at[link] - ends[link] for link in counted)
    return Following(in_flight, late, requests.total() / unlinks, idle, peak)


def burst(parts: Parts, unlinks: int) -> Following:
    """Have so many in flight at once: memory and requests are of interest, latency is that of a queue."""
    seconds = unlinks / 25
    settings = {f"{EM}MAX_IN_FLIGHT": str(unlinks), f"{EM}POLL_INTERVAL_SECONDS": str(INTERVAL)}
    return _run(parts, unlinks, unlinks, settings, seconds=seconds, spread=0, a_second=float("inf"))


def figures(runs: list[Following], most: Following) -> Iterator[Figure]:
    """The figures of runs, the fewest in flight first, and of the one with the most in flight."""
    yield Figure("memory, idle", runs[0].idle, "MiB", goal=IDLE_GOAL)
    for run in runs:
        way = f"{run.in_flight:,} in flight"
        yield Figure(f"task's end to event, p50, {way}", run.quantile(0.5), "s", goal=P50_GOAL)
        yield Figure(f"task's end to event, p99, {way}", run.quantile(0.99), "s", goal=P99_GOAL)
        goal = REQUESTS_GOAL if run.in_flight >= 1000 else None
        yield Figure(f"requests an unlink, {way}", run.requests, "", goal=goal)
        yield Figure(f"memory at most, {way}", run.peak, "MiB", goal=FULL_GOAL)
    yield Figure(f"memory at most, {most.in_flight:,} in flight", most.peak, "MiB", goal=FULL_GOAL)
    yield Figure(f"requests an unlink, {most.in_flight:,} in flight", most.requests, "")
