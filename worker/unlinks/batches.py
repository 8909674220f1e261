"""Batches: which commands belong together, and the event that says that all of them have ended.

A command joins its batch before it is claimed. After each end, and for each delivery that is answered again, the ledger
is asked which batches of the key have ended. The same ends give the same event with the same ID, even if several
workers find the batch ended; the ledger keeps the event until an end changes. The event is published before the
delivery is acknowledged, so that it is repeated after a crash in between.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from contracts.batches import MOST_KEYS, BatchCounts, BatchEnded, BatchEndedData, batch_ended_id
from contracts.commands import Batch, Command, Ticket, UnlinkCommand
from contracts.events import Event, Outcome, source_of
from contracts.reading import PartialParse
from worker.unlinks.ports.broker import Delivery
from worker.unlinks.ports.ledger import BatchKey, EndedBatch, Ledger, MemberEnd, NewMember


class EndedBatches(Protocol):
    """Gives the events of the batches that have ended with the command that is being answered."""

    async def __call__(self) -> Iterable[BatchEnded]:
        """The events of batches that have ended by now."""
        ...


async def none_ended() -> tuple[BatchEnded, ...]:
    """No events: the command belongs to no batch."""
    return ()


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches in the ledger."""

    ledger: Ledger

    async def join(self, command: Command, delivery: Delivery) -> str | None:
        """Let a command join the batch that it names. Return why it cannot, else None."""
        member = member_of(command, delivery)
        if member is None:
            return None
        size = await self.ledger.join(member)
        if size is None:
            return None
        if size != member.size:
            return f"batch.size: the batch {member.batch.id!r} began with size {size}, not {member.size}"
        return f"batch: the batch {member.batch.id!r} has all of its {size} commands already"

    async def count_rejected(self, member: NewMember, event: Event, *, given_up: bool) -> None:
        """Count a rejected command in its batch."""
        data = event.data
        end = MemberEnd(
            key=member.key,
            outcome=Outcome.REJECTED,
            event_id=event.id,
            ended_at=event.time,
            ticket=None if data.ticket is None else json.dumps(data.ticket.model_dump(), sort_keys=True),
            correlation_id=data.correlation_id,
        )
        await self.ledger.count_rejected(member, end, given_up=given_up)

    async def ended(self, key: str) -> tuple[BatchEnded, ...]:
        """The events of the batches of a key that have ended."""
        await self.ledger.end_members(key)
        # In a transaction of its own: of two members that end in the same instant, one sees the end of the other.
        return await self.ledger.ended_batches(key, compose)


def member_of(command: Command, delivery: Delivery) -> NewMember | None:
    """The membership of a command; None if it belongs to no batch."""
    if not isinstance(command, UnlinkCommand) or command.dry_run or command.batch is None:
        return None
    return _member(command.batch, command.idempotency_key, command.fingerprint, delivery)


def member_of_partial(partial: PartialParse, delivery: Delivery) -> NewMember | None:
    """The membership of a message that breaks the contract, if its key and batch can be read."""
    if partial.batch is None or partial.idempotency_key is None:
        return None
    return _member(partial.batch, partial.idempotency_key, None, delivery)


def _member(batch: Batch, key: str, fingerprint: str | None, delivery: Delivery) -> NewMember:
    of = BatchKey(delivery.enterprise_manager, delivery.user_id, batch.id)
    return NewMember(of, batch.size, key, fingerprint)


def compose(ended: EndedBatch) -> BatchEnded:
    """The event of a batch that has ended."""
    batch, members = ended.batch, ended.members
    counts = Counter(member.outcome for member in members)
    failures = [member.key for member in members if member.outcome is not Outcome.SUCCEEDED]
    tickets = {member.ticket for member in members}
    ticket = tickets.pop() if len(tickets) == 1 else None
    correlations = {member.correlation_id for member in members}
    finished_at = max(member.ended_at for member in members)
    data = BatchEndedData(
        batch=Batch(id=batch.id, size=ended.size),
        enterprise_manager=batch.enterprise_manager,
        user_id=batch.user_id,
        counts=BatchCounts(**{outcome.value: count for outcome, count in counts.items()}),
        all_succeeded=not failures,
        not_succeeded=failures[:MOST_KEYS],
        not_succeeded_more=max(len(failures) - MOST_KEYS, 0),
        summary=_summary(batch.id, ended.size, counts),
        ticket=None if ticket is None else Ticket(**json.loads(ticket)),
        correlation_id=correlations.pop() if len(correlations) == 1 else None,
        finished_at=finished_at,
    )
    return BatchEnded(
        id=batch_ended_id(batch.enterprise_manager, batch.user_id, batch.id, (member.event_id for member in members)),
        source=source_of(batch.enterprise_manager),
        subject=batch.id,
        time=finished_at,
        data=data,
    )


def _summary(batch_id: str, size: int, counts: Counter[Outcome]) -> str:
    if counts[Outcome.SUCCEEDED] == size:
        return f"All {size} commands of the batch '{batch_id}' succeeded."
    others = ", ".join(
        f"{count} {outcome.value.replace('_', ' ')}"
        for outcome, count in sorted(counts.items())
        if outcome is not Outcome.SUCCEEDED
    )
    return f"Of {size} commands of the batch '{batch_id}', {counts[Outcome.SUCCEEDED]} succeeded: {others}."
