"""The try-out programs on a terminal: the console that `demo` serves, and the end of the sandbox with its terminal."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import httpx
import pytest

from tests.missing_parts import require_rabbitmq
from tests.terminal import Terminal
from worker.cli.sandbox.command import terminals_of
from worker.sandbox.processes.worker_process import surroundings


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ending", [*"\n\x04", None], ids=["Enter", "Ctrl-D", "end of the terminal"])
def test_the_demos_unlinks_can_be_looked_at_until_somebody_ends_it(ending: str | None) -> None:
    """A newcomer would see a table of steps, and never the console; or, at its end, a stack trace."""
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
        if ending is not None:
            terminal.write(ending)
    except BaseException:
        terminal.end()
        raise
    if ending is None:
        terminal.hang_up()
    else:
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.seen
    with pytest.raises(httpx.ConnectError):
        httpx.get(shown[1])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_sandbox_ends_with_its_terminal_although_no_signal_says_so() -> None:
    """A node, a worker and a console would run on: `make`, if it leads the session, keeps the signal to itself."""
    require_rabbitmq()
    terminal = Terminal([sys.executable, "-m", "worker", "sandbox"], {**surroundings(), "TERM": "xterm"}, columns=140)
    try:
        terminal.until("Control URL:")
        settings = re.search(r"^ *\. (/\S+)", terminal.seen, re.MULTILINE)
        assert settings is not None
        assert Path(settings[1]).exists()
    except BaseException:
        terminal.end()
        raise
    terminal.hang_up()
    assert not Path(settings[1]).exists()


def test_a_terminal_that_is_closed_while_the_sandbox_starts_ends_it_too() -> None:
    """A node, a worker and a console would run on, without a window to stop them from."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs) as stream:
        terminals = terminals_of(stream)
        assert terminals.poll(0) == []
        os.close(ours)
        assert not stream.isatty()
        assert terminals.poll(10_000)
