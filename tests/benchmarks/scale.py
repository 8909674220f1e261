"""More of everything: several workers on PostgreSQL, and a hundred Enterprise Managers in one worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figures import Figure
from tests.benchmarks.parts import EM, Parts, resident, usage_of
from tests.private_servers.postgresql import PrivatePostgresql

WORKERS = (1, 2, 4)
MANY = 100

#: How long an idle worker is measured, in seconds.
MEASURED_SECONDS = 15.0


def workers(parts: Parts, unlinks: int) -> Iterator[Figure]:
    """Rate and CPU with several workers on one ledger."""
    with PrivatePostgresql() as postgresql:
        for number in WORKERS:
            url = postgresql.create_database(f"ledger_{number}")
            parts.reset()
            settings = {f"{EM}MAX_IN_FLIGHT": "200", f"{EM}POLL_INTERVAL_SECONDS": "1"}
            running = [parts.start_worker(settings, tls=False, ledger_url=url) for _ in range(number)]
            before = [usage_of(worker.pid).cpu for worker in running]
            began = time.monotonic()
            parts.publish(parts.commands(unlinks))
            parts.until_ended(unlinks)
            seconds = time.monotonic() - began
            cpu = sum(usage_of(worker.pid).cpu - used for worker, used in zip(running, before, strict=True))
            for worker in running:
                worker.stop()
            parts.require_success(unlinks)
            yield Figure(f"unlinks, PostgreSQL, workers: {number}", unlinks / seconds, "/s")
            yield Figure(f"CPU an unlink, PostgreSQL, workers: {number}", cpu / unlinks * 1000, "ms")


def enterprise_managers(parts: Parts) -> Iterator[Figure]:
    """What a worker with a hundred Enterprise Managers uses while it has nothing to do."""
    names = [f"UNLINK_ENTERPRISE_MANAGERS__EM{number}__" for number in range(1, MANY)]
    settings = {
        f"{name}{setting}": value
        for name in names
        for setting, value in (("URL", parts.url(tls=True)), ("USERNAME", "worker"), ("PASSWORD", "a-password"))
    } | {f"{name}CA_FILE": parts.ca_file for name in names}
    worker = parts.start_worker(settings, tls=True)
    before = usage_of(worker.pid).cpu
    time.sleep(MEASURED_SECONDS)
    share = (usage_of(worker.pid).cpu - before) / MEASURED_SECONDS * 100
    threads = len(list(Path(f"/proc/{worker.pid}/task").iterdir()))
    files = len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))
    yield Figure(f"idle CPU, {MANY} Enterprise Managers", share, "% of a core")
    yield Figure(f"memory, {MANY} Enterprise Managers", resident(worker.pid), "MiB")
    yield Figure(f"threads, {MANY} Enterprise Managers", threads, "")
    yield Figure(f"open files, {MANY} Enterprise Managers", files, "")
    worker.stop()
