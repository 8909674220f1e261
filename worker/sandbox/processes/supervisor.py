"""A directory and its programs. All are removed when it is closed, or when this program dies in any way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes import reaper

#: How long closing may take, in seconds. Longer than the reaper waits for its programs to end.
_CLOSE_SECONDS = 60.0

_LINES_OF_LOG = 25


def wait_until(condition: Callable[[], bool], *, seconds: float, interval: float = 0.05) -> bool:
    """Poll the condition until it is true. Returns False if it is not true after this many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def output_of(
    command: Sequence[str], what: str, *, seconds: float, environment: Mapping[str, str] | None = None
) -> str:
    """Run a program to its end and return what it prints.

    Args:
        command: the program and its arguments.
        what: the name of the program in an error message.
        seconds: how long it may take.
        environment: its environment variables; by default those of this process.

    Raises:
        PartFailedError: it failed or took too long; the message is its output.
    """
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are the caller's
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds,
        )
    except subprocess.CalledProcessError as error:
        raise PartFailedError(f"{what} failed:\n{error.stderr}{error.stdout}") from error
    except subprocess.TimeoutExpired as error:
        raise PartFailedError(f"{what} did not end in {seconds:g} s") from error
    return done.stdout


def _birth_of(pid: int) -> str | None:
    """The start time of a process, in clock ticks since boot; None if there is no such process or no /proc."""
    try:
        # The 22nd field; the program's name, the second one, may contain spaces (proc_pid_stat(5)).
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return None


@dataclass(slots=True)
class Program:
    """A program in a supervisor. It leads its own session, and a signal goes to its whole process group.

    After its end another program may get its PID. The start time distinguishes the two.
    """

    pid: int
    log: Path
    _birth: str | None = field(init=False)

    def __post_init__(self) -> None:
        self._birth = _birth_of(self.pid)

    @property
    def running(self) -> bool:
        """Whether the program has not ended."""
        if self._replaced:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    @property
    def _replaced(self) -> bool:
        return _birth_of(self.pid) not in {None, self._birth}

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process group. Does nothing if the program has ended."""
        if self._replaced:
            return
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            # macOS raises PermissionError for a group whose members have all ended.
            return

    def kill(self) -> None:
        """Send SIGKILL, and wait until it has ended.

        Raises:
            PartFailedError: it has not ended after 10 s.
        """
        self.signal(signal.SIGKILL)
        self.wait(seconds=10)

    def wait(self, *, seconds: float) -> None:
        """Wait until it has ended.

        Raises:
            PartFailedError: it has not ended after this many seconds.
        """
        if not wait_until(lambda: not self.running, seconds=seconds):
            raise PartFailedError(f"the program did not end within {seconds:g} s:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of its output."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LINES_OF_LOG:])
        except OSError:
            return ""


class ProcessSupervisor:
    """A new directory for private programs. A reaper process ends the programs and removes the directory.

    Args:
        name: a part of the directory's name.

    Raises:
        PartFailedError: the reaper does not start.
    """

    def __init__(self, name: str) -> None:
        # -I: ignore the user's PYTHON* variables and the current folder.
        self._reaper = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-I", reaper.__file__, str(os.getpid()), f"unlink-{name}-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lock = threading.Lock()
        self.directory = Path(self._answer()["directory"])

    def start(
        self,
        arguments: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log: Path,
        identity: tuple[int, int] | None = None,
        ending: signal.Signals | None = None,
        afterwards: Sequence[str] | None = None,
    ) -> Program:
        """Start a program in the supervisor's directory.

        Args:
            arguments: its path and arguments. Pass secrets in the environment or in a file instead.
            environment: all of its environment variables.
            log: the file to which its output is appended.
            identity: the user ID and the group ID of the program; only root may set them.
            ending: the signal that shuts it down cleanly when the supervisor is closed; SIGKILL follows.
            afterwards: a command that is run when the supervisor is closed, to remove what is outside its directory.

        Raises:
            PartFailedError: it cannot be started.
        """
        user, group = identity or (None, None)
        request = {
            "arguments": list(map(str, arguments)),
            "environment": dict(environment),
            "folder": str(self.directory),
            "log": str(log),
            "user": user,
            "group": group,
            "ending": ending.name if ending else None,
            "afterwards": afterwards,
        }
        with self._lock:
            assert self._reaper.stdin is not None  # noqa: S101 - it is a pipe
            self._reaper.stdin.write(json.dumps(request) + "\n")
            self._reaper.stdin.flush()
            answer = self._answer()
        if "error" in answer:
            raise PartFailedError(f"{arguments[0]} does not start: {answer['error']}")
        return Program(answer["pid"], log)

    def close(self) -> None:
        """End every program and remove the directory. Closing again does nothing.

        Raises:
            PartFailedError: the reaper has not finished after a minute.
        """
        with self._lock:
            try:
                self._reaper.communicate(timeout=_CLOSE_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise PartFailedError(f"{self.directory} and its programs are still there") from error
            except ValueError:
                return  # it was already closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._reaper.stdout is not None  # noqa: S101 - it is a pipe
        line = self._reaper.stdout.readline()
        if not line:
            raise PartFailedError(f"the reaper of {sys.executable} ended at once, with {self._reaper.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
