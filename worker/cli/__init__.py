"""The command line, `unlink-worker`: a module or folder for each command, imported only when the command is typed.

What several commands share is in `publishing`, `output`, `tryout` and `catalogue.py`; a command imports no other one.
"""

from __future__ import annotations

import errno
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup


class _Place(NamedTuple):
    """The module of a command, and its line in the list of commands, which is the first line of its own help.

    `function` is the name of its function, if that differs from the name of the command.
    """

    module: str
    summary: str
    function: str | None = None


#: The commands, in the order of the help. Their modules are imported on demand: importing all takes half a second.
COMMANDS = {
    "run": _Place("run", "Take unlink commands until SIGTERM or SIGINT; then let what is under way end, and stop."),
    "submit": _Place("submit", "Put unlink commands on the queue: one from options, or many from a file."),
    "offboard": _Place(
        "offboard",
        "Remove all links to a repository: show the plan, ask, publish one command for each link, and wait.",
    ),
    "cancel": _Place("cancel", "Ask for an unlink to be stopped."),
    "retry": _Place(
        "retry", "Run unlinks again that ended as failed, timed out or cancelled: by key, ticket, batch or reason."
    ),
    "status": _Place("status", "Show what the ledger knows of one key, or of a ticket's, with the recorded steps."),
    "list": _Place("listing", "Find unlinks in the ledger; with --output csv, the audit export.", "list_unlinks"),
    "links": _Place(
        "links", "List what can be unlinked: a copy job's links, or all links to a repository. Changes nothing."
    ),
    "watch": _Place("watch", "Show events as they are published, until Ctrl-C; the exit status is then 0."),
    "dead": _Place("dead.command", "Dead-lettered messages: commands that cannot be read, routed, or allowed."),
    "pause": _Place("pause", "Stop taking an Enterprise Manager's commands; without a name, list what is paused."),
    "resume": _Place("pause", "Take an Enterprise Manager's commands again."),
    "ledger": _Place("ledger", "The database of idempotency keys."),
    "topology": _Place("topology", "The broker's exchanges, queues and bindings."),
    "doctor": _Place(
        "doctor.command", "Check broker, ledger and every Enterprise Manager; change nothing, except with --with-job."
    ),
    "sandbox": _Place(
        "sandbox.command",
        "Run a private broker, a simulated Enterprise Manager, a worker and the console until Ctrl-C.",
    ),
    "demo": _Place(
        "demo.command",
        "Show the worker at work, on a private broker and a simulated Enterprise Manager. Changes nothing of yours.",
    ),
    "console": _Place(
        "console",
        "Serve web pages and an HTTP API about unlinks, Enterprise Managers and workers, until SIGTERM or SIGINT.",
    ),
    "contracts": _Place(
        "contracts.command",
        "Print the JSON Schemas of the messages, by name; or the AsyncAPI document; or write both to files.",
    ),
}

#: The errors of an output that takes no more.
_NOT_WRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE})

_MARKUP: Literal["markdown"] = "markdown"


class _CommandsOnDemand(TyperGroup):
    """The commands by name and summary; the one that is typed is imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, for the help and for completion."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, if it was typed; else one that has only its summary."""
        place = COMMANDS.get(cmd_name)
        return super().get_command(ctx, cmd_name) or (place and TyperCommand(cmd_name, help=place.summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that is typed."""
        if args[0] in COMMANDS:
            self.commands[args[0]] = load(args[0])
        return super().resolve_command(ctx, args)


def load(name: str) -> Any:
    """Import a command by its name."""
    place = COMMANDS[name]
    found = getattr(import_module(f"worker.cli.{place.module}"), place.function or name)
    if isinstance(found, typer.Typer):
        found.rich_markup_mode = _MARKUP
        group = typer.main.get_group(found)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False, rich_markup_mode=_MARKUP)
    alone.command(name)(found)
    return typer.main.get_command(alone)


app = typer.Typer(
    name="unlink-worker",
    cls=_CommandsOnDemand,
    help="Removes linked repositories from Veeam backup copy jobs, as commands on RabbitMQ ask.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=_MARKUP,
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - it takes longer to import than the rest of this module

        typer.echo(f"unlink-worker {version('unlink-worker')}")
        raise typer.Exit


@app.callback()
def _program(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command that `sys.argv` names, and exit. Exit status 1 if its output cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what the terminal's encoding lacks, or a lone surrogate, becomes `?`
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in _NOT_WRITTEN or error.filename is not None:
            raise
        _refuse_the_rest(error)


def _refuse_the_rest(error: OSError) -> NoReturn:
    from worker.cli.output.terminal import abandon_output  # noqa: PLC0415 - hardly ever needed

    abandon_output()
    if error.errno != errno.EPIPE:  # a reader that has seen enough, such as `head`, is told nothing
        sys.stderr.write(f"The output cannot be written: {error.strerror}.\n")
    sys.exit(1)
