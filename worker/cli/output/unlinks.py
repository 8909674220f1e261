"""Several unlinks of the ledger as a table."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from worker.cli.output.terminal import console, local_minute, outcome_text, printable
from worker.ledger import Document, Record


def print_table(records: Iterable[Record], *, reasons: bool = False) -> None:
    """Print a table with one line for each unlink, with its names for people; with `reasons`, why it ended so."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in (
        "received",
        "outcome",
        *(["reason"] if reasons else []),
        "job",
        "repository",
        "ticket",
        "asked by",
        "key",
    ):
        table.add_column(heading, overflow="fold", no_wrap=heading in {"received", "outcome", "reason"})
    for record in records:
        document = Document(record)
        table.add_row(
            local_minute(record.entry.received_at),
            _outcome(document),
            *([(document.event.get("reason") or {}).get("code") or ""] if reasons else []),
            printable(document.job["name"] or document.job["id"] or "?"),
            printable(_repository(document)),
            printable((document.ticket or {}).get("id") or ""),
            printable(document.request["requested_by"] or document.request["user_id"] or ""),
            printable(record.entry.lease.key),
        )
    console().print(table)


def hint_about(ticket: str | None) -> str:
    """Why nothing may be found of a ticket, after a space; empty if its ID is as an ID usually is."""
    number = (ticket or "").partition(":")[2]
    return printable(f" Only the ticket's ID is searched for: {number} and not {ticket}.") if number else ""


def _outcome(document: Document) -> Text:
    record = document.record
    if record.outcome is None:
        return Text(f"({record.entry.stage})", style="blue")
    return outcome_text(record.outcome)


def _repository(document: Document) -> str:
    repository = document.repository
    return repository["name"] or repository["uid"] or repository["link_id"] or "?"
