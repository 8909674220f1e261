from __future__ import annotations

import sys

import pytest

from tests.simulation.known_seeds import KnownSeeds
from tests.simulation.mutants import MUTANTS, Mutant, hunt

#: How many seeds a wrong version of the core may survive here. Where scenarios are drawn in another way, the known ones
#: may catch it no longer: `python -m tests.simulation --known-seeds` finds new ones.
MOST_SEEDS = 200


#: Every fourth is hunted by `make test`; `make mutants` hunts all. The last one, whose run ends only at its limit of
#: steps, is not among them: it takes as long as all others together.
QUICK = MUTANTS[::4]


@pytest.mark.timeout(600)  # where the known seed no longer catches it, the hunt goes on
@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, id=mutant.name.replace(" ", "-"), marks=[] if mutant in QUICK else [pytest.mark.slow])
        for mutant in MUTANTS
    ],
)
def test_a_wrong_version_of_the_core_is_caught(mutant: Mutant, capsys: pytest.CaptureFixture[str]) -> None:
    """The simulation would look on while this very mistake is made in the core, and say that all is well."""
    first = KnownSeeds.read().mutants[mutant.name]
    caught = hunt(mutant, range(first, first + MOST_SEEDS))

    assert caught is not None, "see .venv/bin/python -m tests.simulation --known-seeds"
    with capsys.disabled():
        sys.stdout.write(f"\n{mutant.name}: {caught}\n")
