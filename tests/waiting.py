"""Waiting for what another thread, process or server brings about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from worker.sandbox.processes import supervisor as processes

#: How long a test waits for what should happen, in seconds: these machines are shared.
TIMEOUT_SECONDS = 90.0


async def until(
    condition: Callable[..., object], what: str = "what was waited for", seconds: float = TIMEOUT_SECONDS
) -> None:
    """Return once the condition is true; fail if it does not become true in time. The event loop runs meanwhile."""
    over = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < over, f"never: {what}"
        await asyncio.sleep(0.01)


def wait_until(
    condition: Callable[..., object], what: str = "what was waited for", seconds: float = TIMEOUT_SECONDS
) -> None:
    """Return once the condition is true; fail if it does not become true in time."""
    assert processes.wait_until(lambda: bool(condition()), seconds=seconds, interval=0.01), f"never: {what}"
