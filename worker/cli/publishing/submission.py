"""Publishing commands and reporting their progress: on a terminal, in a pipe, and after an interruption."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Self

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from worker.broker.awaited import Awaited
from worker.broker.client import BrokerClient, BrokerClientError, NoQueueError
from worker.broker.received_event import ReceivedEvent
from worker.cli.output.errors import INTERRUPTED, WRONG_USAGE
from worker.cli.output.event_text import in_words
from worker.cli.output.naming import named
from worker.cli.output.stalls import Stalls
from worker.cli.output.terminal import Output, abandon_output, console, local_time, printable
from worker.cli.publishing.awaiting import Following
from worker.cli.publishing.drafts import Draft
from worker.clock import SystemClock
from worker.settings import ClientSettings

_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A command to publish, with its name for people, its time and the ID of its batch; for the rest see `Awaited`."""

    key: str
    enterprise_manager: str
    body: bytes
    name: str
    dry_run: bool = False
    after_run: int = 0
    batch: str | None = None
    not_before: datetime | None = None

    @property
    def awaited(self) -> Awaited:
        """The fields by which the command's terminal event is recognised."""
        return Awaited(self.key, self.body, self.dry_run, self.after_run)


def outgoing(draft: Draft) -> Outgoing:
    """A command to unlink."""
    command = draft.command
    name = printable(named(command.idempotency_key, command.model_dump(mode="json")))
    batch = None if command.batch is None else command.batch.id
    return Outgoing(
        command.idempotency_key,
        command.enterprise_manager,
        draft.body,
        name,
        command.dry_run,
        batch=batch,
        not_before=command.not_before,
    )


def publish_all(
    settings: ClientSettings,
    commands: list[Outgoing],
    *,
    wait: bool,
    seconds: float | None,
    output: Output,
    again: Callable[[ReceivedEvent], Outgoing | None] = lambda _event: None,
) -> int:
    """Publish the commands; with `wait`, wait until they have ended. Return the exit status.

    `again`: called with each event that answers a command. It returns a command to publish and wait for instead, or
    None.
    """
    following = Following(each.awaited for each in commands)
    published: int | None = None
    try:
        with BrokerClient(settings.broker) as client, _ProgressReporter(following, output, waiting=wait) as reporter:
            names = {each.enterprise_manager for each in commands}
            for name in names:
                client.require_queue(name)
            if wait:
                client.listen(skipped=reporter.warn)
            for count, each in enumerate(commands):
                published = count
                client.publish(each.body, each.enterprise_manager)
                published = count + 1
                reporter.submitted(each)
            reporter.all_submitted(commands)
            if wait:
                received = partial(_received, client, following, reporter, again)
                following.until_ended(client, seconds, received, Stalls(client, names, reporter.warn))
    except (BrokerClientError, KeyboardInterrupt, OSError) as error:
        why, status = _broken_off(error)
        _print_open(commands, following, published, why)
        return status
    if not wait:
        return 0
    if len(commands) > 1 and output == "text":
        _print_ends(following, _open(commands, following))
    if following.open:
        _print_open(commands, following, published, f"No end within {seconds:g} s. ")
    return following.exit_status


def _broken_off(error: BaseException) -> tuple[str, int]:
    """Why it ends before all is done, and the exit status. The broker's errors are no `OSError`: that is the output."""
    if isinstance(error, BrokerClientError):
        return f"{error}\n", WRONG_USAGE if isinstance(error, NoQueueError) else 1
    if isinstance(error, KeyboardInterrupt):
        return "\nNo longer waiting. ", INTERRUPTED
    abandon_output()
    return f"The output cannot be written ({error.strerror if isinstance(error, OSError) else error}). ", 1


def _received(
    client: BrokerClient,
    following: Following,
    reporter: _ProgressReporter,
    again: Callable[[ReceivedEvent], Outgoing | None],
    event: ReceivedEvent,
) -> None:
    if (instead := again(event)) is None:
        reporter.received(event)
        return
    client.publish(instead.body, instead.enterprise_manager)
    following.wait_instead(instead.awaited)
    reporter.published_again(instead, event)


class _ProgressReporter:
    """Reports progress: a spinner or a progress bar on a terminal, a line each in a pipe."""

    def __init__(self, following: Following, output: Output, *, waiting: bool) -> None:
        self._stack = ExitStack()
        self._following = following
        self._output = output
        self._many = len(following.open) > 1
        self._waiting = waiting
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

    def submitted(self, each: Outgoing) -> None:
        """Report that the broker has confirmed one command."""
        if self._progress is not None:
            self._progress.advance(self._out)
        elif self._output == "text":
            self._say(f"{each.name}  on the queue of {each.enterprise_manager}{_at_its_time(each)}")
        if self._output == "json" and not self._waiting:
            self._say(each.body.decode())

    def all_submitted(self, commands: Sequence[Outgoing]) -> None:
        """Name the batches, by which the commands are found later."""
        batches = Counter((each.batch, each.enterprise_manager) for each in commands if each.batch is not None)
        if self._output == "text":
            for (batch, enterprise_manager), count in batches.items():
                self._say(f"batch {printable(str(batch))}  {count} on the queue of {enterprise_manager}")

    def published_again(self, each: Outgoing, before: ReceivedEvent) -> None:
        """Report that the broker has confirmed a retry of a run that had ended before."""
        if self._output == "text" and self._progress is None:
            ended = f"{before.outcome}, {local_time(before.made_at)}"
            self._say(f"{each.name}  run {before.run or 1} had ended ({ended}); it is run again{_at_its_time(each)}")

    def received(self, event: ReceivedEvent) -> None:
        """Report an event about one of the commands."""
        if self._output == "json":
            self._say(event.line)
        elif self._progress is None:
            self._say(in_words(event))
        if self._progress is not None:
            self._progress.update(self._in, completed=len(self._following.ended))
        if self._spinner is not None:
            self._spinner.update("Enterprise Manager is at work")

    def warn(self, line: str) -> None:
        """Print why nothing happens, on standard error."""
        self._say(line, err=True)

    def _say(self, line: str, *, err: bool = False) -> None:
        live = self._progress or self._spinner
        if live is None or not (err or sys.stdout.isatty()):
            typer.echo(line, err=err)
            return
        live.stop()  # both write on one screen
        typer.echo(line, err=err)
        live.start()


def _at_its_time(each: Outgoing) -> str:
    if each.not_before is None or each.not_before <= SystemClock().now():
        return ""
    # A key that is known already keeps the time that it came with.
    asked = "to start at" if each.after_run else "asks to start at"
    return f", {asked} {local_time(each.not_before)}"


def _print_ends(following: Following, still_open: Sequence[Outgoing]) -> None:
    """Print the number of each outcome, then a line for each unlink that did not succeed."""
    table = Table(box=None, pad_edge=False)
    table.add_column("outcome")
    table.add_column("commands", justify="right")
    counts = Counter(event.outcome for event in following.ended.values())
    for outcome, count in sorted(counts.items()):
        table.add_row(outcome, str(count))
    if still_open:
        table.add_row("still open", str(len(still_open)))
    console().print(table)
    if before := sum(event.from_ledger for event in following.ended.values()):
        typer.echo(f"Of these, {before} had ended before and were answered from the ledger: nothing was sent again.")
    unwished = [in_words(event) for event in following.ended.values() if event.data.get("reason")]
    unwished += [f"{each.name}  still open" for each in still_open]
    if unwished:
        typer.echo("Not as wished:")
        typer.echo(_few([f"  {line}" for line in unwished]))


def _few(lines: list[str]) -> str:
    hidden = len(lines) - _MOST_NAMED
    return "\n".join(lines[:_MOST_NAMED] + ([f"and {hidden} more"] if hidden > 0 else []))


def _open(commands: Sequence[Outgoing], following: Following) -> list[Outgoing]:
    return [each for each in commands if each.awaited.identity in following.open]


def _print_open(commands: Sequence[Outgoing], following: Following, published: int | None, why: str) -> None:
    """Report which commands were published, which were not, and how to look them up later.

    `published`: how many the broker has confirmed; None if no command was sent to it.
    """
    if published is None:
        typer.echo(f"{why}Nothing was submitted.", err=True)
        return
    still_open = [f"  {each.name}" for each in _open(commands, following)]
    typer.echo(
        f"{why}{published} of {len(commands)} submitted; {len(still_open)} not known to have ended:\n"
        f"{_few(still_open)}\n"
        "What is submitted stays with the broker. `unlink-worker status KEY` shows its state; submitting the same "
        "again is safe.",
        err=True,
    )
