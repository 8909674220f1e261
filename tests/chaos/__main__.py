"""The chaos suite as a program: `python -m tests.chaos`; `--help` says more."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from rich.console import Console

from tests.chaos.report import show
from tests.chaos.trial import Options, run

_UNLINKS_A_MINUTE = 200


def main() -> int:
    """Run one trial; 0 if no promise was broken and nothing grew, else 1."""
    options = _options()
    console = Console()
    console.print(f"chaos with seed {options.seed}")
    began = time.monotonic()
    result = run(options, lambda what: console.print(f"{time.monotonic() - began:6.1f} s  {what}", highlight=False))
    show(result, console)
    return 0 if result.clean else 1


def _options() -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Several workers on a RabbitMQ cluster, PostgreSQL and a simulated Enterprise Manager, all private "
        "and real, under commands with duplicates, while parts are killed, paused, restarted and cut off.",
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="decides what happens")
    parser.add_argument("--unlinks", type=int, help=f"how many (default {_UNLINKS_A_MINUTE} for each minute)")
    parser.add_argument("--workers", type=int, default=4, help="how many at once (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of chaos; start and end come on top (%(default)s)")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="as --minutes, and see whether anything grows")
    parser.add_argument("--small", action="store_true", help="only the strikes that every trial must have")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the strikes whose name contains this")
    parser.add_argument("--logs", type=Path, help="where to keep the workers' logs")
    given = parser.parse_args()
    minutes = given.soak or given.minutes
    return Options(
        given.seed,
        given.unlinks or round(_UNLINKS_A_MINUTE * minutes),
        given.workers,
        minutes,
        thorough=not given.small,
        soak=given.soak is not None,
        only=given.only,
        logs=given.logs,
    )


if __name__ == "__main__":
    sys.exit(main())
