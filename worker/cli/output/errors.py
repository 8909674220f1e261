"""Errors of the command line: one line each, and an exit status."""

from __future__ import annotations

from typing import NoReturn, TypeVar

import typer

from worker.cli.output.terminal import printable
from worker.settings import (
    ClientSettings,
    ConsoleProgramSettings,
    EnterpriseManagerClientSettings,
    LedgerClientSettings,
    Settings,
    SettingsInvalidError,
    load,
)

#: The exit status for wrong usage or settings. Those of the outcomes are in `worker.cli.publishing.awaiting`.
WRONG_USAGE = 2
#: The exit status if no worker has seen a command with the key.
UNKNOWN = 6
#: The exit status after Ctrl-C, by the convention of shells.
INTERRUPTED = 130

SettingsKind = TypeVar(
    "SettingsKind",
    Settings,
    ClientSettings,
    LedgerClientSettings,
    EnterpriseManagerClientSettings,
    ConsoleProgramSettings,
)


def refuse(message: str, status: int = WRONG_USAGE) -> NoReturn:
    """Print the message on standard error and exit. It may contain text from a file or another program."""
    typer.secho("\n".join(printable(line) for line in message.split("\n")), err=True)
    raise typer.Exit(status)


def settings_or_exit(kind: type[SettingsKind]) -> SettingsKind:
    """Read the settings. If any are invalid, name each on a line of its own and exit with status 2."""
    try:
        return load(kind)
    except SettingsInvalidError as error:
        refuse_settings(error)


def refuse_settings(error: SettingsInvalidError) -> NoReturn:
    """Say which settings are wrong, one a line, and exit with status 2."""
    where = "README.md lists them all; docs/console/README.md, those of the console."
    refuse(f"The settings are wrong:\n{_indented(str(error))}\n{where}")


def refuse_without_extra(what: str, extra: str, error: ModuleNotFoundError) -> NoReturn:
    """Say that a part of the program is not installed, and how it is: by its lock, as the README installs the rest."""
    refuse(
        f"{what} needs {error.name}, of the extra `{extra}`, which is not installed. In the project's folder:\n"
        f"  pip install --no-deps --require-hashes --only-binary=:all: -r k8s/image/{extra}.lock"
    )


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())
