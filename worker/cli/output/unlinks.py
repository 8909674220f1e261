"""Several unlinks of the ledger: a table, or on a screen that is too narrow for it, some lines for each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from worker.cli.output.terminal import console, fits, local_minute, outcome_text, print_unfolded, printable
from worker.ledger import Criteria, Document, Inspection, Record

if TYPE_CHECKING:
    from rich.console import Console

#: The names of an unlink that people know.
_NAMES: Final = ("job", "repository", "ticket", "asked by")


def print_table(records: Iterable[Record], *, reasons: bool = False) -> None:
    """Print a table with one line for each unlink, with its names for people; with `reasons`, why it ended so.

    On a narrow screen each unlink has some lines, because nobody can copy a key that is folded.
    """
    unlinks = [Document(record) for record in records]
    headings = ("received", "outcome", *(["reason"] if reasons else []), *_NAMES, "key")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in {"received", "outcome", "reason"})
    for unlink in unlinks:
        table.add_row(
            local_minute(unlink.record.entry.received_at),
            _outcome(unlink),
            *([_reason(unlink)] if reasons else []),
            *_names(unlink),
            _key(unlink),
        )
    screen = console()
    if fits(table, screen):
        print_unfolded(table)
        return
    for unlink in unlinks:
        _print_lines(unlink, screen, reasons=reasons)


def _print_lines(unlink: Document, screen: Console, *, reasons: bool) -> None:
    heading = Text(f"{local_minute(unlink.record.entry.received_at)}  ")
    heading.append(_outcome(unlink))
    if reasons and (reason := _reason(unlink)):
        heading.append(f"  {reason}")
    screen.print(heading, soft_wrap=True)
    screen.print(Text(f"  {_key(unlink)}", style="bold"), soft_wrap=True)
    facts = [f"{heading} {name}" for heading, name in zip(_NAMES, _names(unlink), strict=True) if name]
    screen.print(Padding(Text(", ".join(facts)), (0, 0, 0, 2)))


def _key(unlink: Document) -> str:
    return printable(unlink.record.entry.lease.key)


def _reason(unlink: Document) -> str:
    return printable((unlink.event.get("reason") or {}).get("code") or "")


def _names(unlink: Document) -> tuple[str, ...]:
    """Under the headings `_NAMES`; empty where nothing is known."""
    return (
        printable(unlink.job["name"] or unlink.job["id"] or "?"),
        printable(_repository(unlink)),
        printable((unlink.ticket or {}).get("id") or ""),
        printable(unlink.request["requested_by"] or unlink.request["user_id"] or ""),
    )


def hint_about(ticket: str | None) -> str:
    """Why nothing may be found of a ticket, after a space; empty if its ID is as an ID usually is."""
    number = (ticket or "").partition(":")[2]
    return printable(f" Only the ticket's ID is searched for: {number} and not {ticket}.") if number else ""


def hint_about_key(ledger: Inspection, key: str) -> str:
    """What to do if a key that no worker has seen is the ID of a ticket, after a space; else empty."""
    of_ticket = ledger.find(Criteria(ticket=key), limit=1).records
    return printable(f" There is a ticket with this ID: use --ticket {key}.") if of_ticket else ""


def _outcome(document: Document) -> Text:
    record = document.record
    if record.outcome is None:
        return Text(f"({record.entry.stage})", style="blue")
    return outcome_text(record.outcome)


def _repository(document: Document) -> str:
    repository = document.repository
    return repository["name"] or repository["uid"] or repository["link_id"] or "?"
