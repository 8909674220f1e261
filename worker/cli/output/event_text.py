"""An event in words, for a person."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from contracts.events import RECORDED, Outcome
from worker.broker.received_event import ReceivedEvent
from worker.cli.output.naming import link_of, ticket_of
from worker.cli.output.terminal import local_time, printable

_EVIDENCE = {
    "task": "its task finished",
    "links": "the job no longer lists it",
    "absent": "there was no such link",
}


def had_ended(event: ReceivedEvent, asked_at: datetime) -> bool:
    """Whether an event is the end of something that had ended before it was asked for."""
    return event.outcome in RECORDED and event.made_at < asked_at


def in_words(event: ReceivedEvent, asked_at: datetime | None = None) -> str:
    """One line: key, outcome, job, repository, ticket, and how the outcome is known, or its reason.

    `asked_at`: when a command was published that the event answers. If it had ended before, the line says so. Control
    characters are replaced: the texts come from other programs and must not control the terminal.
    """
    known_by = [link_of(event.data), ticket_of(event.data)]
    before = ""
    if asked_at is not None and had_ended(event, asked_at):
        before = f"it had ended at {local_time(event.made_at)}: nothing was sent now"
    parts = [event.key or "(no key)", event.outcome, *known_by, explanation(event), before]
    return printable("  ".join(part for part in parts if part))


def explanation(event: ReceivedEvent) -> str:
    """How an outcome is known, or its reason."""
    data = event.data
    task = data.get("task") or {}
    reason = data.get("reason")
    if reason:
        return f"{reason['code']}: {reason['message']}"
    match Outcome(event.outcome):
        case Outcome.SUBMITTED:
            return f"as {task.get('id', 'a task')}"
        case Outcome.SUCCEEDED:
            known = _EVIDENCE.get(data.get("evidence") or "", "")
            message = f" ({task['message']})" if task.get("message") else ""
            unseen = "" if data.get("verified") else "; the job's list does not show it yet"
            return f"{known}{message}{unseen}"
        case Outcome.CANCELLED:
            return "nothing was changed" if data.get("changed") is False else "its task may still remove the link"
        case Outcome.PLANNED:
            return _plan(data)
        case _:
            return ""


def _plan(data: dict[str, Any]) -> str:
    if data.get("evidence") == "absent":
        return "there is no such link"
    backups = len(data.get("linked_backups_removed") or [])
    drops = f" and drop {backups} linked backups" if backups else ""
    return f"would remove link {data['repository']['link_id']}{drops}"
