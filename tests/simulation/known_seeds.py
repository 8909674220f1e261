"""The seeds of the quick tests: which one catches each wrong version of the core, and which ones meet all trouble.

They are found by a hunt, which takes minutes, and written down. Where the simulation draws in another way, they lead
elsewhere, and are hunted again: `.venv/bin/python -m tests.simulation --known-seeds`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.simulation.simulation import run

_FILE = Path(__file__).with_suffix(".json")

#: What the runs must come through, so that the promises are not kept for want of trouble.
SITUATIONS = frozenset(
    {
        "succeeded task",
        "succeeded links",
        "succeeded absent",
        "timed_out gave_up",
        "failed task_failed",
        "failed gave_up",
        "failed linked_backups_at_risk",
        "cancelled None",
        "taken over when claimed",
        "taken over when intended",
        "taken over when submitted",
        "job busy elsewhere",
        "sent again",
        "run started after failed, changed False",
        "run started after timed_out, changed None",
        "run not found",
        "untroubled",
        "waited for its time",
        "another run waited for its time",
        "turned away",
        "found its queue",
        "taken away",
    }
)


@dataclass(frozen=True, slots=True)
class KnownSeeds:
    """The seeds that were found last.

    Attributes:
        mutants: by the name of a mutant, a seed that catches it.
        situations: seeds that together come through all `SITUATIONS`.
    """

    mutants: dict[str, int]
    situations: list[int]

    @classmethod
    def read(cls) -> KnownSeeds:
        """What the last hunt wrote down."""
        return cls(**json.loads(_FILE.read_text()))

    def write(self) -> None:
        """Write them down."""
        _FILE.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")

    def all(self) -> list[int]:
        """Each seed once."""
        return sorted({*self.mutants.values(), *self.situations})


def hunt_situations(seeds: Iterable[int]) -> list[int]:
    """The first seeds that together come through all `SITUATIONS`; those that add nothing are left out."""
    found: list[int] = []
    missing = set(SITUATIONS)
    for seed in seeds:
        met = missing.intersection(run(seed).situations)
        if met:
            found.append(seed)
            missing -= met
        if not missing:
            break
    return found
