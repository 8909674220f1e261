"""The command line, `unlink-worker`: one small file a command."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from worker.cli import (
    cancel,
    contracts,
    dead,
    demo,
    doctor,
    ledger,
    pause,
    run,
    sandbox,
    status,
    submit,
    topology,
    watch,
)

app = typer.Typer(
    name="unlink-worker",
    help="Removes linked repositories from Veeam backup copy jobs, as commands on RabbitMQ ask.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if wanted:
        typer.echo(f"unlink-worker {version('unlink-worker')}")
        raise typer.Exit


@app.callback()
def _program(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


app.command(name="run")(run.run)
app.command(name="submit")(submit.submit)
app.command(name="cancel")(cancel.cancel)
app.command(name="status")(status.status)
app.command(name="watch")(watch.watch)
app.add_typer(dead.dead, name="dead")
app.command(name="pause")(pause.pause)
app.command(name="resume")(pause.resume)
app.add_typer(ledger.ledger, name="ledger")
app.add_typer(topology.topology, name="topology")
app.command(name="doctor")(doctor.doctor)
app.command(name="sandbox")(sandbox.sandbox)
app.command(name="demo")(demo.demo)
app.command(name="contracts")(contracts.contracts)


def main() -> None:
    """Enter the program."""
    app()
