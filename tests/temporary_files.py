"""Temporary files of the tests are kept in memory where there is enough of it.

RabbitMQ, PostgreSQL and SQLite wait for the disk at each write, and there are thousands of short-lived databases and
queues: on a disk, `make test` takes a tenth longer. What the tests kill are processes, and what a process has written
to a file in memory stays there.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

#: Where Linux offers files in memory to all users.
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - pytest and tempfile make folders in it that only the user can open

#: How much room the files may take, and how much memory must be free for them and for all that the tests run, in bytes.
_ROOM = 2 * 2**30
_MEMORY = 6 * 2**30


def pytest_configure(config: pytest.Config) -> None:
    """Choose the folder for all processes of this run, unless the user has chosen one."""
    if hasattr(config, "workerinput") or "TMPDIR" in os.environ or not _suits(_IN_MEMORY):
        return
    os.environ["TMPDIR"] = str(_IN_MEMORY)
    tempfile.tempdir = None  # read it again


def _suits(folder: Path) -> bool:
    """Whether programs can be run from the folder, as some tests do, and it is large enough."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    system = os.statvfs(folder)
    return not system.f_flag & os.ST_NOEXEC and system.f_bavail * system.f_frsize >= _ROOM and _free_memory() >= _MEMORY


def _free_memory() -> int:
    """How much memory programs can still get, in bytes; 0 where that is not known."""
    try:
        report = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", report, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
