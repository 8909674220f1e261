"""How long it takes the other workers to finish what a worker had in flight that is killed.

Run as `python -m tests.benchmarks.killed_worker`. A thousand tasks run when it dies. They go on at the backup server,
so that what is left to the others is to wait for the lease, and to see by the links what became of each.
"""

from __future__ import annotations

import time

from rich.console import Console

from tests.benchmarks.bench import EM, UNLINKS, Bench

OTHERS = 3
LEASE_SECONDS = 30.0
SETTLING_SECONDS = 30.0
EDIT_SECONDS = 20.0


def main() -> None:
    """Print how long it took, and as a share of lease and settling time together."""
    console = Console()
    settings = {
        f"{EM}MAX_IN_FLIGHT": str(UNLINKS),
        f"{EM}SETTLING_SECONDS": f"{SETTLING_SECONDS:g}",
        "UNLINK_LEDGER__LEASE_SECONDS": f"{LEASE_SECONDS:g}",
    }
    with Bench() as bench:
        em, ledger_url = bench.enterprise_manager, bench.new_ledger()
        em.change_behaviour(edit_seconds=EDIT_SECONDS, edits_held=True)
        (doomed,) = bench.start_workers(1, ledger_url, settings)
        commands = bench.commands()
        bench.publish(commands)
        bench.until_deletes(UNLINKS)
        doomed.wait_for_log("unlink.submitted", UNLINKS)
        bench.start_workers(OTHERS, ledger_url, settings)
        doomed.kill()
        killed = time.monotonic()
        em.change_behaviour(edits_held=False)
        ends = bench.until_ended(list(commands))
        seconds = time.monotonic() - killed
        deletes = em.count("DELETE", "/linkedBackupRepositories/")
    console.print(f"{UNLINKS} in flight when their worker was killed; {OTHERS} others, {dict(ends)}")
    console.print(f"DELETEs in all: {deletes}")
    console.print(
        f"all finished after {seconds:.1f} s: {seconds / (LEASE_SECONDS + SETTLING_SECONDS):.2f} of lease "
        f"({LEASE_SECONDS:g} s) and settling time ({SETTLING_SECONDS:g} s)",
        style="bold",
    )


if __name__ == "__main__":
    main()
