"""`unlink-worker status`: what the ledger knows of one key, with its history."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from worker.broker.received_event import ReceivedEvent
from worker.cli.awaiting import EXIT_STATUS
from worker.cli.output.errors import refuse, refuse_settings, settings_or_exit
from worker.cli.output.event_text import explanation
from worker.cli.output.terminal import Output, console, local_time, outcome_text, printable
from worker.clock import SystemClock
from worker.ledger import Inspection, InspectionError, Step
from worker.settings import LedgerClientSettings, SettingsInvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.ledger import KeyHistory, Record, RecordedStep
    from worker.unlinks.ports.ledger import CancelRequest

NOT_ENDED = 5
UNKNOWN = 6

_STEPS = {
    Step.CLAIMED: "taken up",
    Step.TAKEN_OVER: "taken up again, {detail} by then",
    Step.INTENDED: "DELETE to be sent, of link {detail}",
    Step.JOB_BUSY: "deferred: another unlink of the job is under way",
    Step.WITHDRAWN: "the DELETE did not leave",
    Step.SENT_AGAIN: "the same DELETE to be sent again",
    Step.SUBMITTED: "Enterprise Manager is at work: {detail}",
    Step.SETTLED: "ended: {detail}",
    Step.RUN_STARTED: "started again, as run {detail}",
    Step.RELEASED: "released, for any worker to take up",
    Step.CANCEL_REQUESTED: "asked to cancel, by {detail}",
}


def status(
    *,
    key: Annotated[str, typer.Argument(help="The idempotency key.", show_default=False)],
    output: Annotated[Output, typer.Option(help="json: one object, its times in UTC.")] = "text",
) -> None:
    """Show what the ledger knows of one key, and what was written down about it.

    Needs UNLINK_LEDGER__URL only. The exit status is that of the key's end, as with submit: 0 succeeded, 1 failed,
    3 timed out, 4 cancelled; and 5 if it has not ended, 6 if no worker has seen the key, 2 wrong usage, 1 also if the
    ledger cannot be read. A dry run, or a command that was rejected, leaves no trace in the ledger.
    """
    settings = settings_or_exit(LedgerClientSettings)
    try:
        history = Inspection(settings.ledger, SystemClock()).history(key)
    except SettingsInvalidError as error:
        refuse_settings(error)
    except InspectionError as error:
        refuse(str(error), status=1)
    if history is None:
        refuse(f"No worker has seen the key {printable(key)}.", status=UNKNOWN)
    if output == "json":
        typer.echo(json.dumps(_as_json(key, history), ensure_ascii=False))
    else:
        _print(key, history)
    raise typer.Exit(_exit_status(history.record))


def _exit_status(record: Record | None) -> int:
    if record is None:
        return UNKNOWN
    return NOT_ENDED if record.outcome is None else EXIT_STATUS[record.outcome]


# --- for people -----------------------------------------------------------------------------------------------------


def _print(key: str, history: KeyHistory) -> None:
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
    for name, fact in [*_facts(record), *_requests(history.cancellations, manager)]:
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
    command = _content(record.command)
    if intent is not None:
        yield "job", _named(intent.job_name, intent.job_id)
        yield "link", intent.link.object_in_job_id
        yield "repository", _named(intent.link.repository_name, intent.link.repository_uid)
        if intent.linked_backups:
            backups = [_named(backup.name, backup.uid or backup.object_in_job_id) for backup in intent.linked_backups]
            yield "drops", "linked backups: " + ", ".join(backups)
    else:
        yield "job", _reference(command.get("job"))
        yield "repository", _reference(command.get("repository"))
    yield from _who(command)
    yield "received", local_time(entry.received_at)
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
        yield "held by", "nobody" if record.worker is None else held


def _who(command: dict[str, Any]) -> Iterator[tuple[str, str]]:
    ticket = command.get("ticket")
    if isinstance(ticket, dict):
        yield "ticket", " ".join(str(ticket[part]) for part in ("system", "id", "url") if ticket.get(part))
    asked = ": ".join(str(command[part]) for part in ("requested_by", "reason") if command.get(part))
    if asked:
        yield "asked by", asked


def _requests(requests: tuple[CancelRequest, ...], manager: str | None) -> Iterator[tuple[str, str]]:
    for request in requests:
        who = request.requested_by or "somebody"
        why = f": {request.reason}" if request.reason else ""
        where = "" if request.enterprise_manager == manager else f" on {request.enterprise_manager}"
        yield "cancel", f"asked {local_time(request.requested_at)}{where} by {who}{why}"


def _steps(steps: tuple[RecordedStep, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("at", no_wrap=True)
    table.add_column("what", overflow="fold", ratio=3)
    table.add_column("by", overflow="fold", ratio=2, style="dim")
    for step in steps:
        table.add_row(local_time(step.at), printable(_in_words(step)), printable(step.worker))
    return table


def _in_words(step: RecordedStep) -> str:
    words = _STEPS.get(step.step, str(step.step)) if isinstance(step.step, Step) else step.step
    return words.replace("{detail}", step.detail or "somebody")


def _named(name: str | None, identifier: str) -> str:
    return identifier if name is None else f"{name} ({identifier})"


def _reference(reference: object) -> str:
    """A job or repository as its command named it."""
    if not isinstance(reference, dict):
        return "?"
    return ", ".join(f"{name} {value}" for name, value in reference.items() if value is not None)


# --- for programs ---------------------------------------------------------------------------------------------------


def _as_json(key: str, history: KeyHistory) -> dict[str, Any]:
    return {
        "idempotency_key": key,
        **(_record(history.record) if history.record is not None else {"stage": None, "outcome": None}),
        "cancellations": [
            {
                "enterprise_manager": request.enterprise_manager,
                "requested_by": request.requested_by,
                "reason": request.reason,
                "requested_at": _utc(request.requested_at),
            }
            for request in history.cancellations
        ],
        "steps": [
            {"at": _utc(step.at), "step": step.step, "detail": step.detail, "worker": step.worker, "token": step.token}
            for step in history.steps
        ],
    }


def _record(record: Record) -> dict[str, Any]:
    entry, intent = record.entry, record.entry.intent
    event = _event(record)
    return {
        "stage": entry.stage,
        "outcome": record.outcome,
        "enterprise_manager": record.enterprise_manager,
        "job": None if intent is None else {"id": intent.job_id, "name": intent.job_name},
        "repository": None
        if intent is None
        else {
            "link_id": intent.link.object_in_job_id,
            "uid": intent.link.repository_uid,
            "name": intent.link.repository_name,
        },
        "linked_backups": [
            {"link_id": backup.object_in_job_id, "uid": backup.uid, "name": backup.name}
            for backup in (intent.linked_backups if intent is not None else ())
        ],
        "task": None if entry.task is None else {"id": entry.task.task_id},
        "attempts": entry.attempts,
        "sends": entry.sends,
        "received_at": _utc(entry.received_at),
        "sent_at": _utc(entry.sent_at),
        "submitted_at": _utc(entry.submitted_at),
        "finished_at": _utc(record.finished_at),
        "worker": record.worker,
        "lease_until": None if record.worker is None else _utc(record.lease_until),
        "command": _content(record.command),
        "event": None if event is None else event.content,
    }


def _utc(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _content(command: bytes) -> dict[str, Any]:
    """The command as it came, out of its CloudEvent if it was in one; it was valid when it was claimed."""
    content: dict[str, Any] = json.loads(command.decode("utf-8-sig"))
    inner = content.get("data")
    return inner if "command" not in content and isinstance(inner, dict) else content


def _event(record: Record) -> ReceivedEvent | None:
    return None if record.event is None else ReceivedEvent(record.event, json.loads(record.event))
