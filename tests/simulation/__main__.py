"""Run many seeds, one seed with its timeline, or all wrong versions of the core.

.venv/bin/python -m tests.simulation --seeds 10000
.venv/bin/python -m tests.simulation --seed 4711 --trace
.venv/bin/python -m tests.simulation --mutants
.venv/bin/python -m tests.simulation --known-seeds
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.simulation.known_seeds import KnownSeeds, hunt_situations
from tests.simulation.mutants import MUTANTS, Caught, hunt
from tests.simulation.simulation import run

#: So many seeds are given to a process at a time.
CHUNK = 50
#: How many seeds a wrong version of the core may survive.
MOST_SURVIVED = 10_000


@dataclass(slots=True)
class Findings:
    """What some seeds showed."""

    seeds: int = 0
    virtual_seconds: float = 0.0
    most_steps: int = 0
    situations: Counter[str] = field(default_factory=Counter)
    violations: dict[int, str] = field(default_factory=dict)

    def add(self, other: Findings) -> None:
        """Take the findings of other seeds in."""
        self.seeds += other.seeds
        self.virtual_seconds += other.virtual_seconds
        self.most_steps = max(self.most_steps, other.most_steps)
        self.situations.update(other.situations)
        self.violations.update(other.violations)


def _say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def run_some(seeds: range) -> Findings:
    """Run seeds one after the other."""
    findings = Findings()
    for seed in seeds:
        result = run(seed)
        findings.seeds += 1
        findings.virtual_seconds += result.virtual_seconds
        findings.most_steps = max(findings.most_steps, result.steps)
        findings.situations.update(result.situations)
        if result.violation is not None:
            findings.violations[seed] = str(result.violation)
    return findings


def run_many(first: int, count: int, jobs: int) -> Findings:
    """Run seeds in several processes, until there is a violation."""
    findings = Findings()
    began = time.monotonic()
    chunks = [range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for done in pool.imap_unordered(run_some, chunks):
            findings.add(done)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{findings.seeds} of {count} seeds, {time.monotonic() - began:.0f} s ")
            if findings.violations:
                break
    if sys.stderr.isatty():
        sys.stderr.write("\r")
    return findings


def replay(seed: int, *, tracing: bool) -> int:
    """Run one seed; print its timeline, and what was broken."""
    result = run(seed, tracing=tracing)
    _say(result.scenario)
    for line in result.trace:
        _say(line)
    _say(result.violation or "no promise was broken")
    return 1 if result.violation else 0


def search(first: int, count: int, jobs: int) -> int:
    """Run many seeds; print what was reached, and the first violation with its timeline."""
    _say(f"seeds {first} to {first + count - 1}, {jobs} processes")
    began = time.monotonic()
    findings = run_many(first, count, jobs)
    seconds = time.monotonic() - began
    hours = findings.virtual_seconds / 3600
    _say(f"{findings.seeds} seeds in {seconds:.0f} s: {hours:.0f} hours of virtual time")
    _say(f"the longest run had {findings.most_steps} steps")
    for situation, times in findings.situations.most_common():
        _say(f"  {times:8}  {situation}")
    if not findings.violations:
        _say("no promise was broken")
        return 0
    for seed, violation in sorted(findings.violations.items()):
        _say(f"seed {seed}: {violation}")
    seed = min(findings.violations)
    _say(f"\nthe timeline of seed {seed} (again: .venv/bin/python -m tests.simulation --seed {seed} --trace):\n")
    return replay(seed, tracing=True)


def hunt_all(first: int, jobs: int) -> int:
    """Hunt each wrong version of the core; print which seed caught it, and after how many."""
    caught = dict(_hunts([range(first, first + MOST_SURVIVED)] * len(MUTANTS), jobs))
    survived = len(MUTANTS) - len(caught)
    _say(f"{len(caught)} of {len(MUTANTS)} wrong versions of the core were caught")
    return 1 if survived else 0


def renew_known_seeds(jobs: int) -> int:
    """Hunt wrong versions and situations by the known seeds, else by the first that will do, and write these down."""
    known = KnownSeeds.read()
    seeds = [(known.mutants.get(mutant.name, 0), *range(MOST_SURVIVED)) for mutant in MUTANTS]
    caught = dict(_hunts(seeds, jobs))
    KnownSeeds(caught, hunt_situations((*known.situations, *range(MOST_SURVIVED)))).write()
    return 1 if len(caught) < len(MUTANTS) else 0


def _hunts(seeds: Sequence[Iterable[int]], jobs: int) -> Iterator[tuple[str, int]]:
    """The name and the seed of each that is caught."""
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        hunts = pool.imap(_hunt, enumerate(seeds))
        for mutant, caught in zip(MUTANTS, hunts, strict=True):
            _say(f"{mutant.name}\n    {caught or f'SURVIVED {MOST_SURVIVED} seeds'}")
            if caught is not None:
                yield mutant.name, caught.seed


def _hunt(hunted: tuple[int, Iterable[int]]) -> Caught | None:
    number, seeds = hunted
    return hunt(MUTANTS[number], seeds)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run (1000)")
    parser.add_argument("--first-seed", type=int, help="the first of them (by chance)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes (one a core)")
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print its timeline")
    parser.add_argument("--mutants", action="store_true", help="hunt the wrong versions of the core instead")
    parser.add_argument("--known-seeds", action="store_true", help="hunt them by known seeds, and write down new ones")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return replay(options.seed, tracing=options.trace)
    first = secrets.randbelow(2**40) if options.first_seed is None else options.first_seed
    if options.mutants:
        return hunt_all(first, options.jobs)
    if options.known_seeds:
        return renew_known_seeds(options.jobs)
    return search(first, options.seeds, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
