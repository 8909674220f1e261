"""The command line, `unlink-worker`: one small file a command."""

from __future__ import annotations

import typer

from worker.cli import contracts, demo, run, sandbox, submit

app = typer.Typer(
    name="unlink-worker",
    help="Removes linked repositories from Veeam backup copy jobs, as commands on RabbitMQ ask.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(name="run")(run.run)
app.command(name="submit")(submit.submit)
app.command(name="sandbox")(sandbox.sandbox)
app.command(name="demo")(demo.demo)
app.command(name="contracts")(contracts.contracts)


def main() -> None:
    """Enter the program."""
    app()
