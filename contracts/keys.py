"""An idempotency key for a command that was given none."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def derive_key(command: dict[str, Any]) -> str:
    """A key that is the same whenever ticket, Enterprise Manager, job and repository are as they are in `command`.

    Submitting the same request again therefore does no harm. A repository that is linked again later needs another
    ticket, or a key of its own, to be unlinked again: without a ticket, one derived key unlinks one link once.
    """
    ticket = command.get("ticket") or {}
    named = {
        "enterprise_manager": command.get("enterprise_manager", "default"),
        "job": _without_prefix(command.get("job")),
        "repository": _without_prefix(command.get("repository")),
        "ticket": {name: ticket.get(name) for name in ("system", "id")},
    }
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    return f"derived:{digest[:32]}"


#: The fields of a reference that hold an ID.
_IDS = frozenset({"id", "link_id", "uid"})


def _without_prefix(reference: object) -> object:
    """An ID in its bare lower-case form, so that both spellings give one key."""
    if not isinstance(reference, dict):
        return reference
    return {
        name: value.rpartition(":")[2].lower() if name in _IDS and isinstance(value, str) else value
        for name, value in reference.items()
        if value is not None
    }
