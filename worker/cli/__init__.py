"""The command line, `unlink-worker`: one small file a command."""

from __future__ import annotations

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
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
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
