"""How much faster four workers on PostgreSQL are than one, where Enterprise Manager's time is what counts.

Run as `python -m tests.benchmarks.four_workers`. Each worker has the same limit of unlinks in flight. That limit is
small, and an edit takes long, so that neither this machine's cores nor the broker are what everybody waits for.
"""

from __future__ import annotations

from rich.console import Console

from tests.benchmarks.bench import EM, UNLINKS, Bench

WORKERS = 4
IN_FLIGHT = 25
EDIT_SECONDS = 4.0

#: Shorter than the default, so that it is the edit that an unlink waits for, and not the next look at its task.
POLL_SECONDS = 0.5


def main() -> None:
    """Print the ratio."""
    console = Console()
    with Bench() as bench:
        bench.enterprise_manager.change_behaviour(edit_seconds=EDIT_SECONDS)
        seconds = {number: _seconds(bench, number) for number in (1, WORKERS)}
    for number, took in seconds.items():
        console.print(
            f"{UNLINKS} unlinks of {EDIT_SECONDS:g} s, {IN_FLIGHT} in flight, workers: {number}: {took:.1f} s"
        )
    console.print(f"{WORKERS} workers are {seconds[1] / seconds[WORKERS]:.2f} times as fast as one", style="bold")


def _seconds(bench: Bench, workers: int) -> float:
    commands = bench.commands()
    settings = {f"{EM}MAX_IN_FLIGHT": str(IN_FLIGHT), f"{EM}POLL_INTERVAL_SECONDS": str(POLL_SECONDS)}
    running = bench.start_workers(workers, bench.new_ledger(), settings)
    seconds = bench.seconds_for(commands)
    for worker in running:
        worker.stop()
    return seconds


if __name__ == "__main__":
    main()
