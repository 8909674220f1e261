"""Output for people, shared by the commands: on a terminal, in a pipe, without colours."""

from __future__ import annotations

import os
import re
import sys
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, Self

import typer
from rich.console import Console
from rich.text import Text

from contracts.events import Outcome

if TYPE_CHECKING:
    from rich.style import StyleType
    from rich.table import Table

Output = Literal["text", "json"]

#: The option `--output` of commands that print one result.
OutputOption = Annotated[Output, typer.Option("--output", help="json: one object, its times in UTC.")]

_STYLES: dict[str, StyleType] = {
    Outcome.SUBMITTED: "blue",
    Outcome.SUCCEEDED: "green",
    Outcome.PLANNED: "cyan",
    Outcome.FAILED: "bold red",
    Outcome.REJECTED: "bold red",
    Outcome.TIMED_OUT: "bold yellow",
    Outcome.CANCELLED: "yellow",
}

#: Control characters, those that change the writing direction, and lone surrogates: with the former, a message could
#: overwrite the screen; the latter cannot be encoded.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: More columns than any table has.
_ANY_WIDTH = 1_000_000

#: From this width on, in columns, a table is legible even if some of its cells are folded.
_WIDE = 140


def console(*, stderr: bool = False) -> Console:
    """A console without highlighting, markup and emoji codes; without colours if `NO_COLOR` is set."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def fits(table: Table, screen: Console) -> bool:
    """Whether a table is legible on a screen: without a folded cell, unless the screen is wide. In a pipe, it is."""
    return not screen.is_terminal or screen.width >= _WIDE or _width_of(table, screen) <= screen.width


def print_unfolded(table: Table) -> None:
    """Print a table; in a pipe as wide as it is, so that a program that reads lines finds a row on one line."""
    screen = console()
    if not screen.is_terminal:
        screen.width = max(screen.width, _width_of(table, screen))
    screen.print(table)


def _width_of(table: Table, screen: Console) -> int:
    return screen.measure(table, options=screen.options.update(max_width=_ANY_WIDTH)).maximum


def abandon_output() -> None:
    """Discard what is still to be written to standard output: its reader has gone, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """Text from another program, on one line, without control characters for the terminal and lone surrogates."""
    return _UNPRINTABLE.sub(" ", text)


class Spinner:
    """A spinner on a terminal; nothing in a pipe. A context manager."""

    def __init__(self, waiting_for: str) -> None:
        screen = console(stderr=True)
        self._status = screen.status(waiting_for) if screen.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, line: str, *, err: bool = False) -> None:
        """Print a line on standard output, or on standard error; the spinner is stopped meanwhile."""
        with ExitStack() as stack:
            if self._status is not None:
                self._status.stop()
                stack.callback(self._status.start)
            typer.echo(line, err=err)


def outcome_text(outcome: str) -> Text:
    """An outcome in its colour."""
    return Text(printable(outcome), style=_STYLES.get(outcome, ""))


def local_time(moment: datetime) -> str:
    """An instant in local time, with its zone."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def local_minute(moment: datetime) -> str:
    """An instant in local time, without seconds and zone, for tables."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def local_clock(moment: datetime) -> str:
    """An instant in local time, only hours, minutes and seconds."""
    return f"{moment.astimezone():%H:%M:%S}"


def read_time(text: object) -> datetime | None:
    """A time from JSON; None if the value is no time."""
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None
