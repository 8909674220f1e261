"""The report of a trial, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.chaos.deployment import HOLD_SECONDS
from tests.chaos.trial import Result

#: How many examples of each violation are named.
_EXAMPLES = 10


def show(result: Result, console: Console) -> None:
    """Print it."""
    options, tally = result.options, result.tally
    console.rule("chaos")
    console.print(f"seed {options.seed}, {options.workers} workers, {result.published} messages published")
    _print(console, "what went wrong", _counted(result.strikes))
    _print(console, "commands", _counted(dict(_commands(result))))
    _print(console, "outcomes", _counted(tally.outcomes))
    deletes = {f"links with {count} DELETE{'s' * (count != 1)}": links for count, links in tally.deletes.items()}
    _print(console, "DELETEs that Enterprise Manager received", _counted(dict(sorted(deletes.items()))))
    _print(console, "warnings and errors in the workers' logs", _counted(result.warnings))
    if result.unforeseen:
        _print(console, "unforeseen, says a worker's log", _counted(result.unforeseen))
    _print(console, "must be none", _violations(result))
    settled = "never" if result.settled_seconds is None else f"{result.settled_seconds:.0f} s after the last repair"
    if result.courses:
        _print(console, "of one worker and the ledger, early and late", _courses(result))
    _print(console, "in short", _counted(dict(_short(result))))
    console.print(f"everything had ended {settled}; {result.seconds:.0f} s in all")
    console.print(Text("clean", "bold green") if result.clean else Text("VIOLATED", "bold red"))


def _commands(result: Result) -> Iterator[tuple[str, int]]:
    tally = result.tally
    yield "attempted", tally.attempted
    yield "acknowledged by the broker", tally.acknowledged
    yield "ok (have a terminal event)", tally.ok
    yield "recovered (not acknowledged, and have one)", len(tally.recovered)
    yield "duplicated (their terminal event came more than once)", tally.duplicated
    yield "invalid, and rejected", tally.rejected
    yield "undone by the administrator, and repeated", result.put_back
    if result.orphaned:
        yield "kept by the broker for consumers that had gone, until the queue changed leader", result.orphaned


def _courses(result: Result) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, course in sorted(result.courses.items()):
        trend = Text("flat", "green") if course.flat else Text("grows", "bold red")
        table.add_row(f"{course.before:.0f}", f"{course.after:.0f}", name, trend)
    return table


def _short(result: Result) -> Iterator[tuple[str, float]]:
    tally = result.tally
    yield "attempted", tally.attempted
    yield "acknowledged", tally.acknowledged
    yield "lost", len(tally.lost)
    yield "duplicated, by the same ID", tally.duplicated
    yield "wrongly claimed", len(tally.wrongly_claimed)
    yield "stuck", len(tally.left) + len(tally.unready)
    yield "messages that needed an operator's help", result.orphaned
    yield (
        f"longest hold of a delivery in seconds, read every 0.1 s; the setting is {HOLD_SECONDS:g}",
        result.longest_hold,
    )


def _print(console: Console, title: str, table: Table) -> None:
    console.print(f"\n{title}", style="bold", highlight=False)
    console.print(table)


def _counted(counts: Mapping[str, float]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for what, count in counts.items():
        table.add_row(str(count), what)
    return table


def _violations(result: Result) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(overflow="fold")
    for what, offenders in result.violations.items():
        style = "bold red" if offenders else "green"
        table.add_row(Text(str(len(offenders)), style), what, ", ".join(offenders[:_EXAMPLES]))
    return table
