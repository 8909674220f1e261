from __future__ import annotations

import sys

import pytest

from tests.simulation.mutants import MUTANTS, Mutant, hunt

#: How many seeds a wrong version of the core may survive. `python -m tests.simulation --mutants` takes fresh seeds.
MOST_SEEDS = 4000


@pytest.mark.timeout(600)  # where the known seed no longer catches it, the hunt goes on
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_wrong_version_of_the_core_is_caught(mutant: Mutant, capsys: pytest.CaptureFixture[str]) -> None:
    """The simulation would look on while this very mistake is made in the core, and say that all is well."""
    caught = hunt(mutant, range(mutant.known_seed, mutant.known_seed + MOST_SEEDS))

    assert caught is not None
    with capsys.disabled():
        sys.stdout.write(f"\n{mutant.name}: {caught}\n")
