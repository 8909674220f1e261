"""A program on a terminal of its own, as a person has it: what is typed, and what is shown."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

#: How long a test waits for what should be shown, in seconds: these machines are shared.
TIMEOUT_SECONDS = 90.0


class Terminal:
    """A program whose input and output are a terminal.

    Attributes:
        process: the program.
        seen: all that was shown and read so far, escape sequences included.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        folder: Path | None = None,
        lines: int = 24,
        columns: int = 80,
    ) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(  # closed by `end`
            command, env=environment, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.seen = ""

    def write(self, text: str) -> None:
        """Type something."""
        os.write(self._ours, text.encode())

    def until(self, words: str | re.Pattern[str]) -> None:
        """Read until this was shown."""
        pattern = re.compile(re.escape(words)) if isinstance(words, str) else words
        over = time.monotonic() + TIMEOUT_SECONDS
        while not pattern.search(self.seen):
            assert time.monotonic() < over, f"never shown: {pattern.pattern}; only: {self.seen[-2000:]!r}"
            if select.select([self._ours], [], [], 0.5)[0] and not self._read():
                pytest.fail(f"it ended without {pattern.pattern!r}: {self.seen[-2000:]}")

    def end(self) -> int:
        """Ctrl-C, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Read to the program's end; the exit status."""
        while self._read():
            pass
        os.close(self._ours)
        return self.process.wait(TIMEOUT_SECONDS)

    def hang_up(self) -> None:
        """Close the terminal under the program and what runs in it."""
        os.close(self._ours)
        self.process.wait(TIMEOUT_SECONDS)

    def _read(self) -> bool:
        try:
            piece = os.read(self._ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            return False
        self.seen += piece.decode(errors="replace")
        return bool(piece)
