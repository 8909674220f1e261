"""Events to publish."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from contracts.events import Event, EventData, Outcome, event_id, source_of


def make_event(key: str = "key-1", outcome: Outcome = Outcome.SUCCEEDED, **facts: Any) -> Event:
    """An event about a key; `facts` are further fields of its data."""
    now = datetime.now(UTC)
    given = {"idempotency_key": key, "enterprise_manager": "default", "outcome": outcome, "received_at": now}
    return Event(
        id=event_id(key, outcome),
        source=source_of("default"),
        type=outcome.event_type,
        subject=key,
        time=now,
        data=EventData(**{**given, **facts}),
    )
