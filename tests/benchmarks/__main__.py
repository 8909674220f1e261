"""`python -m tests.benchmarks`: measure, print one table, write `build/bench.html`, say on what machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from tests.benchmarks import cost, counting, latency, scale
from tests.benchmarks.figures import Figure, machine, table_of
from tests.benchmarks.latency import Following
from tests.benchmarks.parts import Parts
from tests.benchmarks.report import Plot, write

REPORT = Path("build/bench.html")

#: Unlinks in flight for which rate and memory are measured.
IN_FLIGHT = (1, 10, 50, 200, 1000)


def main() -> None:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure the worker.")
    parser.add_argument("--quick", action="store_true", help="cost alone, one short run: about a minute")
    options = parser.parse_args()
    on = machine()
    plots: list[Plot] = []
    with Parts() as parts:
        figures = list(counting.figures(counting.count(parts)))
        if options.quick:
            figures += cost.figures(parts, unlinks=600, in_flight=200, runs=1)
        else:
            figures += cost.figures(parts, unlinks=2000, in_flight=200, runs=3)
            figures += _more(parts, plots)
    # Where it is no terminal, rich takes 80 columns for granted.
    console = Console()
    (console if console.is_terminal else Console(width=110)).print(table_of(figures, on))
    if plots:
        write(REPORT, on, figures, plots)
        console.print(f"plots: {REPORT}")


def _more(parts: Parts, plots: list[Plot]) -> list[Figure]:
    """Latency, requests and memory; and plots of them, and of the rate."""
    alone = latency.follow(parts, 25, 1, seconds=2, spread=0)
    many = latency.follow(parts, 2000, 1000, seconds=40, spread=0.5)
    burst = latency.burst(parts, 10_000)
    costs = {number: cost.ours(parts, min(20 * number, 1500), number, tls=False) for number in IN_FLIGHT}
    plots += [
        Plot("Rate", "in flight", "unlinks/s", {"plain HTTP": [(n, each.rate) for n, each in costs.items()]}),
        Plot(
            "Requests",
            "in flight",
            "requests an unlink",
            {"tasks that end at once": [(n, each.all_requests) for n, each in costs.items()]},
        ),
        Plot("Memory", "in flight", "MiB", {"most": [(each.in_flight, each.peak) for each in (alone, many, burst)]}),
        Plot("From a task's end to its event", "seconds", "share", {"1": _shares(alone), "1,000": _shares(many)}),
    ]
    figures = list(latency.figures([alone, many], burst))
    return [*figures, *scale.workers(parts, 1500), *scale.enterprise_managers(parts)]


def _shares(run: Following) -> list[tuple[float, float]]:
    return [(late, (number + 1) / len(run.late)) for number, late in enumerate(run.late)]


if __name__ == "__main__":
    main()
