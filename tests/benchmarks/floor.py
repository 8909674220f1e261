"""The floor: what the four requests of an unlink cost with `requests` alone, without broker, ledger, log or contract.

Run as `python -m tests.benchmarks.floor URL CA_FILE FIRST UNLINKS THREADS`; prints one line of JSON. Each unlink reads
the job and its links, sends the DELETE, and reads the links again, over kept connections. Nothing is parsed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.benchmarks.enterprise_manager_stub import TOKEN, job_id, link_id

#: Unlinks before the measured ones: connections are open then.
WARM_UP = 50


def main(url: str, ca_file: str, first: int, unlinks: int, threads: int) -> None:
    """Print the seconds and the CPU seconds that so many unlinks took."""
    sessions = [_session(ca_file) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def run(begin: int, end: int) -> None:
            parts = [range(begin + thread, end, threads) for thread in range(threads)]
            list(pool.map(lambda session, part: _unlink(session, url, part), sessions, parts))

        run(first, first + WARM_UP)
        began, used = time.monotonic(), time.process_time()
        run(first + WARM_UP, first + WARM_UP + unlinks)
        figures = {"seconds": time.monotonic() - began, "cpu": time.process_time() - used}
    print(json.dumps(figures), flush=True)  # noqa: T201 - what it is started for


def _session(ca_file: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.verify = ca_file
    session.headers.update({"X-RestSvcSessionId": TOKEN, "Accept": "application/xml", "Accept-Encoding": "identity"})
    return session


def _unlink(session: requests.Session, url: str, numbers: range) -> None:
    for number in numbers:
        job = job_id(number)
        links = f"{url}/api/jobs/{job}/linkedBackupRepositories"
        for method, target in (
            ("GET", f"{url}/api/jobs/{job}?format=Entity"),
            ("GET", links),
            ("DELETE", f"{links}/{link_id(job)}"),
            ("GET", links),
        ):
            session.request(method, target, timeout=30).raise_for_status()


if __name__ == "__main__":
    os.environ.pop("REQUESTS_CA_BUNDLE", None)
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
