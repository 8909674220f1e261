"""Running a program to its end."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def run(
    command: Sequence[str | Path], *, timeout: float = 60, check: bool = False, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program, with what it prints captured as text. `more` are arguments of `subprocess.run`.

    Raises:
        TimeoutExpired: it took longer than `timeout` seconds, and was killed.
    """
    return subprocess.run(command, timeout=timeout, check=check, capture_output=True, text=True, **more)
