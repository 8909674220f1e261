"""`unlink-worker ledger`: pruning the ledger."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from worker.cli.output.errors import settings_or_exit
from worker.cli.output.opened_ledger import opened_ledger
from worker.cli.output.terminal import OutputOption
from worker.settings import LedgerClientSettings

ledger = typer.Typer(no_args_is_help=True, help="The database of idempotency keys.")


@ledger.command()
def prune(
    *,
    older_than_days: Annotated[
        float | None,
        typer.Option(min=1, help="Days since their end. Without it: UNLINK_LEDGER__RETENTION_DAYS, 90 unless set."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many there are.")] = False,
    output: OutputOption = "text",
) -> None:
    """Delete the keys that ended long ago, each with its history. A command that comes again later is a new one.

    Needs UNLINK_LEDGER__URL only; the workers may run meanwhile. Keys that have not ended are never deleted.
    Exit status 0; 1 if the ledger cannot be reached, 2 wrong usage.
    """
    settings = settings_or_exit(LedgerClientSettings).ledger
    days = settings.retention_days if older_than_days is None else older_than_days
    with opened_ledger(settings) as inspection:
        count = inspection.count_long_settled(days) if dry_run else inspection.prune(days)
    if output == "json":
        typer.echo(json.dumps({"keys": count, "older_than_days": days, "deleted": not dry_run}))
        return
    keys = "1 key" if count == 1 else f"{count} keys"
    typer.echo(f"{keys} that ended more than {days:g} days ago: {'would be deleted' if dry_run else 'deleted'}")
