from __future__ import annotations

import random

import pytest
from rich.console import Console

from tests.chaos.report import show
from tests.chaos.trial import Options, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_killed_paused_and_cut_off_workers_keep_every_promise() -> None:
    """Commands would be lost, done twice, or falsely reported, whenever a part of an installation goes away."""
    seed = random.SystemRandom().randrange(10**6)
    console = Console(width=120)
    console.print(f"chaos with seed {seed}")
    result = run(Options(seed, unlinks=150, workers=3, minutes=1, thorough=False), console.print)
    show(result, console)
    assert result.clean
    assert result.tally.attempted == 150 + result.tally.rejected
    assert result.tally.rejected >= 4
