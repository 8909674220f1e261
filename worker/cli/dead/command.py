"""`unlink-worker dead`: list, replay and discard dead letters."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from worker.broker.client import BrokerClientError
from worker.cli.dead.views import count_of, groups_of, print_each, print_groups, print_one, print_report
from worker.cli.output.errors import INTERRUPTED, refuse, refuse_settings, settings_or_exit
from worker.cli.output.terminal import Output, OutputOption, console
from worker.clock import SystemClock
from worker.dead_letters.queue import DeadQueue, Taken
from worker.dead_letters.record import Record, opened_record
from worker.dead_letters.replay import Replay, Report
from worker.dead_letters.selection import Selection
from worker.ledger import Inspection, InspectionError
from worker.settings import ClientSettings, LedgerClientSettings, SettingsInvalidError, load

dead = typer.Typer(
    no_args_is_help=True, help="Dead-lettered messages: commands that cannot be read, routed, or allowed."
)

_Name = Annotated[
    str | None, typer.Argument(metavar="[KEY]", help="The idempotency key or message ID.", show_default=False)
]
_Position = Annotated[
    int | None, typer.Option("--position", "-p", min=1, help="The place in the queue, as shown by `list --each`.")
]
_Reason = Annotated[str | None, typer.Option(help="Only those with this reason code.")]
_Manager = Annotated[str | None, typer.Option("--enterprise-manager", "--em", help="Only those for this one.")]
_All = Annotated[bool, typer.Option("--all", help="All of them.")]

_WITHOUT_LEDGER = (
    "Without the ledger it is not known which of these have ended. The workers know: such a command is answered with "
    "its old event and not done again, unless its key was pruned from the ledger meanwhile."
)


@dead.command(name="list")
def list_(
    *,
    each: Annotated[bool, typer.Option("--each", help="A line for each message, with its position.")] = False,
    reason: _Reason = None,
    enterprise_manager: _Manager = None,
    output: Annotated[
        Output, typer.Option(help="json: one object; with --each one a line, whole messages, their times in UTC.")
    ] = "text",
) -> None:
    """Count the dead letters by reason and Enterprise Manager. Exit status 0; 1 if the broker cannot be reached."""
    selection = Selection(reason=reason, enterprise_manager=enterprise_manager)
    with _queue() as queue, queue.messages() as messages:
        chosen = selection.among(messages)
        if each:
            print_each(chosen, output)
        else:
            print_groups(groups_of(chosen), output)


@dead.command()
def show(
    *,
    name: _Name = None,
    position: _Position = None,
    output: Annotated[Output, typer.Option(help="json: one object, its times in UTC.")] = "text",
) -> None:
    """Show one dead letter: why it is there, its properties, headers and body. Of several with one key, the oldest.

    Exit status 0; 1 if there is no such message, or the broker cannot be reached; 2 wrong usage.
    """
    selection = Selection(name=name, position=position)
    _require(selection, "KEY or --position")
    with _queue() as queue, queue.messages() as messages:
        taken = next(selection.among(messages), None)
        if taken is not None:
            print_one(taken, output)
    if taken is None:
        refuse("There is no such dead letter.", status=1)


@dead.command()
def replay(
    *,
    name: _Name = None,
    position: _Position = None,
    reason: _Reason = None,
    enterprise_manager: _Manager = None,
    everything: _All = False,
    without_ledger: Annotated[
        bool, typer.Option("--without-ledger", help="Do not ask the ledger which commands have ended.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what cannot be read.")] = False,
    output: Annotated[Output, typer.Option(help="json: one object that counts.")] = "text",
) -> None:
    """Put dead letters on the queue again, as new: one, a group, or all.

    A message is removed only after the broker has confirmed its copy. If a command was given up and its key has ended,
    its run is retried. Other commands that have ended are skipped, and so are those that would be dead-lettered again.
    Needs UNLINK_LEDGER__URL, or --without-ledger.

    Exit status 0; 1 if there is no such message, if some stay that have not ended, or if broker or ledger cannot be
    reached; 2 wrong usage.
    """
    selection = Selection(name, position, reason, enterprise_manager, everything)
    _require(selection, "KEY, --position, --reason, --em or --all")
    ledger = None if without_ledger else _ledger()
    if without_ledger:
        console(stderr=True).print(_WITHOUT_LEDGER)
    report = Report()
    try:
        with _queue() as queue, _progress() as show:
            Replay(queue, ledger, force, lambda now: show(f"{now.replayed} replayed")).run(selection, report)
    except InspectionError as error:
        print_report(report, output)
        refuse(str(error), status=1)
    except KeyboardInterrupt:
        print_report(report, output)
        refuse("Interrupted; the others are still in unlink.dead.", status=INTERRUPTED)
    except typer.Exit:
        if report.replayed:
            print_report(report, output)
        raise
    print_report(report, output)
    if selection.one and not report.replayed and not report.left:
        refuse("There is no such dead letter.", status=1)
    raise typer.Exit(0 if report.all_seen_to else 1)


@dead.command()
def discard(  # noqa: PLR0913 - one parameter an option
    *,
    record: Annotated[Path, typer.Option(dir_okay=False, help="A line of JSON for each is added to this file.")],
    name: _Name = None,
    position: _Position = None,
    reason: _Reason = None,
    enterprise_manager: _Manager = None,
    everything: _All = False,
    why: Annotated[str | None, typer.Option(help="Written into the record.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: OutputOption = "text",
) -> None:
    """Discard dead letters: one, a group, or all. Each is first written to a file, and flushed to the disk.

    Exit status 0; 1 if there is no such message, if it was not confirmed, or if the broker cannot be reached; 2 wrong
    usage, or the record cannot be written.
    """
    selection = Selection(name, position, reason, enterprise_manager, everything)
    _require(selection, "KEY, --position, --reason, --em or --all")
    if not yes and not sys.stdin.isatty():
        refuse("Without a terminal to ask on, --yes is needed.")
    confirmed = None if yes else _confirmed(selection)
    try:
        with opened_record(record) as file, _queue() as queue, queue.messages() as messages:
            written = Record(file, why, queue.user)
            for taken in selection.among(messages):
                if confirmed is None or _digest(taken) in confirmed:
                    written.discard(queue, taken)
            written.finish(queue)
    except OSError as error:
        refuse(f"The record {record} cannot be written: {error.strerror}")
    if output == "json":
        typer.echo(json.dumps({"discarded": written.discarded, "record": str(record)}))
    else:
        typer.echo(f"{written.discarded} discarded, and written down in {record}")
    if selection.one and not written.discarded:
        refuse("There is no such dead letter.", status=1)


def _confirmed(selection: Selection) -> set[bytes]:
    """Ask for confirmation; return the digests of the selected messages. None is held while the user decides."""
    with _queue() as queue, queue.messages() as messages:
        meant = [_digest(taken) for taken in selection.among(messages)]
    if not meant:
        refuse("There is no such dead letter.", status=1)
    if not typer.confirm(f"Discard {count_of(len(meant))}?", err=True):
        refuse("Nothing was discarded.", status=1)
    return set(meant)


def _digest(taken: Taken) -> bytes:
    message = taken.message
    known = (message.message_id, message.reason_code, message.since)
    return hashlib.blake2b(repr(known).encode() + message.body, digest_size=16).digest()


def _require(selection: Selection, what: str) -> None:
    if not selection.given:
        refuse(f"Say which: {what}.")
    if selection.everything and selection != Selection(everything=True):
        refuse("--all means all: leave the others out.")


@contextmanager
def _queue() -> Iterator[DeadQueue]:
    settings = settings_or_exit(ClientSettings)
    try:
        with DeadQueue(settings.broker) as queue:
            yield queue
    except BrokerClientError as error:
        refuse(str(error), status=1)


def _ledger() -> Inspection:
    try:
        return Inspection(load(LedgerClientSettings).ledger, SystemClock())
    except SettingsInvalidError as error:
        if "UNLINK_LEDGER__URL: is needed" not in str(error):
            refuse_settings(error)
        refuse("UNLINK_LEDGER__URL is needed, to know what has ended; or add --without-ledger.")


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show the progress, on a terminal only."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda _text: None
        return
    with screen.status("taking the messages") as status:
        yield status.update
