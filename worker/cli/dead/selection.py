"""Which dead letters are meant, and what is to be said of each before it is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from worker.cli.dead.queue import Taken


@dataclass(frozen=True, slots=True)
class Selection:
    """Messages by name (idempotency key or message ID), by position, by reason code, by Enterprise Manager; or all.

    What is given must all be so.
    """

    name: str | None = None
    position: int | None = None
    reason: str | None = None
    enterprise_manager: str | None = None
    everything: bool = False

    @property
    def one(self) -> bool:
        """Whether it means one message."""
        return self.name is not None or self.position is not None

    @property
    def given(self) -> bool:
        """Whether anything was said at all."""
        return self.one or self.everything or self.reason is not None or self.enterprise_manager is not None

    def among(self, messages: Iterable[Taken]) -> Iterator[Taken]:
        """Those of the messages that are meant."""
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
            and (self.reason is None or self.reason == message.reason_code)
            and (self.enterprise_manager is None or self.enterprise_manager == message.enterprise_manager)
        )
