"""`unlink-worker watch`: the events as they arrive, as a live table on a terminal or as JSON lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Annotated, Literal, NoReturn, Protocol, Self

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from contracts.commands import EnterpriseManagerName
from contracts.events import Outcome
from contracts.reading import describe
from worker.broker.client import BrokerClient, BrokerClientError
from worker.broker.received_event import ReceivedEvent
from worker.cli.output.errors import refuse, settings_or_exit
from worker.cli.output.event_text import explanation
from worker.cli.output.naming import link_of, ticket_of
from worker.cli.output.terminal import abandon_output, console, local_clock, outcome_text, printable
from worker.clock import SystemClock
from worker.settings import BrokerSettings, ClientSettings
from worker.unlinks.back_off import BackOff

#: The first and the longest pause before the broker is tried again, in seconds, before jitter.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0

#: How long one call waits for an event, in seconds; and the shortest time between two drawings of the table.
_LISTEN_SECONDS = 0.2
_DRAW_SECONDS = 0.1

#: The rows that are kept: more than any terminal has. As many of them are shown as fit.
_MOST_ROWS = 300

#: Lines that are not events: the table's header, the line below the table, and one line for the shell.
_OTHER_LINES = 3

#: Characters between two columns; and the greatest width of an Enterprise Manager's name.
_GAP = 2
_MANAGER_WIDTH = 12

#: The greatest width of these columns on a terminal of 80 characters, and its growth with each character more. Keys are
#: long, and mean little to people.
_SHARES = {"job / repository": (20, 0.3), "ticket": (8, 0.1), "key": (7, 0.25)}
_NARROW = 80


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

    Only events of unlinks are shown that are published from now on; for earlier ones see `unlink-worker status KEY`,
    and for batches `unlink-worker list --batch`. If the broker goes away, it is waited for; if it cannot be reached at
    the start, the exit status is 1.
    """
    if enterprise_manager is not None:
        _require_name(enterprise_manager)
    settings = settings_or_exit(ClientSettings)
    outcomes = [each.value for each in outcome] if outcome else ["*"]
    wanted = [f"{each}.{enterprise_manager or '*'}" for each in outcomes]
    table = output == "table" or (output is None and sys.stdout.isatty())
    with _Screen() if table else _Lines() as display:
        try:
            _watch(settings.broker, wanted, display)
        except KeyboardInterrupt:
            return
        except BrokenPipeError:  # as by `head`, which is no error
            abandon_output()


def _require_name(enterprise_manager: str) -> None:
    """Refuse what can be no name: no event would ever be shown."""
    try:
        TypeAdapter(EnterpriseManagerName).validate_python(enterprise_manager)
    except ValidationError as error:
        refuse(f"--em: {describe(error).removeprefix('message: ')}")


class _Display(Protocol):
    def connected(self) -> None: ...

    def lost(self, problem: str) -> None: ...

    def received(self, event: ReceivedEvent) -> None: ...

    def skipped(self, said: str) -> None: ...

    def nothing_received(self) -> None: ...


def _watch(settings: BrokerSettings, routing_keys: list[str], display: _Display) -> NoReturn:
    back_off = BackOff(SystemClock(), _FIRST_PAUSE, _LONGEST_PAUSE)
    ever_connected = False
    while True:
        try:
            with BrokerClient(settings) as client:
                client.listen(*routing_keys, skipped=display.skipped)
                display.connected()
                ever_connected = True
                back_off.reset()
                while True:
                    if (event := client.next_event(_LISTEN_SECONDS)) is not None:
                        display.received(event)
                    else:
                        display.nothing_received()
        except BrokerClientError as error:
            if not ever_connected:
                refuse(str(error), status=1)
            display.lost(str(error))
            time.sleep(back_off.pause())


class _Lines:
    """JSON lines: the events as they were published. Other messages go to standard error."""

    def __init__(self) -> None:
        self._lost = False
        self._skipped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def connected(self) -> None:
        """Print that the broker is back, but only after a loss."""
        if self._lost:
            typer.echo("The broker is back; what was published meanwhile was not seen.", err=True)
        self._lost = False

    def lost(self, problem: str) -> None:
        """Print the problem, once for each loss."""
        if not self._lost:
            typer.echo(f"{problem}\nWaiting for the broker.", err=True)
        self._lost = True

    def received(self, event: ReceivedEvent) -> None:
        """Print one line, and flush it."""
        sys.stdout.write(event.line + "\n")
        sys.stdout.flush()

    def skipped(self, said: str) -> None:
        """Print it, the first time."""
        if not self._skipped:
            typer.echo(said, err=True)
        self._skipped = True

    def nothing_received(self) -> None:
        """Print nothing."""


@dataclass(slots=True)
class _Shown:
    """The content of the table. The table is built for the terminal's current size each time it is drawn."""

    events: deque[ReceivedEvent] = field(default_factory=lambda: deque(maxlen=_MOST_ROWS))
    count: int = 0
    state: Text = field(default_factory=Text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        events = list(self.events)[-max(options.size.height - _OTHER_LINES, 1) :]
        rows = [_row(event) for event in events]
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
        for name, width in _widths(rows, options.size.width).items():
            table.add_column(name, width=width, no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*(row[str(column.header)] for column in table.columns))
        yield Group(table, self.state)


class _Screen:
    """The live table."""

    def __init__(self) -> None:
        self._shown = _Shown()
        self._live = Live(self._shown, console=console(), auto_refresh=False, vertical_overflow="crop")
        self._missed = False
        self._skipped = False
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._live.stop()

    def connected(self) -> None:
        """Show the table, from the first connection on."""
        self._live.start()
        self._draw()

    def lost(self, problem: str) -> None:
        self._missed = True
        said = f"waiting for the broker: {printable(problem)}"
        self._shown.state = Text(said, style="bold red", no_wrap=True, overflow="ellipsis")
        self._live.refresh()

    def received(self, event: ReceivedEvent) -> None:
        self._shown.events.append(event)
        self._shown.count += 1
        if time.monotonic() > self._drawn + _DRAW_SECONDS:
            self._draw()

    def skipped(self, _said: str) -> None:
        """Say so in the line below the table, from now on."""
        self._skipped = True

    def nothing_received(self) -> None:
        """Draw the events that arrived since the last drawing."""
        self._draw()

    def _draw(self) -> None:
        count = {0: "no event yet", 1: "1 event"}.get(self._shown.count, f"{self._shown.count} events")
        missed = "; some were missed while the broker was away" if self._missed else ""
        skipped = "; messages that are no events were skipped" if self._skipped else ""
        said = f"{count}{missed}{skipped}; Ctrl-C ends"
        self._shown.state = Text(said, style="dim", no_wrap=True, overflow="ellipsis")
        self._live.refresh()
        self._drawn = time.monotonic()


def _row(event: ReceivedEvent) -> dict[str, Text]:
    return {
        "at": Text(_when(event)),
        "outcome": outcome_text(event.outcome),
        "manager": Text(printable(str(event.data.get("enterprise_manager", "")))),
        "job / repository": Text(printable(link_of(event.data))),
        "ticket": Text(printable(ticket_of(event.data))),
        "key": Text(printable(event.key or "(no key)")),
        "because": Text(printable(explanation(event))),
    }


def _widths(rows: list[dict[str, Text]], total: int) -> dict[str, int]:
    """The columns. Times and outcomes are shown whole, the others as far as they fit; the manager only if several."""
    widths = {"at": len("00:00:00"), "outcome": len(Outcome.SUCCEEDED)}
    if len({row["manager"].plain for row in rows}) > 1:
        widths["manager"] = min(max(len(row["manager"]) for row in rows), _MANAGER_WIDTH)
    for name, (least, share) in _SHARES.items():
        longest = max((len(row[name]) for row in rows), default=0)
        if longest or name == "key":
            widths[name] = max(min(longest, least + round(max(total - _NARROW, 0) * share)), len(name))
    widths["because"] = max(total - sum(widths.values()) - _GAP * len(widths), len("because"))
    return widths


def _when(event: ReceivedEvent) -> str:
    return local_clock(event.made_at)
