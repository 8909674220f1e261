"""The program that ends a supervisor's programs and removes its directory, even after the supervisor's death.

`supervisor` runs it as `python -I reaper.py PARENT_PID PREFIX`. It creates a directory and starts programs on request.
When its standard input is closed or its parent ends in any way (including SIGKILL), it ends all its descendants and
removes the directory.

Each request is one line of JSON on standard input, and each response is one line on standard output. The end of the
input is the request to end: the kernel closes the pipe of a dead parent. Only the standard library is imported, so that
the program starts quickly and needs nothing but Python.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

#: How often to check that the parent lives, in seconds. A child that it forked may keep the pipe open after its death.
_PARENT_CHECK_SECONDS = 1.0

#: How long a program may take to end before it is killed, in seconds.
_GRACE_SECONDS = 10.0

#: `PR_SET_CHILD_SUBREAPER` of prctl(2), Linux: orphans among our descendants become our children.
_SET_CHILD_SUBREAPER = 36


class Children:
    """The children that this program started and that have not ended.

    A child is removed when it ends: the system may give its PID to another program, which must not get its signals.
    """

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._ended: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._running))

    def __contains__(self, pid: int) -> bool:
        return pid in self._running

    def start(self, start: Callable[[], int]) -> int:
        """Start a child, and return its PID. The child may already have ended and been reaped when this returns."""
        self._ended.clear()
        pid = start()
        self._running.add(pid)
        if pid in self._ended:
            self._running.discard(pid)
        return pid

    def reap(self, _signal: int, _frame: FrameType | None) -> None:
        """Reap every child that has ended. This is the handler of SIGCHLD."""
        try:
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                self._ended.add(pid)
                self._running.discard(pid)
        except ChildProcessError:
            pass


class Reaper:
    """The programs that were started, and the signal that ends each of them."""

    def __init__(self, parent: int, prefix: str) -> None:
        self._parent = parent
        self._directory = Path(tempfile.mkdtemp(prefix=prefix))
        self._endings: dict[int, signal.Signals] = {}
        self._programs = Children()
        self._afterwards: list[list[str]] = []

    def serve(self) -> None:
        """Answer requests until the input or the parent ends; then end all programs and remove the directory."""
        signal.signal(signal.SIGCHLD, self._programs.reap)
        try:
            _answer({"directory": str(self._directory)})
            for request in self._requests():
                _answer(self._start(request))
        finally:
            self._end()

    def _requests(self) -> Any:
        pending = b""
        while os.getppid() == self._parent:
            if not select.select([sys.stdin], [], [], _PARENT_CHECK_SECONDS)[0]:
                continue
            received = os.read(sys.stdin.fileno(), 65536)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            yield from map(json.loads, lines)

    def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        identity = {"user": request["user"], "group": request["group"], "extra_groups": []} if request["user"] else {}

        def start() -> int:
            with Path(request["log"]).open("ab") as log:
                program = subprocess.Popen(  # noqa: S603 - the parent's own programs
                    request["arguments"],
                    env=request["environment"],
                    cwd=request["folder"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    **identity,
                )
            # The handler of SIGCHLD reaps it, so `Popen` must not wait for it.
            program.returncode = 0
            return program.pid

        try:
            pid = self._programs.start(start)
        except OSError as error:
            return {"error": str(error)}
        self._endings.pop(pid, None)
        if request["ending"]:
            self._endings[pid] = signal.Signals[request["ending"]]
        if request["afterwards"]:
            self._afterwards.append(request["afterwards"])
        return {"pid": pid}

    def _end(self) -> None:
        signal.signal(signal.SIGTERM, _carry_on)
        signal.signal(signal.SIGHUP, _carry_on)
        for leader in self._programs:
            if leader in self._endings:
                _signal_group(leader, self._endings[leader])
        deadline = time.monotonic() + _GRACE_SECONDS
        while any(leader in self._programs for leader in self._endings) and time.monotonic() < deadline:
            time.sleep(0.02)
        _kill_descendants()
        for command in self._afterwards:
            subprocess.run(command, check=False, capture_output=True, timeout=60)  # noqa: S603 - as above
        shutil.rmtree(self._directory, ignore_errors=True)


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends. Only Linux supports this.

    On other systems, a descendant is ended only if it is in the process group of a started program.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _kill_descendants() -> None:
    """Kill children until none is left. When a child ends, its children become children of this program."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        for child in _children():
            _signal_group(child, signal.SIGKILL)
            _signal_one(child, signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
        except ChildProcessError:
            return


def _children() -> list[int]:
    parents = _parents_by_proc() if Path("/proc/self/stat").exists() else _parents_by_ps()
    return [pid for pid, parent in parents.items() if parent == os.getpid()]


def _parents_by_proc() -> dict[int, int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # After the program's name in brackets come its state and its parent (proc_pid_stat(5)).
                parents[int(entry.name)] = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
            except OSError:
                continue  # it has ended since
    return parents


def _parents_by_ps() -> dict[int, int]:
    listing = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid="], text=True, timeout=60)  # noqa: S607 - POSIX
    return {int(pid): int(parent) for pid, parent in map(str.split, listing.splitlines())}


def _signal_one(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        # macOS raises PermissionError for a group whose members have all ended.
        return


def _exit(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _carry_on(_signal: int, _frame: FrameType | None) -> None:
    """Ignore the signal. A handler is used because started programs would inherit SIG_IGN."""


def main() -> None:
    """Serve requests for the parent that the arguments name; then clean up."""
    _adopt_orphans()
    signal.signal(signal.SIGINT, _carry_on)
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGHUP, _exit)
    Reaper(int(sys.argv[1]), sys.argv[2]).serve()


if __name__ == "__main__":
    main()
