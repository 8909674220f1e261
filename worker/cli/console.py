"""`unlink-worker console`: web pages and an HTTP API; `console hash`: a line for the file of its users."""

from __future__ import annotations

import hashlib
import secrets
import sys
from typing import Annotated

import typer

from worker.cli.output.errors import refuse, refuse_settings, refuse_without_extra, settings_or_exit
from worker.clock import SystemClock
from worker.settings import ConsoleProgramSettings, SettingsInvalidError, secrets_of
from worker.telemetry import logs

console = typer.Typer(invoke_without_command=True)


@console.callback()
def serve_console(context: typer.Context) -> None:
    """Serve web pages and an HTTP API about unlinks, Enterprise Managers and workers, until SIGTERM or SIGINT.

    Without users it is read-only and serves its own host alone. Users are those of the file
    UNLINK_CONSOLE__USERS_FILE, a line of which `console hash` makes, and those of UNLINK_CONSOLE__OIDC__...;
    UNLINK_CONSOLE__PUBLIC_URL is the address in their browsers. Needs UNLINK_LEDGER__URL; with UNLINK_BROKER__URL it
    shows how many commands wait, and users can order. UNLINK_CONSOLE__HOST and UNLINK_CONSOLE__PORT say where it
    listens, by default http://127.0.0.1:9465/. Exit status 2 for wrong settings.
    """
    if context.invoked_subcommand is not None:
        return
    try:
        from worker.console.server import serve  # noqa: PLC0415 - an extra that a worker does not install
    except ModuleNotFoundError as error:
        refuse_without_extra("The console", "console", error)
    settings = settings_or_exit(ConsoleProgramSettings)
    logs.configure(settings.log, secrets_of(settings))
    try:
        serve(settings, SystemClock())
    except SettingsInvalidError as error:
        refuse_settings(error)


@console.command(name="hash")
def hash_(
    *,
    token: Annotated[bool, typer.Option("--token", help="Make a random token for a program instead.")] = False,
) -> None:
    """Print the line for a user of the console: of a password, which is asked for or read from standard input.

    With --token, print a new random token on standard error, which is shown this once, and its line on standard output.
    Exit status 0; 2 for an empty password, or two that differ.
    """
    if token:
        made = secrets.token_urlsafe(32)
        typer.echo(f"Authorization: Bearer {made}", err=True)
        typer.echo(f'token_sha256 = "{hashlib.sha256(made.encode()).hexdigest()}"')
        return
    try:
        from worker.console.users import HASHER  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        refuse_without_extra("The console", "console", error)
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        refuse("The password is empty.")
    typer.echo(f'password_argon2 = "{HASHER.hash(password)}"')
