"""How many requests Enterprise Manager sees for each unlink, with a thousand tasks of 30 s in flight at once.

Run as `python -m tests.benchmarks.requests_per_unlink`. The poll interval is the default one.
"""

from __future__ import annotations

import sys
from collections import Counter

from rich.console import Console
from rich.table import Table

from tests.benchmarks.bench import EM, UNLINKS, Bench
from worker.sandbox.simulated_enterprise_manager import RecordedRequest

EDIT_SECONDS = 30.0

#: What Enterprise Manager should see of each unlink at most: the DELETE and the following of its task; and all in all.
MOST_TO_FOLLOW = 3
MOST_IN_ALL = 5

_FOLLOWING = ("DELETE", "GET query type=task", "GET tasks")


def main() -> None:
    """Print the counts by kind, and in all; the exit status is 1 if they are too many."""
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
    following = sum(count for kind, count in counts.items() if kind.startswith(_FOLLOWING)) / UNLINKS
    everything = counts.total() / UNLINKS
    console.print(
        f"{following:.2f} requests per unlink to send and to follow it (at most {MOST_TO_FOLLOW}), {everything:.2f} "
        f"with logon, looks and verification (at most {MOST_IN_ALL}); {seconds:.0f} s in all",
        style="bold",
    )
    sys.exit(following > MOST_TO_FOLLOW or everything > MOST_IN_ALL)


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
