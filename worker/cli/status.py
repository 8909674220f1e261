"""`unlink-worker status`: what the ledger holds of one key, with its history."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from worker.broker.received_event import NoEventError, ReceivedEvent, event_in
from worker.cli.output.errors import UNKNOWN, refuse, settings_or_exit
from worker.cli.output.event_text import explanation
from worker.cli.output.opened_ledger import opened_ledger
from worker.cli.output.terminal import Output, console, local_time, outcome_text, printable
from worker.cli.output.unlinks import hint_about, hint_about_key, print_table
from worker.cli.publishing.awaiting import EXIT_STATUS, worst_of
from worker.ledger import BatchState, Criteria, Document, Inspection, KeyHistory, Record, RecordedStep
from worker.ledger.documents import cancellation_as_json, in_words, step_as_json
from worker.settings import LedgerClientSettings
from worker.unlinks.ports.ledger import CancelRequest

NOT_ENDED = 5


def status(
    *,
    key: Annotated[str | None, typer.Argument(help="The idempotency key.", show_default=False)] = None,
    ticket: Annotated[str | None, typer.Option(help="Instead of a key: all keys of this ticket, by its ID.")] = None,
    output: Annotated[Output, typer.Option(help="json: one object a key, its times in UTC.")] = "text",
) -> None:
    """Show what the ledger knows of one key, or of a ticket's, with the recorded steps.

    Needs UNLINK_LEDGER__URL only. The exit status is that of the key's end, as with submit: 0 succeeded, 1 failed,
    3 timed out, 4 cancelled; and 5 if it has not ended, 6 if no worker has seen the key, 2 wrong usage, 1 also if the
    ledger cannot be read; of several keys, the first of 1, 3, 4, 5 that occurs. A dry run, or a command that was
    rejected, leaves no trace in the ledger.
    """
    if (key is None) == (ticket is None):
        refuse("Name either a key or --ticket.")
    with opened_ledger(settings_or_exit(LedgerClientSettings).ledger) as ledger:
        found = [] if ticket is None else _records_of(ledger, ticket)
        if output == "text" and len(found) > 1:
            print_table(found)
            raise typer.Exit(worst_of({_exit_status(record) for record in found}))
        keys = [key] if key is not None else [record.entry.lease.key for record in found]
        histories = {each: history for each in keys if (history := ledger.history(each)) is not None}
        batches = {each: ledger.batches_of(each) for each in histories}
        if not histories:
            what = f"the key {key}" if ticket is None else f"a command of the ticket {ticket}"
            hint = hint_about(ticket) if key is None else hint_about_key(ledger, key)
            refuse(f"No worker has seen {printable(what)}.{hint}", status=UNKNOWN)
    if output == "json":
        for each, history in histories.items():
            typer.echo(json.dumps(_as_json(each, history, batches[each]), ensure_ascii=False))
    else:
        ((each, history),) = histories.items()
        _print(each, history, batches[each])
    raise typer.Exit(worst_of({_exit_status(history.record) for history in histories.values()}))


def _records_of(ledger: Inspection, ticket: str) -> list[Record]:
    return [record for page in ledger.find_all(Criteria(ticket=ticket)) for record in page.records]


def _exit_status(record: Record | None) -> int:
    if record is None:
        return UNKNOWN
    return NOT_ENDED if record.outcome is None else EXIT_STATUS[record.outcome]


# --- for people -----------------------------------------------------------------------------------------------------


def _print(key: str, history: KeyHistory, batches: tuple[BatchState, ...]) -> None:
    screen = console()
    record = history.record
    manager = None if record is None else record.enterprise_manager
    if record is None:
        heading = Text("no worker has seen its command yet")
    elif record.outcome is None:
        heading = Text(f"{record.entry.stage}, not ended", style="bold blue")
    else:
        heading = outcome_text(record.outcome)
    screen.print(Text(key, style="bold"), Text("  "), heading, sep="", soft_wrap=True)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    of_batches = [("batch", each.in_words) for each in batches]
    in_log = [("in the log", f"lines with trace_id {', '.join(history.trace_ids)}")] if history.trace_ids else []
    for name, fact in [*_facts(record), *in_log, *of_batches, *_requests(history.cancellations, manager)]:
        facts.add_row(name, printable(fact))
    screen.print(facts)
    screen.print()
    screen.print(_steps(history.steps))


def _facts(record: Record | None) -> Iterator[tuple[str, str]]:
    if record is None:
        return
    entry, intent = record.entry, record.entry.intent
    event = _event(record)
    if event is not None and (why := explanation(event)):
        yield "because", why
    yield "manager", record.enterprise_manager
    document = Document(record)
    if intent is not None:
        yield "job", _named(intent.job_name, intent.job_id)
        yield "link", intent.link.object_in_job_id
        yield "repository", _named(document.repository["name"], intent.link.repository_uid)
        if intent.linked_backups:
            backups = [_named(backup.name, backup.uid or backup.object_in_job_id) for backup in intent.linked_backups]
            yield "drops", "linked backups: " + ", ".join(backups)
    else:
        yield "job", in_words(document.command.get("job")) or "?"
        yield "repository", in_words(document.command.get("repository")) or "?"
    yield from _who(document)
    yield "received", local_time(entry.received_at)
    if entry.sent_at is None and record.outcome is None and (start := document.command.get("not_before")):
        yield "waits until", start
    if entry.sent_at is not None:
        times = "" if entry.sends == 1 else f", {entry.sends} times by now"
        yield "sent", local_time(entry.sent_at) + times
    if entry.task is not None and entry.submitted_at is not None:
        yield "submitted", f"{local_time(entry.submitted_at)} as {entry.task.task_id}"
    if record.finished_at is not None:
        yield "finished", local_time(record.finished_at)
    yield "attempts", str(entry.attempts)
    if record.outcome is None:
        held = f"{record.worker} until {local_time(record.lease_until)}"
        yield "held by", "no worker" if record.worker is None else held


def _who(document: Document) -> Iterator[tuple[str, str]]:
    if document.ticket is not None:
        yield "ticket", " ".join(part for part in document.ticket.values() if part)
    request = document.request
    if asked := ": ".join(part for part in (request["requested_by"], request["reason"]) if part):
        yield "asked by", asked
    if request["user_id"]:
        yield "sent by", f"broker user {request['user_id']}"
    if retried := _asked_and_sent(document.record.entry.retried_by, request["retry_user_id"]):
        yield "retried by", retried


def _requests(requests: tuple[CancelRequest, ...], manager: str | None) -> Iterator[tuple[str, str]]:
    for request in requests:
        who = _asked_and_sent(request.requested_by, request.user_id) or "an unnamed user"
        why = f": {request.reason}" if request.reason else ""
        where = "" if request.enterprise_manager == manager else f" on {request.enterprise_manager}"
        yield "cancel", f"asked {local_time(request.requested_at)}{where} by {who}{why}"


def _asked_and_sent(by: str | None, user_id: str | None) -> str | None:
    """Who asked, as a message says, and who sent it, as the broker verified it. `by` may stand in for the latter."""
    asked = None if by == user_id else by
    sent = user_id and f"broker user {user_id}"
    return f"{asked}, sent by {sent}" if asked and sent else asked or sent


def _steps(steps: tuple[RecordedStep, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("at", no_wrap=True)
    table.add_column("what", overflow="fold", ratio=3)
    table.add_column("by", overflow="fold", ratio=2, style="dim")
    for step in steps:
        table.add_row(local_time(step.at), printable(step.in_words), printable(step.worker))
    return table


def _named(name: str | None, identifier: str) -> str:
    return identifier if name is None else f"{name} ({identifier})"


# --- for programs ---------------------------------------------------------------------------------------------------


def _as_json(key: str, history: KeyHistory, batches: tuple[BatchState, ...]) -> dict[str, Any]:
    return {
        "idempotency_key": key,
        **(Document(history.record).as_json() if history.record is not None else {"stage": None, "outcome": None}),
        "batches": [each.as_json() for each in batches],
        "cancellations": [cancellation_as_json(request) for request in history.cancellations],
        "steps": [step_as_json(step) for step in history.steps],
    }


def _event(record: Record) -> ReceivedEvent | None:
    try:
        return None if record.event is None else event_in(record.event)
    except NoEventError:  # of another version
        return None
