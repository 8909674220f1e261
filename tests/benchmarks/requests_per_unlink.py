"""How many requests Enterprise Manager sees for each unlink, with a thousand tasks of 30 s in flight at once.

Run as `python -m tests.benchmarks.requests_per_unlink`. The poll interval is the default one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.benchmarks.bench import EM, UNLINKS, Bench

if TYPE_CHECKING:
    from worker.sandbox.simulated_enterprise_manager import RecordedRequest

EDIT_SECONDS = 30.0


def main() -> None:
    """Print the counts by kind, and in all."""
    console = Console()
    with Bench() as bench:
        bench.enterprise_manager.change_behaviour(edit_seconds=EDIT_SECONDS)
        bench.start_workers(1, bench.new_ledger(), {f"{EM}MAX_IN_FLIGHT": str(UNLINKS)})
        commands = bench.commands()
        seconds = bench.seconds_for(commands)
        counts = Counter(map(_kind, bench.enterprise_manager.requests))
    table = Table("requests", "in all", "per unlink", title=f"{UNLINKS} tasks of {EDIT_SECONDS:g} s")
    for kind, count in counts.most_common():
        table.add_row(kind, str(count), f"{count / UNLINKS:.2f}")
    console.print(table)
    console.print(f"{counts.total() / UNLINKS:.2f} requests per unlink; {seconds:.0f} s in all", style="bold")


def _kind(request: RecordedRequest) -> str:
    path, _, query = request.path.lower().partition("?")
    resource = path.removeprefix("/api").strip("/").split("/")
    if request.method == "DELETE":
        return f"DELETE {resource[0] or '/'}"
    if resource[0] == "query":
        return f"GET query {query.split('&', 1)[0]}"
    if resource[-1] == "linkedbackuprepositories":
        return f"{request.method} links of a job"
    return f"{request.method} {resource[0] or '/'}{' with its entity' if 'format=entity' in query else ''}"


if __name__ == "__main__":
    main()
