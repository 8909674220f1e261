"""An event as the ledger stores it, for publishing again. A worker of another version may have stored it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from contracts.events import Outcome
from worker.broker.copies import short_text

_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}


class UnreadableEventError(ValueError):
    """The ledger's event cannot be published: its outcome or its Enterprise Manager cannot be read."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """What the properties of the message repeat of the event. It is not parsed by the contract's models."""

    routing_key: str
    terminal: bool
    id: str | None
    type: str | None
    correlation_id: str | None


def read_stored(body: bytes) -> StoredEvent:
    """Read a stored event.

    Raises:
        UnreadableEventError: it does not say where it belongs.
    """
    try:
        content = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise UnreadableEventError(f"the stored event is no JSON ({type(error).__name__})") from None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict):
        raise UnreadableEventError("the stored event has no data")
    said, enterprise_manager = data.get("outcome"), data.get("enterprise_manager")
    outcome = _OUTCOMES.get(said) if isinstance(said, str) else None
    if outcome is None or not isinstance(enterprise_manager, str):
        raise UnreadableEventError("the stored event has no outcome or no Enterprise Manager that is known")
    routing_key = short_text(f"{outcome}.{enterprise_manager}")
    if routing_key is None:
        raise UnreadableEventError("the stored event has too long a name of an Enterprise Manager")
    return StoredEvent(
        routing_key,
        outcome.terminal,
        short_text(content.get("id")),
        short_text(content.get("type")),
        short_text(data.get("correlation_id")) or short_text(content.get("subject")),
    )
