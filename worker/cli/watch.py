"""`unlink-worker watch`: the events as they come, a live table on a terminal, JSON lines in a pipe."""

from __future__ import annotations

import os
import random
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Protocol, Self

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from contracts.events import Outcome
from worker.cli.mailbox import Heard, Mailbox, MailboxError
from worker.cli.refusals import refuse, settings_or_exit
from worker.cli.terminal import console, local_clock, outcome_text, printable, read_time
from worker.cli.wording import explanation
from worker.settings import ClientSettings

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from worker.settings import BrokerSettings

#: The first and the longest pause before the broker is tried again, in seconds, before jitter.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0

#: More rows than any terminal has; of these, as many are shown as fit.
_MOST_ROWS = 300

#: Lines of the table that are not events: its header, the line below, and the one that the shell needs.
_OTHER_LINES = 3


def watch(
    *,
    enterprise_manager: Annotated[
        str | None, typer.Option("--enterprise-manager", "--em", metavar="NAME", help="Only this one's events.")
    ] = None,
    outcome: Annotated[
        list[Outcome] | None,
        typer.Option(metavar="OUTCOME", help="Only these, such as failed or timed_out; may be repeated."),
    ] = None,
    output: Annotated[
        Literal["table", "json"] | None,
        typer.Option(help="Without it: a table on a terminal, JSON lines in a pipe.", show_default=False),
    ] = None,
) -> None:
    """Show events as they are published, until Ctrl-C; the exit status is then 0.

    Only what is published meanwhile is seen: `unlink-worker status KEY` tells what was before. If the broker goes away
    it is waited for; if it cannot be reached at the start, the exit status is 1.
    """
    settings = settings_or_exit(ClientSettings)
    outcomes = [each.value for each in outcome] if outcome else ["*"]
    wanted = [f"{each}.{enterprise_manager or '*'}" for each in outcomes]
    table = output == "table" or (output is None and sys.stdout.isatty())
    with _Screen(one_manager=enterprise_manager is not None) if table else _Lines() as display:
        try:
            _watch(settings.broker, wanted, display)
        except KeyboardInterrupt:
            return
        except BrokenPipeError:
            _leave_the_pipe()


class _Display(Protocol):
    def connected(self) -> None: ...

    def lost(self, problem: str) -> None: ...

    def heard(self, event: Heard) -> None: ...


def _watch(settings: BrokerSettings, routing_keys: list[str], display: _Display) -> NoReturn:
    pause = _FIRST_PAUSE
    ever_connected = False
    while True:
        try:
            with Mailbox(settings) as mailbox:
                mailbox.listen(*routing_keys)
                display.connected()
                ever_connected, pause = True, _FIRST_PAUSE
                while True:
                    event = _next(mailbox)
                    if event is not None:
                        display.heard(event)
        except MailboxError as error:
            if not ever_connected:
                refuse(str(error), status=1)
            display.lost(str(error))
            time.sleep(pause * (0.5 + random.random()))  # noqa: S311 - jitter, no secret
            pause = min(2 * pause, _LONGEST_PAUSE)


def _next(mailbox: Mailbox) -> Heard | None:
    """The next event; what somebody else has put on the exchange, and is none, is passed over.

    Not held against the contract: a newer worker may say more in an event.
    """
    try:
        event = mailbox.next_event(seconds=0.5)
    except ValueError:  # no JSON
        return None
    content: Any = event.content if event is not None else None
    data = content.get("data") if isinstance(content, dict) else None
    return event if isinstance(data, dict) and isinstance(data.get("outcome"), str) else None


def _leave_the_pipe() -> NoReturn:
    """Whoever read the lines has gone, as `head` does: end without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(0)


class _Lines:
    """JSON lines: the events as they were published. What is to be said beside them goes to standard error."""

    def __init__(self) -> None:
        self._lost = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def connected(self) -> None:
        """Said only after a loss."""
        if self._lost:
            typer.echo("The broker is back; what was published meanwhile was not seen.", err=True)
        self._lost = False

    def lost(self, problem: str) -> None:
        """Said once a loss."""
        if not self._lost:
            typer.echo(f"{problem}\nWaiting for the broker.", err=True)
        self._lost = True

    def heard(self, event: Heard) -> None:
        """One line, at once."""
        sys.stdout.write(event.body.decode().replace("\n", " ") + "\n")
        sys.stdout.flush()


@dataclass(slots=True)
class _Shown:
    """The table as it stands; made anew for the terminal's present size whenever it is drawn."""

    one_manager: bool
    events: deque[Heard] = field(default_factory=lambda: deque(maxlen=_MOST_ROWS))
    count: int = 0
    state: Text = field(default_factory=lambda: Text("connecting", style="dim"))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = max(options.size.height - _OTHER_LINES, 1)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
        table.add_column("at", no_wrap=True)
        table.add_column("outcome", no_wrap=True, min_width=len(Outcome.SUCCEEDED))
        if not self.one_manager:
            table.add_column("manager", no_wrap=True, overflow="ellipsis", max_width=12)
        table.add_column("key", no_wrap=True, overflow="ellipsis", ratio=2)
        table.add_column("because", no_wrap=True, overflow="ellipsis", ratio=3)
        for event in list(self.events)[-rows:]:
            manager = [] if self.one_manager else [printable(str(event.data.get("enterprise_manager", "")))]
            table.add_row(
                _when(event),
                outcome_text(event.outcome),
                *manager,
                printable(event.key or "(no key)"),
                printable(_because(event)),
            )
        yield Group(table, self.state)


class _Screen:
    """The live table."""

    def __init__(self, *, one_manager: bool) -> None:
        self._shown = _Shown(one_manager)
        self._live = Live(self._shown, console=console(), auto_refresh=False, vertical_overflow="crop")
        self._missed = False

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._live.stop()

    def connected(self) -> None:
        self._refresh()

    def lost(self, problem: str) -> None:
        self._missed = True
        self._shown.state = Text(f"{printable(problem)}; waiting for the broker", style="bold red")
        self._live.refresh()

    def heard(self, event: Heard) -> None:
        self._shown.events.append(event)
        self._shown.count += 1
        self._refresh()

    def _refresh(self) -> None:
        count = "no event yet" if self._shown.count == 0 else f"{self._shown.count} events"
        missed = "; some were missed while the broker was away" if self._missed else ""
        self._shown.state = Text(f"{count}{missed}; Ctrl-C ends", style="dim")
        self._live.refresh()


def _when(event: Heard) -> str:
    time_said = read_time(event.content.get("time"))
    return "" if time_said is None else local_clock(time_said)


def _because(event: Heard) -> str:
    try:
        return explanation(event)
    except (KeyError, TypeError, ValueError):  # of a kind that this version does not know
        return ""
