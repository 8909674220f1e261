"""The console on a large ledger, with many pages open: how long a first page takes, and what a worker notices of it.

Run as `python -m tests.benchmarks.console_load --rows 10000000 --pages 1000`; a row needs about 4 kB on disk. The
worker, the console and the open pages share the machine, so the worker's rate also falls by the CPU that the pages take
from it; the CPU of an unlink shows what the ledger adds.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks import cost
from tests.benchmarks.cost import Cost
from tests.benchmarks.figures import machine
from tests.benchmarks.ledger_size import filled
from tests.benchmarks.parts import Parts, usage_of
from worker.console.keys import to_path
from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.free_ports import LOOPBACK, free_port
from worker.sandbox.processes.supervisor import wait_until
from worker.sandbox.processes.worker_process import WorkerProcess

#: How often each first page is timed, and the worker measured.
TIMES, RUNS = 100, 3

UNLINKS, IN_FLIGHT = 1000, 200

GOAL_MILLISECONDS = 300

FIRST_PAGES = {
    "overview": "/",
    "newest unlinks": "/unlinks",
    "by ticket": "/unlinks?ticket=OPS-77",
    "by job": "/unlinks?job=job-7",
    "by repository": "/unlinks?repository=repository-7",
    "by requester": "/unlinks?requester=user-7",
    "by outcome": "/unlinks?outcome=failed",
    "by job and outcome": "/unlinks?job=job-20&outcome=failed",
    "by reason": "/unlinks?reason=task_failed",
    "of the last hour": "/unlinks?since=1h",
    "in flight, none": "/unlinks?in_flight=true",
    "by requester and repository, none": "/unlinks?requester=user-7&repository=repository-8",
    "by job and outcome, none": "/unlinks?job=job-7&outcome=failed",
    "one unlink": f"/unlinks/{to_path('bench:77')}",
}


def first_page(port: int, path: str) -> float:
    """The milliseconds of a page, connecting included.

    Raises:
        PartFailedError: it is no page.
    """
    began = time.perf_counter()
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    taken = (time.perf_counter() - began) * 1000
    connection.close()
    if answer.status != 200:
        raise PartFailedError(f"{path}: status {answer.status}: {body[:300]!r}")
    return taken


@contextlib.contextmanager
def served(parts: Parts, ledger_url: str) -> Iterator[tuple[int, WorkerProcess]]:
    """The console on this ledger: its port, and its process."""
    port = free_port()
    environment = {
        "UNLINK_LEDGER__URL": ledger_url,
        "UNLINK_BROKER__URL": parts.broker.url,
        "UNLINK_CONSOLE__PORT": str(port),
        "PYTHONPATH": str(Path.cwd()),
    }
    console = WorkerProcess(parts.supervisor, f"console-{port}", environment, ("-m", "worker", "console"))
    console.wait_for_log("console.listening")
    yield port, console
    console.stop()


@contextlib.contextmanager
def open_pages(parts: Parts, port: int, count: int) -> Iterator[None]:
    """So many open pages.

    Raises:
        PartFailedError: one of them was not answered.
    """
    log = parts.supervisor.directory / f"pages-{port}.log"
    command = [sys.executable, "-m", "tests.benchmarks.open_pages", str(port), str(count)]
    pages = parts.supervisor.start(command, environment={"PYTHONPATH": str(Path.cwd())}, log=log)
    wait_until(lambda: "open\n" in log.read_text() or not pages.running, seconds=120)
    yield
    if not pages.running or "open\n" not in log.read_text():
        raise PartFailedError(f"the pages were not kept open:\n{pages.log_tail()}")
    pages.kill()


def measure(parts: Parts, ledger_url: str, pages: int) -> tuple[dict[str, list[float]], float, list[Cost], list[Cost]]:
    """The first pages' milliseconds; the console's share of a core; the worker's costs without console, and with."""
    alone, beside = [], []
    with served(parts, ledger_url) as (port, console), open_pages(parts, port, pages):
        before, began = usage_of(console.pid).cpu, time.monotonic()
        times = {name: [first_page(port, path) for _ in range(TIMES)] for name, path in FIRST_PAGES.items()}
        share = (usage_of(console.pid).cpu - before) / (time.monotonic() - began)
    for _ in range(RUNS):
        alone.append(cost.ours(parts, UNLINKS, IN_FLIGHT, tls=False, ledger_url=ledger_url))
        with served(parts, ledger_url) as (port, _), open_pages(parts, port, pages):
            beside.append(cost.ours(parts, UNLINKS, IN_FLIGHT, tls=False, ledger_url=ledger_url))
    return times, share, alone, beside


def main() -> None:
    """Print the figures for each database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--databases", nargs="+", default=["postgresql", "sqlite"])
    options = parser.parse_args()
    printed = Console(width=110)
    for database in options.databases:
        with filled(database, options.rows, printed) as (_, url), Parts() as parts:
            times, share, alone, beside = measure(parts, url, options.pages)
        printed.print(f"{database}, {options.rows} rows, {options.pages} open pages; {machine()}")
        table = Table("first page", "median, ms", f"p95, ms (goal {GOAL_MILLISECONDS})")
        for name, of in times.items():
            table.add_row(name, f"{statistics.median(of):.0f}", f"{statistics.quantiles(of, n=20)[-1]:.0f}")
        printed.print(table)
        printed.print(f"console: {share * 100:.0f} % of a core")
        one, other = cost.median(alone), cost.median(beside)
        printed.print(f"worker alone:          {one.rate:.0f} unlinks/s, {one.cpu:.2f} ms of CPU an unlink")
        printed.print(f"beside the open pages: {other.rate:.0f} unlinks/s, {other.cpu:.2f} ms of CPU an unlink")


if __name__ == "__main__":
    main()
