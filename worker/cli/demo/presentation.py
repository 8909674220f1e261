"""The demo: the sandbox, a script of commands, a table that shows each step as it runs, and a summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from worker.broker.client import BrokerClientError
from worker.cli.demo.script import DemoScript, StepError
from worker.cli.demo.steps import STEPS
from worker.cli.tryout.client import client_of
from worker.cli.tryout.console import ConsoleAddress, console_is_installed, start_console
from worker.sandbox.environment import SandboxEnvironment
from worker.sandbox.errors import SandboxError

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {
    "submitted": "cyan",
    "succeeded": "green",
    "failed": "yellow",
    "rejected": "yellow",
    "timed_out": "red",
    "SIGKILL": "bold red",
}


@dataclass(slots=True)
class _Row:
    title: str
    started: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)
    seconds: float | None = None
    problem: str | None = None


class StepTable:
    """The table of steps. On a terminal it is redrawn; in a pipe each line is printed once, as it happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[_Row] = []

    def begin(self, title: str) -> None:
        """Add a step."""
        self._rows.append(_Row(title))
        if not self._console.is_terminal:
            self._console.print(f"{title}", highlight=False)

    def add_line(self, line: str) -> None:
        """Add a line to the current step."""
        self._rows[-1].lines.append(line)
        if not self._console.is_terminal:
            self._console.print(f"    {line}", highlight=False)

    def end(self, problem: str | None = None) -> None:
        """End the current step; `problem` says why it failed, and is None if it succeeded."""
        row = self._rows[-1]
        row.seconds = time.monotonic() - row.started
        row.problem = problem
        if not self._console.is_terminal:
            self._console.print(f"    {'as it should be' if problem is None else problem}", highlight=False)

    def __rich__(self) -> Table:
        table = Table(box=None, pad_edge=False, expand=True, show_header=False)
        table.add_column(width=2)
        table.add_column(ratio=2)
        table.add_column(ratio=3)
        table.add_column(justify="right", width=6)
        for row in self._rows:
            table.add_row(_mark(row), Text(row.title, style="bold"), _result(row), _seconds(row))
            table.add_row()
        return table


def _mark(row: _Row) -> Spinner | Text:
    if row.seconds is None:
        return Spinner("dots", style="cyan")
    return Text("✓", style="green") if row.problem is None else Text("✗", style="bold red")


def _result(row: _Row) -> Text:
    text = Text()
    for line in row.lines + ([row.problem] if row.problem else []):
        word = line.partition(":")[0].partition(";")[0]
        text.append(("\n" if text else "") + word, style=_STYLES.get(word, ""))
        text.append(line[len(word) :], style="dim" if word in _STYLES else "")
    return text


def _seconds(row: _Row) -> Text:
    return Text("" if row.seconds is None else f"{row.seconds:.1f} s", style="dim")


def play(console: Console) -> bool:
    """Run all steps; return whether all succeeded."""
    started = time.monotonic()
    with console.status("starting a private RabbitMQ, a simulated Enterprise Manager and a worker") as status:
        if not console.is_terminal:
            console.print("starting a private RabbitMQ, a simulated Enterprise Manager and a worker")
        sandbox = SandboxEnvironment()
        with sandbox:
            table = StepTable(console)
            with client_of(sandbox) as client:
                script = DemoScript(sandbox, client, table.add_line)
                status.stop()
                console.print(_cast(script, sandbox), highlight=False)
                with Live(table, console=console, refresh_per_second=12) if console.is_terminal else _Quiet():
                    ends = [_step(step, script, table) for step in STEPS]
                    all_well = all(ends)
                _close(console, script, all_well=all_well, seconds=time.monotonic() - started)
            if console.is_terminal and sys.stdin.isatty() and console_is_installed():
                _show(console, sandbox)
    return all_well


def _show(console: Console, sandbox: SandboxEnvironment) -> None:
    """Serve the console, read-only, until Enter or the end of the terminal."""
    address = ConsoleAddress.free()
    start_console(sandbox, address)
    console.print(f"\nLook at these unlinks: {address.url}", highlight=False)
    with suppress(EOFError, OSError):
        console.input("Enter ends the demo. ")


def _step(step: Callable[[DemoScript], None], script: DemoScript, table: StepTable) -> bool:
    table.begin((step.__doc__ or step.__name__).rstrip("."))
    try:
        step(script)
    except (StepError, SandboxError, BrokerClientError, ValueError) as error:
        table.end(str(error))
        return False
    table.end()
    return True


def _cast(script: DemoScript, sandbox: SandboxEnvironment) -> str:
    return (
        f"{sandbox.broker.description} on port {sandbox.broker.port}, a simulated Enterprise Manager at "
        f"{script.enterprise_manager.url}, and a worker: all private, gone when this ends.\n"
    )


def _close(console: Console, script: DemoScript, *, all_well: bool, seconds: float) -> None:
    em = script.enterprise_manager
    deletes = em.count("DELETE", "/linkedBackupRepositories/")
    console.print(
        f"{len(STEPS)} steps in {seconds:.0f} s. Enterprise Manager saw {deletes} DELETEs; "
        f"commands still waiting: {script.waiting_commands()}; dead letters: {script.dead_letters()}.",
        highlight=False,
    )
    if all_well:
        console.print(
            "[green]Everything went as it should.[/green] `make sandbox` keeps the parts running, to try more."
        )
    else:
        console.print("[bold red]Not everything went as it should:[/bold red] see the steps marked ✗.")


class _Quiet:
    """Stands in for the live table if there is no terminal."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass
