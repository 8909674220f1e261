from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import pytest

from tests import programs
from tests.simulation.__main__ import replay
from tests.simulation.known_seeds import SITUATIONS, KnownSeeds
from tests.simulation.promises import Observer
from tests.simulation.simulation import run

KNOWN = KnownSeeds.read()

#: How many seeds are run that nobody chose; `make simulate` runs ten thousand.
FRESH_SEEDS = 20


def test_the_known_seeds_break_no_promise_and_come_through_all_kinds_of_trouble() -> None:
    """A fault that was found and mended would come back; or the promises be kept for want of trouble."""
    situations: set[str] = set()
    for seed in KNOWN.all():
        result = run(seed)
        assert result.violation is None, f".venv/bin/python -m tests.simulation --seed {seed} --trace"
        situations.update(result.situations)

    assert situations >= SITUATIONS, "see .venv/bin/python -m tests.simulation --known-seeds"


def test_fresh_seeds_break_no_promise() -> None:
    """Under some order of crashes, pauses and lost messages a promise of the worker would not hold."""
    first = secrets.randbelow(2**40)

    for seed in range(first, first + FRESH_SEEDS):
        violation = run(seed).violation
        assert violation is None, f"{violation}; .venv/bin/python -m tests.simulation --seed {seed} --trace"


def _timeline_in_a_process_of_its_own(seed: int, hash_seed: int) -> str:
    program = f"from tests.simulation.simulation import run; print(*run({seed}, tracing=True).trace, sep=chr(10))"
    done = programs.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
        check=True,
    )
    return done.stdout


@pytest.mark.slow
def test_a_seed_alone_decides_a_run() -> None:
    """A violation that was found could not be replayed, and so not be understood."""
    seed = secrets.randbelow(2**40)

    timelines = {_timeline_in_a_process_of_its_own(seed, hash_seed) for hash_seed in (1, 2)}

    assert len(timelines) == 1, f"seed {seed}"


def test_an_error_of_the_simulation_itself_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger's writer would try its transaction again, and what the simulation checks there be left unchecked."""

    def fail(*_: object) -> None:
        raise LookupError("of the simulation")

    monkeypatch.setattr(Observer, "wrote", fail)
    with pytest.raises(LookupError, match="of the simulation"):
        run(KNOWN.situations[0])


def test_a_timeline_says_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever replays a seed would see nothing of what led to the violation."""
    status = replay(KNOWN.situations[0], tracing=True)

    reported = capsys.readouterr().out
    assert status == 0
    assert "log unlink.sending" in reported
    assert "no promise was broken" in reported


def test_tracing_a_run_does_not_change_it() -> None:
    """The timeline of a violation would show another run than the one in which it was found."""
    seed = KNOWN.situations[0]

    untraced, traced = run(seed), run(seed, tracing=True)

    assert (untraced.virtual_seconds, untraced.situations) == (traced.virtual_seconds, traced.situations)
