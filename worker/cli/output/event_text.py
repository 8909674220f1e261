"""An event in words, for a person."""

from __future__ import annotations

from typing import Any

from contracts.events import RETRIED, Outcome
from worker.broker.received_event import ReceivedEvent
from worker.cli.output.naming import link_of, ticket_of
from worker.cli.output.terminal import local_time, printable

_EVIDENCE = {
    "task": "its task finished",
    "links": "the job no longer lists it",
    "absent": "there was no such link",
}


def in_words(event: ReceivedEvent) -> str:
    """One line: key, outcome, job, repository, ticket, and how the outcome is known, or its reason.

    If a worker has answered with an end that was in its ledger, the line says so, and how to run it again. Control
    characters are replaced: the texts come from other programs and must not control the terminal.
    """
    known_by = [link_of(event.data), ticket_of(event.data)]
    before = ""
    if event.from_ledger:
        before = f"answered from the ledger: it had ended at {local_time(event.made_at)}, and nothing was sent again"
        if event.outcome in RETRIED:
            before += f"; `unlink-worker retry {event.key}` runs it again"
    parts = [event.key or "(no key)", event.outcome, *known_by, explanation(event), before]
    return printable("  ".join(part for part in parts if part))


def explanation(event: ReceivedEvent) -> str:
    """How an outcome is known, or its reason; empty for an outcome that this version does not know."""
    data = event.data
    task = data.get("task") or {}
    reason = data.get("reason")
    if reason:
        return f"{reason['code']}: {reason['message']}"
    match event.outcome:
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
    link = (data.get("repository") or {}).get("link_id") or "?"
    return f"would remove link {link}{drops}"
