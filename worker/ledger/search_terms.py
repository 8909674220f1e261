"""The search terms of a key, and the form in which they are compared.

Terms are used only for the search. What is shown comes from the key's row in `unlinks`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from worker.unlinks.ports.ledger import Stage

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

#: Characters of a term that are compared. PostgreSQL refuses an index entry of more than 2.7 kB, and with it the whole
#: write.
_MOST_CHARACTERS: Final = 300


def fold(text: str) -> str:
    """Text in the form in which it is stored and compared: without regard to case, and to how accents are encoded."""
    return unicodedata.normalize("NFC", text).casefold()[:_MOST_CHARACTERS]


def fold_id(text: str) -> str:
    """Fold an ID; of `urn:veeam:Job:<uuid>`, the bare UUID."""
    return fold(text.rpartition(":")[2])


def whole_of(stored: bytes | None) -> dict[str, Any] | None:
    """A stored command or event as JSON; None if there is none, or it cannot be read.

    What no output can encode becomes a question mark: a worker's JSON has no lone surrogates.
    """
    if stored is None:
        return None
    try:
        text = stored.decode("utf-8-sig")
        content = json.loads(text, parse_constant=str)
        if "\\ud" in text.lower():
            content = json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def content_of(stored: bytes | None) -> dict[str, Any]:
    """A stored command or event as JSON: out of its CloudEvent, if it came in one; empty if it cannot be read."""
    content = whole_of(stored) or {}
    inner = content.get("data")
    return inner if "command" not in content and isinstance(inner, dict) else content


def terms_of(row: RowMapping) -> dict[str, Any]:
    """All terms of a key, from its row in `unlinks`. What was seen counts before what was asked for."""
    asked = content_of(row["command"])
    settled = row["stage"] == Stage.SETTLED
    return {
        "key": row["key"],
        "received_at": row["received_at"],
        "finished_at": row["finished_at"] if settled else None,
        "ticket": _folded(_part(asked, "ticket").get("id")),
        "requester": _folded(asked.get("requested_by")),
        "user_id": _folded(row["user_id"]),
        "outcome": row["outcome"] if settled else None,
        "batch": _folded(_part(asked, "batch").get("id")),
        "reason": None,
        **_of_job(asked),
        **{name: term for name, term in _of_labels(asked).items() if _of_job(asked)[name] is None},
        **_known(terms_of_intent(row)),
        **(_known(terms_of_event(row["event"])) if settled else {}),
    }


def terms_of_intent(seen: Mapping[str, Any] | RowMapping) -> dict[str, Any]:
    """The terms of what was seen before the DELETE, from the columns of the intent."""
    return {
        "job_id": _folded_id(seen["job_id"]),
        "job_name": _folded(seen["job_name"]),
        "link_id": _folded_id(seen["link_id"]),
        "repository_uid": _folded_id(seen["repository_uid"]),
        "repository_name": _folded(seen["repository_name"]),
    }


def terms_of_event(event: bytes | None) -> dict[str, Any]:
    """The terms that an ended key has from its event."""
    data = content_of(event)
    return {**_of_job(data), "reason": _folded(_part(data, "reason").get("code"))}


def _of_job(content: Mapping[str, Any]) -> dict[str, Any]:
    job, repository = _part(content, "job"), _part(content, "repository")
    return {
        "job_id": _folded_id(job.get("id")),
        "job_name": _folded(job.get("name")),
        "link_id": _folded_id(repository.get("link_id")),
        "repository_uid": _folded_id(repository.get("uid")),
        "repository_name": _folded(repository.get("name")),
    }


def _of_labels(content: Mapping[str, Any]) -> dict[str, Any]:
    """The names in the labels of `offboard` and `links`, whose commands name job and link by ID."""
    labels = _part(content, "labels")
    return {"job_name": _folded(labels.get("job")), "repository_name": _folded(labels.get("repository"))}


def _part(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _known(terms: dict[str, Any]) -> dict[str, Any]:
    return {name: term for name, term in terms.items() if term is not None}


def _folded(text: object) -> str | None:
    return fold(text) if isinstance(text, str) and text else None


def _folded_id(text: object) -> str | None:
    return fold_id(text) if isinstance(text, str) and text else None
