"""A shell on a terminal of its own, as a person has it: what is typed, what is shown, the exit status."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

#: How long one command may take, in seconds.
PATIENCE = 90.0

#: The PATH of the shell.
PROGRAMS = "/usr/local/bin:/usr/bin:/bin"

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")
_STATUS = re.compile(r"\[status (\d+)\]\n")
_CTRL_C = "\x03"


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    shown: str
    status: int


class Shell:
    """An interactive bash that knows the system's programs only. A context manager.

    Args:
        home: its home and working directory.
    """

    def __init__(self, home: Path) -> None:
        self._terminal, other_end = os.openpty()
        self._shown = ""
        environment = {
            "HOME": str(home),
            "PATH": PROGRAMS,
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            "COLUMNS": "140",
            "LINES": "50",
            "PS1": "",
            "PS2": "",
        }
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--noprofile", "--norc", "--noediting", "-i"],
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            cwd=home,
            env=environment,
        )
        os.close(other_end)

    def __enter__(self) -> Self:
        self.type("stty -echo")
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._terminal)  # the shell and what runs in it are hung up
        self._process.wait(PATIENCE)

    def type(self, text: str, *, answers: tuple[tuple[str, str], ...] = ()) -> Ended:
        """Type a command, or several lines, and wait for the end.

        Args:
            text: as it is written.
            answers: what to type once something is shown.
        """
        self._shown = ""
        self._write(f"{text}\n")
        for shown, answer in answers:
            self.wait_for(shown)
            self._write(answer)
        self._write('echo "[status $?]"\n')
        self._read_until(_STATUS)
        status = _STATUS.search(self._shown)
        assert status is not None
        return Ended(self._shown[: status.start()], int(status[1]))

    def begin(self, text: str) -> None:
        """Type a command, and do not wait."""
        self._shown = ""
        self._write(f"{text}\n")

    def wait_for(self, text: str) -> None:
        """Return when this is shown."""
        self._read_until(re.compile(re.escape(text)))

    def _write(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def _read_until(self, pattern: re.Pattern[str]) -> None:
        over = time.monotonic() + PATIENCE
        while not pattern.search(self._shown):
            ready, _, _ = select.select([self._terminal], [], [], max(over - time.monotonic(), 0))
            if not ready:
                pytest.fail(f"not shown within {PATIENCE:g} s: {pattern.pattern}\n{self._shown}")
            self._shown += _ESCAPES.sub("", os.read(self._terminal, 65536).decode(errors="replace"))


#: An answer that interrupts the program.
INTERRUPT = _CTRL_C
