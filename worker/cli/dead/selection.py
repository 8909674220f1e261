"""Which dead letters are selected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from worker.cli.dead.queue import Taken


@dataclass(frozen=True, slots=True)
class Selection:
    """Messages by name (idempotency key or message ID), by position, by reason code, by Enterprise Manager; or all.

    All given criteria must hold.
    """

    name: str | None = None
    position: int | None = None
    reason: str | None = None
    enterprise_manager: str | None = None
    everything: bool = False

    @property
    def one(self) -> bool:
        """Whether it selects one message by name or position."""
        return self.name is not None or self.position is not None

    @property
    def given(self) -> bool:
        """Whether any criterion is given."""
        return self.one or self.everything or self.reason is not None or self.enterprise_manager is not None

    def among(self, messages: Iterable[Taken]) -> Iterator[Taken]:
        """The selected ones of the messages."""
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
