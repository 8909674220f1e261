"""Publishing commands and telling how they fare: on a terminal, in a pipe, and when it is interrupted."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from worker.broker.client import BrokerClient, BrokerClientError
from worker.cli.awaiting import Awaited, Following
from worker.cli.output.event_text import explanation, in_words
from worker.cli.output.terminal import Output, console, printable

if TYPE_CHECKING:
    from worker.broker.received_event import ReceivedEvent
    from worker.cli.submit.drafts import Draft
    from worker.settings import ClientSettings

#: The exit status after Ctrl-C, as the shell has it.
INTERRUPTED = 130

_MOST_NAMED = 20


def submit_all(
    settings: ClientSettings, drafts: list[Draft], *, wait: bool, seconds: float | None, output: Output
) -> int:
    """Publish, and with `wait` follow to the end; the exit status."""
    awaited = [Awaited(each.command.idempotency_key, each.body, each.command.dry_run) for each in drafts]
    following = Following(awaited)
    submitted = 0
    try:
        with BrokerClient(settings.broker) as client:
            for name in {each.command.enterprise_manager for each in drafts}:
                client.require_queue(name)
            if wait:
                client.listen()
            with _Teller(following, output, waiting=wait) as teller:
                for each in drafts:
                    client.publish(each.body, each.command.enterprise_manager)
                    submitted += 1
                    teller.submitted(each)
                if wait:
                    following.until_ended(client, seconds, teller.heard)
    except BrokerClientError as error:
        _say_what_is_open(following, submitted, len(drafts), f"{error}\n")
        return 1
    except KeyboardInterrupt:
        _say_what_is_open(following, submitted, len(drafts), "\nNo longer waiting. ")
        return INTERRUPTED
    if not wait:
        return 0
    if len(drafts) > 1 and output == "text":
        console().print(_closing_table(following))
    if following.open:
        _say_what_is_open(following, submitted, len(drafts), f"No end within {seconds:g} s. ")
    return following.exit_status


class _Teller:
    """Tells what happens: a spinner or a progress bar on a terminal, a line each in a pipe."""

    def __init__(self, following: Following, output: Output, *, waiting: bool) -> None:
        self._stack = ExitStack()
        self._following = following
        self._output = output
        self._many = len(following.open) > 1
        self._console = console(stderr=True)
        self._progress: Progress | None = None
        if self._many and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._progress = Progress(*columns, console=self._console)
            total = len(following.open)
            self._out = self._progress.add_task("submitted", total=total)
            self._in = self._progress.add_task("ended", total=total, visible=waiting)
        alone = not self._many and waiting and self._console.is_terminal
        self._spinner = self._console.status("waiting for a worker") if alone else None

    def __enter__(self) -> Self:
        if (live := self._progress or self._spinner) is not None:
            self._stack.enter_context(live)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def submitted(self, each: Draft) -> None:
        """One command is with the broker."""
        if self._progress is not None:
            self._progress.advance(self._out)
        elif self._output == "text":
            self._say(f"{each.command.idempotency_key}  on the queue of {each.command.enterprise_manager}")

    def heard(self, event: ReceivedEvent) -> None:
        """An event about one of them."""
        if self._output == "json":
            self._say(event.body.decode())
        elif self._progress is None:
            self._say(in_words(event))
        if self._progress is not None:
            self._progress.update(self._in, completed=len(self._following.ended))
        if self._spinner is not None:
            self._spinner.update("Enterprise Manager is at work")

    def _say(self, line: str) -> None:
        live = self._progress or self._spinner
        if live is None or not sys.stdout.isatty():
            typer.echo(line)
            return
        live.stop()  # both write on one screen
        typer.echo(line)
        live.start()


def _closing_table(following: Following) -> Table:
    """How many ended how; and each that did not end well."""
    table = Table(box=None, pad_edge=False)
    table.add_column("outcome")
    table.add_column("commands", justify="right")
    table.add_column("not as wished", overflow="fold")
    by_outcome: dict[str, list[ReceivedEvent]] = {}
    for event in following.ended.values():
        by_outcome.setdefault(event.outcome, []).append(event)
    for outcome, events in sorted(by_outcome.items()):
        told = [
            printable(f"{event.key or '(no key)'}: {explanation(event)}")
            for event in events
            if event.data.get("reason")
        ]
        table.add_row(outcome, str(len(events)), _few(told))
    if following.open:
        table.add_row("still open", str(len(following.open)), _few(list(following.open)))
    return table


def _few(lines: list[str]) -> str:
    hidden = len(lines) - _MOST_NAMED
    return "\n".join(lines[:_MOST_NAMED] + ([f"and {hidden} more"] if hidden > 0 else []))


def _say_what_is_open(following: Following, submitted: int, total: int, why: str) -> None:
    """Nothing half-said: what is with the broker, what is not, and how to look at it later."""
    keys = list(following.open)
    typer.echo(
        f"{why}{submitted} of {total} submitted; {len(keys)} not known to have ended:\n"
        f"{_few([f'  {key}' for key in keys])}\n"
        "What is submitted stays with the broker. `unlink-worker status KEY` tells how it stands; submitting the same "
        "again is safe.",
        err=True,
    )
