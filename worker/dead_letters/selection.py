"""Which dead letters are selected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.dead_letters.record import as_json

if TYPE_CHECKING:
    from worker.broker.dead_letters import DeadLetter
    from worker.dead_letters.queue import Taken

#: Headers in which the broker counts how often the message was read.
_COUNTERS = {"x-delivery-count", "x-acquired-count"}


def digest_of(message: DeadLetter) -> str:
    """SHA-256 of properties and body, hexadecimal: the same however often the message was read."""
    whole = as_json(message)
    headers = {name: value for name, value in (whole["headers"] or {}).items() if name not in _COUNTERS}
    known = json.dumps([whole["properties"], headers], sort_keys=True).encode()
    return hashlib.sha256(known + b"\0" + message.body).hexdigest()


@dataclass(frozen=True, slots=True)
class Selection:
    """Messages by name (idempotency key or message ID), position, digests, reason code, Enterprise Manager; or all.

    A digest is that of `digest_of`. All given criteria must hold.
    """

    name: str | None = None
    position: int | None = None
    reason: str | None = None
    enterprise_manager: str | None = None
    everything: bool = False
    digests: frozenset[str] | None = None

    @property
    def one(self) -> bool:
        """Whether it selects one message by name, position or digests."""
        return self.name is not None or self.position is not None or self.digests is not None

    @property
    def given(self) -> bool:
        """Whether any criterion is given."""
        return self.one or self.everything or self.reason is not None or self.enterprise_manager is not None

    def among(self, messages: Iterable[Taken]) -> Iterator[Taken]:
        """The selected ones of the messages; with a digest, all that are equal."""
        for taken in messages:
            if self._means(taken):
                yield taken
            if taken.position == self.position:
                return

    def _means(self, taken: Taken) -> bool:
        message = taken.message
        return (
            (self.name is None or self.name in {message.key, message.message_id})
            and (self.position is None or self.position == taken.position)
            and (self.digests is None or digest_of(message) in self.digests)
            and (self.reason is None or self.reason == message.reason_code)
            and (self.enterprise_manager is None or self.enterprise_manager == message.enterprise_manager)
        )
