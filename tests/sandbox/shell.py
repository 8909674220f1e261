"""A shell on a terminal of its own, as a person has it: what is typed, what is shown, the exit status."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.terminal import Terminal

#: The PATH of the shell.
PROGRAMS = "/usr/local/bin:/usr/bin:/bin"

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")
_STATUS = re.compile(r"\[status (\d+)\]\r?\n")

#: An answer that interrupts the program.
INTERRUPT = "\x03"


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
        command = ["setsid", "--ctty", "bash", "--noprofile", "--norc", "--noediting", "-i"]
        self._terminal = Terminal(command, environment, folder=home, lines=50, columns=140)

    def __enter__(self) -> Self:
        self.type("stty -echo")
        return self

    def __exit__(self, *_: object) -> None:
        self._terminal.hang_up()

    def type(self, text: str, *, answers: tuple[tuple[str, str], ...] = ()) -> Ended:
        """Type a command, or several lines, and wait for the end.

        Args:
            text: as it is written.
            answers: what to type once something is shown.
        """
        self.begin(text)
        for shown, answer in answers:
            self._terminal.until(shown)
            self._terminal.write(answer)
        self._terminal.write('echo "[status $?]"\n')
        self._terminal.until(_STATUS)
        status = _STATUS.search(self._terminal.seen)
        assert status is not None
        return Ended(_ESCAPES.sub("", self._terminal.seen[: status.start()]), int(status[1]))

    def begin(self, text: str) -> None:
        """Type a command, and do not wait."""
        self._terminal.seen = ""
        self._terminal.write(f"{text}\n")
