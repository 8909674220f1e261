"""`python -m tests.benchmarks`: measure, print one table, say on what machine."""

from __future__ import annotations

import argparse

from rich.console import Console

from tests.benchmarks import cost
from tests.benchmarks.figures import machine, table_of
from tests.benchmarks.parts import Parts


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure the worker.")
    parser.add_argument("--quick", action="store_true", help="one short run of each: about a minute")
    options = parser.parse_args()
    on = machine()
    with Parts() as parts:
        if options.quick:
            figures = list(cost.figures(parts, unlinks=1000, in_flight=200, runs=1))
        else:
            figures = list(cost.figures(parts, unlinks=2000, in_flight=200, runs=3))
    # Where it is no terminal, rich takes 80 columns for granted.
    console = Console()
    (console if console.is_terminal else Console(width=110)).print(table_of(figures, on))


if __name__ == "__main__":
    main()
