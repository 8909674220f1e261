"""`unlink-worker retry`: run unlinks again that did not succeed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from contracts.commands import RetryCommand
from contracts.events import RETRIED, ReasonCode
from contracts.reading import describe
from worker.cli.output.errors import refuse, settings_or_exit
from worker.cli.output.opened_ledger import opened_ledger
from worker.cli.output.terminal import Output, printable, read_time
from worker.cli.output.unlinks import hint_about, hint_about_key, print_table
from worker.cli.publishing.retries import outgoing_retry
from worker.cli.publishing.submission import Outgoing, publish_all
from worker.ledger import Criteria, Document, Inspection, Record
from worker.settings import ClientSettings, LedgerClientSettings

#: How many unlinks one call retries at most.
_MOST: Final = 10_000


def retry(  # noqa: PLR0913 - one parameter an option
    *,
    keys: Annotated[
        list[str] | None, typer.Argument(help="Idempotency keys.", metavar="KEY", show_default=False)
    ] = None,
    ticket: Annotated[str | None, typer.Option(help="All of the ticket with this ID.")] = None,
    batch: Annotated[str | None, typer.Option(help="All of the batch with this ID.")] = None,
    reason: Annotated[
        ReasonCode | None,
        typer.Option(help="All that ended for this reason, of the ticket or batch if one is given.", metavar="CODE"),
    ] = None,
    run: Annotated[
        int | None, typer.Option(min=1, help="For one KEY: the run that ended, as its event says. Needs no ledger.")
    ] = None,
    enterprise_manager: Annotated[
        str, typer.Option("--enterprise-manager", "--em", metavar="NAME", help="With --run: that of the unlink.")
    ] = "default",
    not_after: Annotated[str | None, typer.Option(help="RFC 3339; replaces the command's own.")] = None,
    not_before: Annotated[
        str | None, typer.Option(help="RFC 3339, at most 90 days ahead; until then, the run waits.")
    ] = None,
    requested_by: Annotated[str | None, typer.Option(help="Who asks for it.")] = None,
    why: Annotated[str | None, typer.Option(help="Why.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the ends; exit by them.")] = False,
    wait_seconds: Annotated[float | None, typer.Option(help="Wait at most this long; then exit with 3.", min=0)] = None,
    output: Annotated[
        Output, typer.Option(help="How events are printed; without --wait, json prints the commands.")
    ] = "text",
) -> None:
    """Run unlinks again that ended as failed, timed out or cancelled: by key, ticket, batch or reason.

    Each command is run as it was first accepted. Only the link that its first run found can be removed. The policy is
    applied to you as if you had sent the command. The unlinks to run again are shown, and must be confirmed; nothing is
    shown or asked if KEY and --run name exactly one.

    Needs UNLINK_BROKER__URL, and UNLINK_LEDGER__URL unless --run is given. With --wait the exit status is 0 for
    succeeded, 1 failed, 2 rejected or wrong usage, 3 timed out, 4 cancelled; of many, the first of 2, 1, 3, 4 that
    occurred. Without --wait it is 0. It is 1 if a KEY is not run again, if there is nothing to run again, or if it was
    not confirmed.
    """
    criteria = Criteria(ticket=ticket, batch=batch, reason=reason)
    if bool(keys) == (criteria != Criteria()):
        refuse("Say what is to be run again: KEY, or --ticket, --batch and --reason.")
    settings = settings_or_exit(ClientSettings)

    def of(key: str, run: int, enterprise_manager: str) -> RetryCommand:
        return _command(
            idempotency_key=key,
            enterprise_manager=enterprise_manager,
            run=run,
            requested_by=requested_by,
            reason=why,
            not_after=not_after,
            not_before=not_before,
        )

    skipped = False
    if run is not None:
        commands = [outgoing_retry(of(_one(keys), run, enterprise_manager), {})]
    else:
        records = _found(keys or [], criteria)
        skipped = len(records) < len(set(keys or []))
        commands = [
            _outgoing(each, of(each.entry.lease.key, each.entry.run, each.enterprise_manager)) for each in records
        ]
        if not yes:
            _confirm(records)
    status = publish_all(settings, commands, wait=wait, seconds=wait_seconds, output=output)
    raise typer.Exit(status or int(skipped))


def _command(**fields: Any) -> RetryCommand:
    content = {name: value for name, value in fields.items() if value is not None}
    try:
        return RetryCommand.model_validate_json(json.dumps({"command": "retry.v1", **content}))
    except ValidationError as error:
        refuse(f"This is no valid command: {describe(error)}")


def _one(keys: list[str] | None) -> str:
    if keys is None or len(keys) != 1:
        refuse("--run is for one KEY.")
    return keys[0]


def _found(keys: list[str], criteria: Criteria) -> list[Record]:
    """The unlinks that may be run again, oldest first. Each key that may not is printed with the reason."""
    with opened_ledger(settings_or_exit(LedgerClientSettings).ledger) as ledger:
        if not keys:
            records = list(islice(_failures(ledger, criteria), _MOST + 1))
        else:
            records = [record for key in dict.fromkeys(keys) if (record := _record(ledger, key)) is not None]
    if not records:
        refuse(f"There is nothing to run again.{hint_about(criteria.ticket)}", status=1)
    if len(records) > _MOST:
        refuse(f"These are more than {_MOST}: narrow the search.")
    return sorted(records, key=lambda record: record.entry.received_at)


def _failures(ledger: Inspection, criteria: Criteria) -> Iterator[Record]:
    for page in ledger.find_all(criteria):
        yield from (record for record in page.records if record.outcome in RETRIED)


def _record(ledger: Inspection, key: str) -> Record | None:
    record = ledger.record(key)
    if record is not None and record.outcome in RETRIED:
        return record
    if record is None:
        why = f"no worker has seen it.{hint_about_key(ledger, key)}"
    else:
        why = "it has not ended." if record.outcome is None else f"{record.outcome}."
    typer.echo(printable(f"{key}  not run again: {why}"), err=True)
    return None


def _confirm(records: list[Record]) -> None:
    if not sys.stdin.isatty():
        refuse("Without a terminal to ask on, --yes is needed.")
    print_table(records, reasons=True)
    if consenting := sum(bool(Document(each).command.get("allow_linked_backups_removal")) for each in records):
        typer.echo(f"{consenting} of them may drop linked backups: --allow-linked-backups-removal was given.", err=True)
    if not typer.confirm(f"Run {'this' if len(records) == 1 else f'these {len(records)}'} again?", err=True):
        refuse("Nothing was published.", status=1)


def _outgoing(record: Record, command: RetryCommand) -> Outgoing:
    document = Document(record)
    known_by = {"job": document.job, "repository": document.repository, "ticket": document.ticket}
    return outgoing_retry(command, known_by, read_time(document.command.get("not_before")))
