"""Keys, and positions in lists, in URLs."""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from worker.console.problems import Problem
from worker.ledger import Cursor, MemberCursor
from worker.unlinks.ports.ledger import BatchKey


def to_path(key: str) -> str:
    """A key as one segment of a path: base64url without padding, because a key may contain slashes and dots."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def from_path(part: str) -> str:
    """The key.

    Raises:
        Problem: it is none; 404.
    """
    try:
        return _decoded(part)
    except ValueError:
        raise Problem(404, "This is no key: a key stands in the path as base64url without padding.") from None


def to_cursor(cursor: Cursor) -> str:
    """A position in a list, as an opaque text."""
    return to_path(json.dumps([cursor.received_at.isoformat(), cursor.key]))


def from_cursor(text: str) -> Cursor:
    """The position.

    Raises:
        Problem: it is none; 400.
    """
    try:
        received_at, key = json.loads(_decoded(text))
        return Cursor(datetime.fromisoformat(received_at).astimezone(UTC), storable(f"{key}"))
    except (ValueError, TypeError, OverflowError):
        raise _wrong_cursor() from None


def to_member_cursor(cursor: MemberCursor) -> str:
    """A position among the members of a batch, as an opaque text."""
    return to_path(json.dumps([cursor.batch.enterprise_manager, cursor.batch.user_id, cursor.batch.id, cursor.key]))


def from_member_cursor(text: str) -> MemberCursor:
    """The position.

    Raises:
        Problem: it is none; 400.
    """
    try:
        enterprise_manager, user_id, batch, key = json.loads(_decoded(text))
        user_id = None if user_id is None else storable(f"{user_id}")
        of = BatchKey(storable(f"{enterprise_manager}"), user_id, storable(f"{batch}"))
        return MemberCursor(of, storable(f"{key}"))
    except (ValueError, TypeError, RecursionError):
        raise _wrong_cursor() from None


def _wrong_cursor() -> Problem:
    said = "must be the cursor of a page before"
    return Problem(400, f"cursor: {said}", [{"field": "cursor", "message": said}])


def _decoded(text: str) -> str:
    try:
        return storable(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode())
    except (binascii.Error, UnicodeError) as error:
        raise ValueError(text) from error


def storable(text: str) -> str:
    """The text.

    Raises:
        ValueError: it holds what a database cannot: NUL, or a half of a character.
    """
    if "\0" in text:
        raise ValueError("must not contain NUL")
    text.encode()
    return text


def query_of(fields: Mapping[str, Any]) -> str:
    """A query string of the fields that have a value."""
    return urlencode({name: str(value).lower() if value is True else value for name, value in fields.items() if value})


def is_id(text: str) -> bool:
    """Whether a text is a UUID, bare or as `urn:veeam:...`."""
    try:
        return str(uuid.UUID(text.rpartition(":")[2])) == text.rpartition(":")[2].lower()
    except ValueError:
        return False
