"""The event that says that all commands of a batch have ended."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from contracts.commands import Batch, Message, Ticket
from contracts.events import EVENT_NAMESPACE, MAX_SUMMARY, Envelope

#: The CloudEvents `type`.
BATCH_ENDED: Final = "unlink.batch_ended.v1"

#: The first word of its routing key.
BATCH_ENDED_KEY = "batch_ended"

#: The event names at most this many keys of commands that did not succeed.
MOST_KEYS = 100

Count = Annotated[int, Field(ge=0)]


class BatchCounts(Message):
    """How the commands of a batch ended: how many of each outcome."""

    model_config = ConfigDict(title="Counts")

    succeeded: Count = Field(0, description="How many succeeded.")
    failed: Count = Field(0, description="How many failed.")
    rejected: Count = Field(0, description="How many were rejected.")
    cancelled: Count = Field(0, description="How many were cancelled.")
    timed_out: Count = Field(0, description="How many timed out.")


class BatchEndedData(Message):
    """What the event says. Every field is always there; null means not known, or not applicable."""

    batch: Batch = Field(description="The batch, as its commands named it.")
    enterprise_manager: str = Field(description="The Enterprise Manager that its commands are for.")
    user_id: str | None = Field(
        None,
        description="The broker user who published its commands, as the broker verified it; null if they did not name "
        "one. Batches of different users are different, also if they have the same ID.",
    )
    counts: BatchCounts = Field(description="How many commands ended with each outcome.")
    all_succeeded: bool = Field(description="Whether every command succeeded.")
    not_succeeded: list[str] = Field(
        default_factory=list,
        max_length=MOST_KEYS,
        description=f"The idempotency keys of the commands that did not succeed: the first {MOST_KEYS}, sorted.",
    )
    not_succeeded_more: Count = Field(0, description="How many more did not succeed.")
    summary: Annotated[str, Field(max_length=MAX_SUMMARY)] = Field(
        description="One sentence for a person. The wording may change in any release."
    )
    ticket: Ticket | None = Field(None, description="The commands' ticket, if all have the same.")
    correlation_id: str | None = Field(None, description="The commands' `correlation_id`, if all have the same.")
    finished_at: AwareDatetime = Field(description="When the last command ended.")


class BatchEnded(Envelope):
    """A CloudEvent about a batch. A repeat has the same `id`: drop it by that."""

    terminal: ClassVar = False

    id: Annotated[str, Field(min_length=1)] = Field(
        description="The same however often the event comes: a UUIDv5 of the batch and of the IDs of the events with "
        "which its commands ended. A retry of one of them ends with another event, and so does the batch."
    )
    type: Literal["unlink.batch_ended.v1"] = Field(BATCH_ENDED, description="What the event says.")
    subject: str = Field(description="The batch's ID.")
    data: BatchEndedData

    @property
    def routing_key(self) -> str:
        """`batch_ended.<enterprise manager>`."""
        return f"{BATCH_ENDED_KEY}.{self.data.enterprise_manager}"


def batch_ended_id(enterprise_manager: str, user_id: str | None, batch_id: str, event_ids: Iterable[str]) -> str:
    """The event's ID, derived from the batch and from the IDs, in any order, of the events that ended its commands."""
    parts = (BATCH_ENDED, enterprise_manager, user_id or "", batch_id, *sorted(event_ids))
    return str(uuid.uuid5(EVENT_NAMESPACE, "\n".join(parts)))
