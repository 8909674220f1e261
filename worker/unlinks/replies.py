"""How a delivery is answered: an event, a rejection, a copy in a delay queue, a dead letter; then its acknowledgement.

A delivery is acknowledged only after the broker has confirmed its answer. If anything fails before that, the delivery
stays unacknowledged, and the broker delivers it again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial as bound
from typing import Any

from contracts.batches import BatchEnded
from contracts.commands import Command, UnlinkCommand
from contracts.events import Event, Reason, ReasonCode
from contracts.reading import PartialParse, read_message
from worker.unlinks.batches import Batches, EndedBatches, member_of, member_of_partial, none_ended
from worker.unlinks.outcome import compose_rejection
from worker.unlinks.ports.broker import Delivery, Outbox, PublishRefusedError, ReplyTo
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.ledger import NewMember
from worker.unlinks.ports.steps import Reporter, StepKind


class UnpublishedError(Exception):
    """An answer was not published: the broker refused its event or dead letter, or the event is settled.

    The next delivery of the message is answered in the same way: a settled event is published from the ledger.
    """


@dataclass(frozen=True, slots=True)
class Replies:
    """Answers deliveries through the outbox."""

    outbox: Outbox
    clock: Clock
    batches: Batches

    async def publish(
        self,
        event: Event | bytes,
        deliveries: list[Delivery],
        report: Reporter,
        ended_batches: EndedBatches = none_ended,
        *,
        dead: Reason | None = None,
    ) -> None:
        """Publish a terminal event. After its confirm, and only then, acknowledge all deliveries that waited for it.

        With `dead`, the deliveries are dead-lettered in between, and none may join. The event comes first, so that no
        further dead letter is written at each attempt while a subscriber's queue is full. If the dead letter is
        refused, the event is published again with the next delivery; its ID is the same.

        Args:
            event: a new event, or the bytes of one that was settled before.
            deliveries: more may join while the event is being published.
            report: reports the steps of the delivery that began the run.
            ended_batches: returns the events of batches that have ended with it; they, too, are confirmed before the
                deliveries are acknowledged.
            dead: why the deliveries are dead-lettered; None if they are not.

        Raises:
            UnpublishedError: the broker refused the event or the dead letter.
        """
        try:
            await self._publish(event, deliveries, report, ended_batches)
        except PublishRefusedError as error:
            raise UnpublishedError(str(error)) from error
        if dead is not None:
            for delivery in deliveries:
                await self.dead_letter(delivery, dead, report)
        for delivery in deliveries:
            delivery.acknowledge()

    async def _publish(
        self, event: Event | bytes, deliveries: list[Delivery], report: Reporter, ended_batches: EndedBatches
    ) -> None:
        report(StepKind.PUBLISHING)
        reply_to, published_for, refusals = _reply_to(deliveries), len(deliveries), refusals_of(deliveries)
        await self.outbox.publish(event, reply_to, refusals=refusals)
        seen = 0
        while seen < len(deliveries):  # those that joined meanwhile may have another batch
            seen = len(deliveries)
            for batch in await ended_batches():
                await self.outbox.publish(batch, refusals=refusals)
                report(StepKind.BATCH_ENDED, **_facts(batch))
            if published_for < seen:  # their senders may have begun to listen after the event, or want a reply
                late, published_for = _reply_to(deliveries) - reply_to, seen
                await self.outbox.publish(event, late, refusals=refusals)
                reply_to |= late
        report(StepKind.PUBLISHED, event=None if isinstance(event, bytes) else event)

    async def offer(self, event: Event, report: Reporter) -> None:
        """Publish a progress event once. Never raises: nothing depends on it."""
        try:
            await self.outbox.offer(event)
        except Exception as error:  # noqa: BLE001 - no error here may stop the unlink
            report(StepKind.PROGRESS_LOST, problem=str(error))

    async def publish_settled(
        self,
        event: Event | bytes,
        deliveries: list[Delivery],
        report: Reporter,
        ended_batches: EndedBatches = none_ended,
    ) -> None:
        """Publish the event of a settled key, as `publish` does.

        Raises:
            UnpublishedError: it failed, for any reason.
        """
        try:
            await self.publish(event, deliveries, report, ended_batches)
        except UnpublishedError:
            raise
        except Exception as error:
            raise UnpublishedError(str(error)) from error

    async def repeat(self, event: bytes, asked: list[Delivery], report: Reporter) -> None:
        """Publish a stored event before what was `asked` is done. It does not answer these deliveries.

        Raises:
            UnpublishedError: it failed, for any reason.
        """
        report(StepKind.PUBLISHING)
        try:
            await self.outbox.publish(event, refusals=refusals_of(asked))
        except Exception as error:
            raise UnpublishedError(str(error)) from error
        report(StepKind.PUBLISHED, event=None)

    async def reject(
        self,
        delivery: Delivery,
        known: Command | PartialParse,
        code: ReasonCode,
        problem: str,
        report: Reporter,
        *,
        dead_letter: bool,
    ) -> None:
        """Answer a command that is not run with a `rejected` event."""
        if isinstance(known, PartialParse):
            partial, member = known, member_of_partial(known, delivery)
        else:
            partial, member = known_of(known), member_of(known, delivery)
        reason = Reason(code=code, message=problem)
        sender = delivery.user_id
        await self._reject(delivery, partial, reason, report, member, sender, changed=False, dead_letter=dead_letter)

    async def _reject(
        self,
        delivery: Delivery,
        partial: PartialParse,
        reason: Reason,
        report: Reporter,
        member: NewMember | None,
        sender: str | None = None,
        *,
        changed: bool | None,
        dead_letter: bool,
    ) -> None:
        report(StepKind.REJECTED, reason=reason.code.value, problem=reason.message)
        event = compose_rejection(
            delivery.body,
            partial,
            reason,
            changed=changed,
            enterprise_manager=delivery.enterprise_manager,
            correlation_id=delivery.correlation_id,
            user_id=sender,
            now=self.clock.now(),
        )
        dead = reason if dead_letter else None
        if member is None:
            await self.publish(event, [delivery], report, dead=dead)
            return
        await self.batches.count_rejected(member, event, given_up=reason.code is ReasonCode.GAVE_UP)
        await self.publish(event, [delivery], report, bound(self.batches.ended, member.key), dead=dead)

    async def reject_reuse(self, delivery: Delivery, command: Command, report: Reporter) -> None:
        """Answer a command whose key is known with other content."""
        problem = (
            "this idempotency_key belongs to an unlink of another enterprise_manager"
            if not isinstance(command, UnlinkCommand)
            else "this idempotency_key belongs to a command with other content; a new command needs a new key"
        )
        await self.reject(delivery, command, ReasonCode.KEY_REUSED, problem, report, dead_letter=False)

    async def reject_run(self, delivery: Delivery, command: Command, report: Reporter) -> None:
        """Answer a retry or a cancel of a run that was never started, or is not known any more."""
        problem = "no such run is known of this idempotency_key: it was never accepted, or was forgotten since"
        await self.reject(delivery, command, ReasonCode.RUN_NOT_FOUND, problem, report, dead_letter=False)

    async def delay(
        self,
        deliveries: list[Delivery],
        seconds: float,
        report: Reporter,
        *,
        failed: bool = False,
        refused: bool = False,
    ) -> None:
        """Put copies into a delay queue. A delivery that joins meanwhile is delayed too.

        One whose channel has closed is redelivered by the broker.
        """
        while deliveries:
            delivery = deliveries[0]
            if delivery.live:
                report(StepKind.DELAYING)
                await self.outbox.delay(delivery, seconds, failed=failed, refused=refused)
                report(StepKind.RETRIED if failed or refused else StepKind.DEFERRED)
                delivery.acknowledge()
            del deliveries[0]

    async def give_up(self, deliveries: list[Delivery], problem: str, report: Reporter) -> None:
        """Reject and dead-letter deliveries that the worker failed to handle; also those that join meanwhile.

        The event repeats only a valid key of the message: any other part may be the cause of the failure.
        """
        reason = Reason(code=ReasonCode.GAVE_UP, message=problem)
        while deliveries:
            delivery = deliveries[0]
            known, member = PartialParse(report.key), _member_if_readable(delivery)
            await self._reject(delivery, known, reason, report, member, changed=None, dead_letter=True)
            del deliveries[0]

    async def dead_letter(
        self, delivery: Delivery, reason: Reason, report: Reporter, *, run: int | None = None
    ) -> None:
        """Dead-letter a copy; `run` is the run that it ends. The delivery stays unacknowledged.

        Raises:
            UnpublishedError: the broker refused it.
        """
        report(StepKind.DEAD_LETTERING)
        try:
            await self.outbox.dead_letter(delivery, reason, run)
        except PublishRefusedError as error:
            raise UnpublishedError(str(error)) from error
        report(StepKind.DEAD_LETTERED, reason=reason.code.value)


def refusals_of(deliveries: list[Delivery]) -> int:
    """How often the broker refused the answer to deliveries that are answered together."""
    return max((delivery.refusals for delivery in deliveries), default=0)


def known_of(command: Command) -> PartialParse:
    """The fields of a command that a rejection repeats."""
    if not isinstance(command, UnlinkCommand):
        return PartialParse(command.idempotency_key, requested_by=command.requested_by, reason=command.reason)
    return PartialParse(
        command.idempotency_key,
        command.correlation_id,
        command.requested_by,
        command.reason,
        command.ticket,
        dict(command.labels),
        None if command.dry_run else command.batch,
        command.job,
        command.repository,
    )


def known_of_retry(retry: Command, stored: UnlinkCommand) -> PartialParse:
    """The fields that the rejection of a retry repeats, with those of the stored command that its sender knows.

    The batch is not among them: the rejection of a retry is no end of the command.
    """
    return replace(
        known_of(retry), ticket=stored.ticket, labels=dict(stored.labels), job=stored.job, repository=stored.repository
    )


def _member_if_readable(delivery: Delivery) -> NewMember | None:
    """The batch membership of a command that the worker failed to handle, perhaps because it cannot read it."""
    try:
        return member_of(read_message(delivery.body, delivery.content_type), delivery)
    except Exception:  # noqa: BLE001 - the command is answered after any error
        return None


def _facts(batch: BatchEnded) -> dict[str, Any]:
    counts = batch.data.counts.model_dump(exclude_defaults=True)
    return {"batch": batch.subject, "size": batch.data.batch.size, **counts}


def _reply_to(deliveries: list[Delivery]) -> set[ReplyTo]:
    return {ReplyTo(each.reply_to, each.correlation_id) for each in deliveries if each.reply_to is not None}
