"""The console that `demo` serves on a terminal, when its script has ended."""

from __future__ import annotations

import re
import sys

import httpx
import pytest

from tests.missing_parts import require_rabbitmq
from tests.terminal import Terminal
from worker.sandbox.processes.worker_process import surroundings


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demos_unlinks_can_be_looked_at_until_enter() -> None:
    """A newcomer would see a table of steps, and never the console."""
    require_rabbitmq()
    terminal = Terminal(
        [sys.executable, "-m", "worker", "demo"], {**surroundings(), "TERM": "xterm"}, lines=50, columns=140
    )
    try:
        terminal.until("Enter ends the demo.")
        shown = re.search(r"Look at these unlinks: (http://127\.0\.0\.1:\d+/)", terminal.seen)
        assert shown is not None
        assert httpx.get(f"{shown[1]}api/v1/unlinks").json()["items"]
        assert "Read-only" in httpx.get(shown[1]).text
        terminal.write("\n")
    except BaseException:
        terminal.end()
        raise
    assert terminal.wait() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(shown[1])
