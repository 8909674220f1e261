"""Idempotency keys for commands that were given none, and IDs for their batches."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import Any

from contracts.commands import CONTENT


def key_for(command: dict[str, Any]) -> str:
    """A key for a command, which is given as the fields of `unlink.v1`.

    With a ticket, it is derived from the ticket's system and ID and from all of the content: the same request for the
    same ticket has the same key, also from another user. Without a ticket, a repeated request cannot be told from a new
    request for a link that was added again, so each call returns a new key.
    """
    if not isinstance(command.get("ticket"), dict):
        return f"unlink:{uuid.uuid4()}"
    return derived_key(command)


def derived_key(command: dict[str, Any]) -> str:
    """A key that is derived from the content and the ticket, also if there is no ticket.

    Without a ticket, use it only for commands that name a link by its ID: a link that is added again has another ID.
    """
    ticket = command.get("ticket") or {}
    defaults = {"enterprise_manager": "default", "if_absent": "succeed", "allow_linked_backups_removal": False}
    content = {name: _spelt_alike(value) for name, value in (defaults | command).items() if name in CONTENT}
    named = {"content": content, "ticket": {name: ticket.get(name) for name in ("system", "id")}}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    return f"derived:{digest[:32]}"


def batch_id_for(keys: Iterable[str]) -> str:
    """A batch ID that is derived from the commands' keys: the same commands sent again are the same batch."""
    return f"derived:{hashlib.sha256(json.dumps(sorted(keys)).encode()).hexdigest()[:32]}"


#: The fields of a reference that hold an ID.
_IDS = frozenset({"id", "link_id", "uid"})


def _spelt_alike(value: object) -> object:
    """A reference with its ID in the bare lower-case form, so that both spellings give one key."""
    if not isinstance(value, dict):
        return value
    return {
        name: part.rpartition(":")[2].lower() if name in _IDS and isinstance(part, str) else part
        for name, part in value.items()
        if part is not None
    }
