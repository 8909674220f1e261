"""`unlink-worker doctor --assumptions`: check the worker's assumptions about Enterprise Manager against a real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import typer
from rich.table import Table
from rich.text import Text

from worker.cli.output.terminal import Output, console, printable
from worker.clock import SystemClock
from worker.doctor.assumptions import Check, Result, UnreachableError, examine
from worker.settings import EnterpriseManagerClientSettings, secrets_of
from worker.telemetry import logs

#: The word and the colour of each result.
_WORDS = {
    Result.CONFIRMED: ("confirmed", "green"),
    Result.DIFFERENT: ("different", "bold yellow"),
    Result.NEEDS_CHANGE: ("not without a change", "dim"),
    Result.NOT_WITH_ACCOUNT: ("not with this account", "dim"),
}

_Checks = dict[str, list[Check]]


def show_assumptions(settings: EnterpriseManagerClientSettings, output: Output) -> int:
    """Check the assumptions against every configured Enterprise Manager; print the results, return the exit status.

    Raises:
        SettingsInvalidError: a CA file cannot be used.
    """
    clean = logs.Redactor(secrets_of(settings)).clean_text
    checks, unreachable = asyncio.run(_examined(settings))
    if output == "json":
        typer.echo(json.dumps({name: _document(found, clean) for name, found in checks.items()}, ensure_ascii=False))
    else:
        for name, found in checks.items():
            _print_table(name, found, clean)
    for name, problem in unreachable.items():
        typer.echo(f"{printable(name)}: {printable(clean(problem))}", err=True)
    return 1 if unreachable else 0


async def _examined(settings: EnterpriseManagerClientSettings) -> tuple[_Checks, dict[str, str]]:
    """The checks by Enterprise Manager, and the problem of each that could not be examined."""
    clock = SystemClock()
    checks: _Checks = {}
    unreachable: dict[str, str] = {}
    for name, server in settings.enterprise_managers.items():
        try:
            checks[name] = [check async for check in examine(name, server, clock)]
        except UnreachableError as error:
            unreachable[name] = str(error)
    return checks, unreachable


def _document(checks: list[Check], clean: Callable[[str], str]) -> list[dict[str, str | None]]:
    return [
        {
            "assumption": check.assumption.value,
            "belief": check.assumption.belief,
            "result": check.result.value,
            "seen": clean(check.seen) or None,
        }
        for check in checks
    ]


def _print_table(name: str, checks: list[Check], clean: Callable[[str], str]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("assumption", "result", "what is believed, and what was seen instead"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "assumption")
    for check in checks:
        word, style = _WORDS[check.result]
        seen = f"; but: {printable(clean(check.seen))}" if check.result is Result.DIFFERENT else ""
        missing = f" ({printable(clean(check.seen))})" if check.result is Result.NOT_WITH_ACCOUNT else ""
        table.add_row(check.assumption.value, Text(word, style=style), check.assumption.belief + seen + missing)
    screen = console()
    screen.print(Text(f"enterprise manager {printable(name)}", style="bold"))
    screen.print(table)
    different = sum(check.result is Result.DIFFERENT for check in checks)
    confirmed = sum(check.result is Result.CONFIRMED for check in checks)
    typer.echo(f"{len(checks)} assumptions: {confirmed} confirmed, {different} different; nothing was changed")
