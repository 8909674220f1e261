"""Starts Python programs of this project quickly: forked from a process that has imported them."""

from __future__ import annotations

import atexit
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

from tests.preloaded import forking
from worker.sandbox.processes.supervisor import Program, wait_until
from worker.sandbox.processes.worker_process import surroundings

#: How long a program may take to end in good order, in seconds; then it is killed.
_GRACE_SECONDS = 20.0


class Preloaded:
    """A folder and the programs that were started in it: what `ProcessSupervisor` is, for programs in Python alone."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="unlink-preloaded-"))
        self._started: list[tuple[Program, signal.Signals | None]] = []

    def start(
        self,
        arguments: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log: Path,
        ending: signal.Signals | None = None,
    ) -> Program:
        """Start a program, as `ProcessSupervisor.start` does; the first argument is this Python."""
        python, *others = map(str, arguments)
        assert python == sys.executable
        log.touch()
        program = Program(_forker().fork(others, environment, self.directory, log), log)
        self._started.append((program, ending))
        return program

    def close(self) -> None:
        """End all programs, each in the way that it wants, and remove the folder."""
        running = [(program, ending) for program, ending in self._started if program.running]
        for program, ending in running:
            if ending is not None:
                program.signal(ending)
        for program, ending in running:
            if ending is None or not wait_until(lambda one=program: not one.running, seconds=_GRACE_SECONDS):  # type: ignore[misc]
                program.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def run_program(
    *arguments: str,
    settings: Mapping[str, str],
    folder: Path | None = None,
    seconds: float = 90,
) -> CompletedProcess[str]:
    """Run `python -m worker ARGUMENTS` to its end, as `subprocess.run` would, with what it prints captured.

    Args:
        arguments: the program's own.
        settings: its environment, besides this process's without settings.
        folder: where to run it; by default here.
        seconds: how long it may take.

    Raises:
        TimeoutExpired: it took longer, and was killed.
    """
    with tempfile.TemporaryDirectory(prefix="unlink-preloaded-") as name:
        output, errors, status = (Path(name) / part for part in ("output", "errors", "status"))
        for file in (output, errors):
            file.touch()
        command = ["-m", "worker", *arguments]
        pid = _forker().fork(
            command, surroundings() | dict(settings), folder or Path.cwd(), output, errors=errors, status=status
        )
        program = Program(pid, output)
        if not wait_until(status.exists, seconds=seconds, interval=0.01):
            program.kill()
            raise TimeoutExpired(command, seconds, output.read_bytes(), errors.read_bytes())
        return CompletedProcess(command, int(status.read_text()), output.read_text(), errors.read_text())


class _Forker:
    """The process that forks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, forking.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path, **files: Path
    ) -> int:
        request = {
            "arguments": arguments,
            "environment": dict(environment),
            "folder": str(folder),
            "log": str(log),
            **{name: str(file) for name, file in files.items()},
        }
        with self._lock:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=60)


@cache
def _forker() -> _Forker:
    """One for all; started when it is first needed."""
    forker = _Forker()
    atexit.register(forker.close)
    return forker
