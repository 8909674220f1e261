"""A directory and the programs in it, all of them gone when it is closed or when this program dies, however it dies."""

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

#: Longer than the reaper waits for the programs that it ends, in seconds.
_CLOSE_SECONDS = 60.0

_LINES_OF_LOG = 25


def wait_until(condition: Callable[[], bool], *, seconds: float, interval: float = 0.05) -> bool:
    """Whether the condition came true within so many seconds."""
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
        what: its name in an error.
        seconds: how long it may take.
        environment: by default this process's own.

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
    """When a process was started, in ticks since boot; None if there is none, or where there is no /proc."""
    try:
        # The 22nd field; the program's name, the second one, may contain spaces (proc_pid_stat(5)).
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return None


@dataclass(slots=True)
class Program:
    """A program in a supervisor: the leader of a session of its own, which signals reach as a whole.

    After its end another program may get its PID; the time of its start distinguishes the two.
    """

    pid: int
    log: Path
    _birth: str | None = field(init=False)

    def __post_init__(self) -> None:
        self._birth = _birth_of(self.pid)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
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
        """Send a signal to it and to its children. It may have ended already."""
        if self._replaced:
            return
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            # macOS raises PermissionError for a group whose members have all ended.
            return

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait(seconds=10)

    def wait(self, *, seconds: float) -> None:
        """Wait until it has ended.

        Raises:
            PartFailedError: it has not, after so many seconds.
        """
        if not wait_until(lambda: not self.running, seconds=seconds):
            raise PartFailedError(f"the program did not end within {seconds:g} s:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of what it printed."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LINES_OF_LOG:])
        except OSError:
            return ""


class ProcessSupervisor:
    """A fresh directory for private programs, watched over by a reaper.

    Args:
        name: a part of the directory's name.
    """

    def __init__(self, name: str) -> None:
        # -I: neither the user's PYTHON* variables nor the current folder influence how it runs.
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
            arguments: its path and arguments; secrets belong into the environment or a file.
            environment: all of its environment variables.
            log: where its output is added.
            identity: the user's and group's ID to run it as; only root may set one.
            ending: the signal with which it ends in good order when the supervisor is closed; SIGKILL follows.
            afterwards: a command that removes what the program leaves elsewhere, run when the supervisor is closed.

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
            assert self._reaper.stdin is not None  # noqa: S101 - it was asked for
            self._reaper.stdin.write(json.dumps(request) + "\n")
            self._reaper.stdin.flush()
            answer = self._answer()
        if "error" in answer:
            raise PartFailedError(f"{arguments[0]} does not start: {answer['error']}")
        return Program(answer["pid"], log)

    def close(self) -> None:
        """End every program and remove the directory. Closing again does nothing.

        Raises:
            PartFailedError: something is still there a minute later.
        """
        with self._lock:
            try:
                self._reaper.communicate(timeout=_CLOSE_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise PartFailedError(f"{self.directory} and its programs are still there") from error
            except ValueError:
                return  # closed before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._reaper.stdout is not None  # noqa: S101 - it was asked for
        line = self._reaper.stdout.readline()
        if not line:
            raise PartFailedError(f"the reaper of {sys.executable} ended at once, with {self._reaper.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
