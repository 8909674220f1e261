"""The names of an unlink for people: job, repository and ticket, from a command or an event's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def link_of(content: Mapping[str, Any]) -> str:
    """`job / repository`, each by its name if that is known, else by its ID; empty if neither is known.

    The commands of `links` and `offboard` have the names in labels, beside the number of linked backups.
    """
    labels = content.get("labels")
    known = labels if isinstance(labels, dict) and "linked_backups" in labels else {}
    job = _first(content.get("job"), ("name",)) or known.get("job") or _first(content.get("job"), ("id",))
    repository = content.get("repository")
    named = _first(repository, ("name",)) or known.get("repository") or _first(repository, ("uid", "link_id"))
    return f"{job or '?'} / {named or '?'}" if job or named else ""


def ticket_of(content: Mapping[str, Any]) -> str:
    """The ticket's ID; empty if there is none."""
    return _first(content.get("ticket"), ("id",))


def named(key: str | None, content: Mapping[str, Any]) -> str:
    """The key, with job, repository and ticket beside it."""
    return "  ".join(part for part in (key or "(no key)", link_of(content), ticket_of(content)) if part)


def _first(part: object, names: tuple[str, ...]) -> str:
    found = part if isinstance(part, dict) else {}
    return next((str(found[name]) for name in names if found.get(name)), "")
