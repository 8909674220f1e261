"""Errors of the command line: one line each, and an exit status."""

from __future__ import annotations

from typing import NoReturn, TypeVar

import typer

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
    """Print the message on standard error and exit."""
    typer.secho(message, err=True)
    raise typer.Exit(status)


def settings_or_exit(kind: type[SettingsKind]) -> SettingsKind:
    """Read the settings. If any are invalid, name each on a line of its own and exit with status 2."""
    try:
        return load(kind)
    except SettingsInvalidError as error:
        refuse_settings(error)


def refuse_settings(error: SettingsInvalidError) -> NoReturn:
    """Say which settings are wrong, one a line, and exit with status 2."""
    refuse(f"The settings are wrong:\n{_indented(str(error))}\nThe README lists them all.")


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())
