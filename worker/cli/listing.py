"""`unlink-worker list`: the search, and the audit export."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Annotated, Final, Literal

import typer

from contracts.events import ReasonCode
from worker.cli.output.errors import refuse, settings_or_exit
from worker.cli.output.opened_ledger import opened_ledger
from worker.cli.output.terminal import printable
from worker.cli.output.unlinks import hint_about, print_table
from worker.clock import SystemClock
from worker.ledger import AUDIT_COLUMNS, Criteria, Document, Inspection, Record
from worker.ledger.search import read_since
from worker.settings import LedgerClientSettings
from worker.spreadsheet import line_of

#: How many lines a table has without `--limit`.
_TABLE_LINES: Final = 100


class _Ended(StrEnum):
    """The outcomes that the ledger records. Rejected commands and dry runs are not recorded."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


def list_unlinks(  # noqa: PLR0913 - the criteria
    *,
    ticket: Annotated[str | None, typer.Option(help="The ticket's ID.")] = None,
    requester: Annotated[
        str | None, typer.Option(help="Who asked: `requested_by`, or the broker user who sent the command.")
    ] = None,
    job: Annotated[str | None, typer.Option(help="The job's ID or name.")] = None,
    repository: Annotated[str | None, typer.Option(help="The repository's UID or name, or the link's ID.")] = None,
    outcome: Annotated[_Ended | None, typer.Option(help="How it ended.")] = None,
    reason: Annotated[ReasonCode | None, typer.Option(help="Why it did not succeed.", metavar="CODE")] = None,
    batch: Annotated[str | None, typer.Option(help="The batch's ID.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Received since then: 2026-03-01, 2026-03-01T12:00+01:00, or 90m, 24h, 7d, 4w.")
    ] = None,
    in_flight: Annotated[bool, typer.Option("--in-flight", help="Not ended yet.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many; a table has 100 without it, json and csv all.")
    ] = None,
    output: Annotated[
        Literal["table", "json", "csv"],
        typer.Option(help="json: one object a line, times in UTC. csv: the audit export."),
    ] = "table",
) -> None:
    """Find unlinks in the ledger; with --output csv, the audit export.

    All criteria must hold. Texts are compared whole, without regard to case. Newest first. The export says who asked
    (`user_id`: as the broker verified it), why, what was seen, what was done, and how that is known; a cell that a
    spreadsheet would take for a formula begins with an apostrophe. A dry run, or a command that was rejected, leaves no
    trace in the ledger. With --batch, a last line (on standard error) says how many commands of the batch have come,
    are missing, are under way, and have ended.

    Needs UNLINK_LEDGER__URL only. Exit status 0, also if nothing is found; 1 if the ledger cannot be read, 2 wrong
    usage.
    """
    criteria = Criteria(
        ticket=ticket,
        requester=requester,
        job=job,
        repository=repository,
        outcome=outcome,
        reason=reason,
        batch=batch,
        since=None if since is None else _moment(since),
        in_flight=in_flight,
    )
    with opened_ledger(settings_or_exit(LedgerClientSettings).ledger) as ledger:
        search = _Search(ledger, criteria)
        if output == "table":
            most = limit or _TABLE_LINES
            _print_table(list(search.first(most + 1)), most, hint_about(ticket))
        else:
            _WRITERS[output](search.first(limit))
        states = ledger.batches(batch) if batch is not None else ()
    for state in states:
        who = f" from {state.user_id}" if state.user_id else ""
        typer.echo(printable(f"Batch {state.in_words} (on {state.enterprise_manager}{who})"), err=True)
    if not search.complete:
        typer.echo(
            "Older keys are still being made searchable after an upgrade, and may be missing here. "
            "The workers need some minutes for each million.",
            err=True,
        )


class _Search:
    """The records that are found, read page by page. `complete` is valid once a page was read."""

    def __init__(self, ledger: Inspection, criteria: Criteria) -> None:
        self._ledger = ledger
        self._criteria = criteria
        self.complete = True

    def first(self, most: int | None) -> Iterator[Record]:
        """The newest `most` records, or all if `most` is None."""
        return islice(self._all(), most)

    def _all(self) -> Iterator[Record]:
        for page in self._ledger.find_all(self._criteria):
            self.complete = self.complete and page.complete
            yield from page.records


def _moment(text: str) -> datetime:
    try:
        return read_since(text, SystemClock().now())
    except ValueError as error:
        refuse(f"--since {error}.")


def _print_table(records: list[Record], most: int, hint: str) -> None:
    if not records:
        typer.echo(f"Nothing is found.{hint}")
        return
    print_table(records[:most])
    if len(records) > most:
        typer.echo(
            f"These are the newest {most}. There are more: narrow the search, or see --limit and --output.", err=True
        )


def _print_json(records: Iterator[Record]) -> None:
    for record in records:
        typer.echo(json.dumps(Document(record).as_json(), ensure_ascii=False))


def _print_csv(records: Iterator[Record]) -> None:
    sys.stdout.write(line_of(AUDIT_COLUMNS))
    sys.stdout.writelines(line_of(Document(record).audit_line()) for record in records)


_WRITERS = {"json": _print_json, "csv": _print_csv}
