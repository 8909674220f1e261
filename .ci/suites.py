# ruff: noqa: INP001 - a script that make and CI run, no package to import
"""Run the suites that `make test` leaves out, and say of each how it ended, or that it was left out.

    suites.py                     all of them
    suites.py --minutes 25        those nearest to what changed first, as far as the time allows
    suites.py --only "4.0"        those whose names contain this

What changed is what the commits of the last day touch.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).resolve().parent.parent

_PYTEST = (sys.executable, "-m", "pytest", "-q", "-n", "4", "--dist", "worksteal")
_REAL_BROKER = ("tests/broker", "tests/end_to_end", "tests/sandbox")

#: The files whose tests make up examples of what others may send.
_PROPERTIES = (
    "tests/contract/test_commands.py",
    "tests/broker/test_delivery_and_copies.py",
    "tests/enterprise_manager/test_documents.py",
    "tests/enterprise_manager/test_hostile_answers.py",
    "tests/enterprise_manager/test_paths.py",
)

#: The folders whose slow tests have suites of their own.
_ELSEWHERE = ("set_up", "console", "sandbox", "ledger", "end_to_end", "simulation")

#: What counts as changed, in git's words.
_RECENT = "1 day ago"

#: How much of a failed suite's output is repeated at the end, where a reader of a shortened record finds it.
_LAST_LINES = 60


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite.

    Attributes:
        name: for the reader.
        command: what runs it, in the project's folder.
        minutes: what it takes on two cores, at most; it is not begun in less.
        near: the folders and files whose change it tests.
        environment: what it is given besides the environment.
    """

    name: str
    command: tuple[str, ...]
    minutes: float
    near: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def _on_rabbitmq(version: str) -> Suite:
    return Suite(
        f"broker and end-to-end tests on RabbitMQ {version}",
        (*_PYTEST, "-m", "not slow or rabbitmqctl", *_REAL_BROKER),
        5,
        ("worker/broker/", "worker/sandbox/", "worker/cli/", "worker/service.py", *_REAL_BROKER),
        # With CI, a version that cannot be had is an error and not a reason to skip all tests.
        {"SANDBOX_RABBITMQ_VERSION": version, "CI": "true"},
    )


def _chaos(version: str) -> Suite:
    return Suite(
        f"chaos, full size, on RabbitMQ {version}",
        (sys.executable, "-m", "tests.chaos"),
        8,
        ("worker/unlinks/", "worker/broker/", "worker/ledger/", "worker/sandbox/", "tests/chaos/"),
        {"SANDBOX_RABBITMQ_VERSION": version},
    )


SUITES = (
    _on_rabbitmq("3.10"),
    Suite(
        "properties, with twenty times as many examples",
        (*_PYTEST, "--hypothesis-profile=thorough", *_PROPERTIES),
        6,
        ("contracts/", "worker/broker/", "worker/enterprise_manager/", *_PROPERTIES),
    ),
    Suite(
        "slow tests of the set-up",
        (*_PYTEST, "-m", "slow", "tests/set_up"),
        9,
        (".ci/", "requirements", "pyproject.toml", "Makefile", "README.md", "tests/set_up/"),
    ),
    Suite(
        "the console in a browser",
        (*_PYTEST, "-m", "slow", "tests/console"),
        4,
        ("worker/console/", "tests/console/"),
    ),
    Suite(
        "slow tests of the sandbox: private servers, and the READMEs' commands, typed",
        (*_PYTEST, "-m", "slow", "tests/sandbox"),
        4,
        ("README.md", "contracts/README.md", "worker/sandbox/", "worker/cli/", "tests/sandbox/"),
    ),
    Suite(
        "slow tests of the ledger and of whole workers",
        (*_PYTEST, "-m", "slow", "tests/ledger", "tests/end_to_end", "tests/simulation"),
        5,
        ("worker/ledger/", "worker/unlinks/", "worker/broker/", "worker/cli/", "tests/ledger/", "tests/end_to_end/"),
    ),
    Suite(
        "other slow tests: images, clusters, chaos",
        (*_PYTEST, "-m", "slow", *(part for name in _ELSEWHERE for part in ("--ignore", f"tests/{name}")), "tests"),
        7,
        ("k8s/", "compose.yaml", "requirements", "contracts/", "tests/k8s/", "tests/containers/", "tests/chaos/"),
    ),
    Suite(
        "simulation, 10,000 seeds",
        (sys.executable, "-m", "tests.simulation", "--seeds", "10000", "--jobs", "2"),
        13,
        ("worker/unlinks/", "worker/ledger/", "worker/enterprise_manager/", "tests/simulation/"),
    ),
    Suite(
        "mutants of the core",
        (sys.executable, "-m", "tests.simulation", "--mutants"),
        4,
        ("worker/unlinks/", "tests/simulation/"),
    ),
    _on_rabbitmq("4.0"),
    *map(_chaos, ("4.3", "3.10", "4.0")),
)


def main() -> int:
    """Run them; 1 if one failed."""
    parser = argparse.ArgumentParser(description="Run the suites that `make test` leaves out.")
    parser.add_argument("--minutes", type=float, help="how long all may take together; by default as long as they do")
    parser.add_argument("--only", default="", help="a part of the names of those that are to run")
    arguments = parser.parse_args()
    minutes = arguments.minutes
    suites = [suite for suite in SUITES if arguments.only in suite.name]
    if not suites:
        parser.error(f"there is no such suite; there are: {', '.join(suite.name for suite in SUITES)}")
    over = None if minutes is None else time.monotonic() + 60 * minutes
    changed = _changed()
    ends: dict[str, str] = {}
    problems: dict[str, str] = {}
    for suite in sorted(suites, key=lambda suite: -_nearness(suite, changed)):
        left = None if over is None else over - time.monotonic()
        if left is not None and left < 60 * suite.minutes:
            ends[suite.name] = f"left out: it takes {suite.minutes:g} min, and {max(left, 0) / 60:.0f} min were left"
            continue
        ends[suite.name], problem = _run(suite, left)
        if problem:
            problems[suite.name] = problem
    width = max(map(len, ends))
    sys.stdout.write("\n" + "".join(f"{name:{width}}  {end}\n" for name, end in ends.items()))
    for name, problem in problems.items():
        sys.stdout.write(f"\n--- {name}: its last lines again\n{problem}")
    return int(bool(problems))


def _changed() -> list[str]:
    """The files that recent commits touch; none where there is no git."""
    command = ["git", "log", f"--since={_RECENT}", "--name-only", "--format="]
    done = subprocess.run(command, cwd=_ROOT, check=False, capture_output=True, text=True)  # noqa: S603 - ours
    return sorted(set(done.stdout.split()))


def _nearness(suite: Suite, changed: list[str]) -> int:
    return sum(file.startswith(suite.near) for file in changed)


def _run(suite: Suite, seconds: float | None) -> tuple[str, str]:
    """How the suite ended, and the last lines of its output if it failed."""
    sys.stdout.write(f"\n--- {suite.name}\n")
    sys.stdout.flush()
    began = time.monotonic()
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(  # noqa: S603 - the suites above
        suite.command,
        cwd=_ROOT,
        env=os.environ | suite.environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        copying = threading.Thread(target=_copy, args=(process.stdout, last))
        copying.start()
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return "left out: not done in the time that was left", ""
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)
            process.wait()
            raise
        finally:
            # What it left running would also hold its output open.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            copying.join()
    took = f"{time.monotonic() - began:.0f} s"
    if status == 0:
        return f"passed in {took}", ""
    return f"failed, status {status}, after {took}", "".join(last) or "(no output)\n"


def _copy(output: IO[str], last: deque[str]) -> None:
    for line in output:
        sys.stdout.write(line)
        sys.stdout.flush()
        last.append(line)


if __name__ == "__main__":
    sys.exit(main())
