"""One run of a key, from its claim to its published event: claim, run the workflow, settle, answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from contracts.batches import BatchEnded
from contracts.commands import RetryCommand, UnlinkCommand
from contracts.events import Event, Outcome, ReasonCode
from contracts.reading import UnreadableMessageError, read_command, to_stored
from worker.unlinks.attempts import Attempts
from worker.unlinks.authorization import Authorized, Authorizer
from worker.unlinks.batches import Batches
from worker.unlinks.claiming import claim_once_free
from worker.unlinks.job_locks import JobLocks
from worker.unlinks.misrouted import ending_of_given_up, given_up
from worker.unlinks.not_before import require_soon, seconds_of_waiting, seconds_until_start
from worker.unlinks.outcome import Ending, as_plan, compose, failed
from worker.unlinks.policy import DeniedError
from worker.unlinks.ports.broker import Delivery
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import EnterpriseManager, Task
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    CancelRequestedError,
    Claimed,
    Entry,
    KeyReused,
    Lease,
    LeaseLostError,
    Ledger,
    NewClaim,
    NoSuchRun,
    Retry,
    RetryResult,
    Settled,
    Stage,
)
from worker.unlinks.ports.steps import Reporter, StepKind
from worker.unlinks.replies import Replies
from worker.unlinks.rules import Pace, Rules
from worker.unlinks.signals import Signal
from worker.unlinks.waiting import Waiting
from worker.unlinks.workflow import Workflow


@dataclass(slots=True)
class Running:
    """A run under way here, and the deliveries that wait for its end.

    `asked` is the command that began it here; `authorized` is the result of its authorization. `fingerprint` is that of
    the content; for a retry only the ledger knows it. `given_up`: why the command is not run but answered from the
    ledger. `stored` is the command as it was claimed. `run` is the run's number; None until the ledger has given the
    key to this content. `batched`: the key belongs to a batch. `over` is set when nothing more is done for it here.
    """

    asked: UnlinkCommand | RetryCommand
    authorized: Authorized
    deliveries: list[Delivery]
    report: Reporter
    fingerprint: str | None
    given_up: str | None = None
    stored: bytes | None = None
    run: int | None = None
    batched: bool = False
    cancelled: Signal = field(default_factory=Signal)
    over: Signal = field(default_factory=Signal)

    @property
    def key(self) -> str:
        """The idempotency key."""
        return self.asked.idempotency_key


@dataclass(frozen=True, slots=True)
class Runs:
    """Executes runs."""

    ledger: Ledger
    replies: Replies
    enterprise_managers: Mapping[str, EnterpriseManager]
    clock: Clock
    rules: Rules
    attempts: Attempts
    job_locks: JobLocks
    leaving: Signal
    batches: Batches
    authorizer: Authorizer

    async def execute(self, running: Running) -> None:
        """Claim the key, or start its next run, and execute the run until it is answered."""
        report = running.report
        await self._require_due(running)
        report(StepKind.CLAIMING)
        hold_until = partial(self.attempts.hold_until, running.deliveries)
        waiting = Waiting(self.clock, hold_until, self.leaving, Signal(), report, heeds_cancel=False)
        match await claim_once_free(await self._claim_of(running), running.deliveries, waiting, report):
            case AlreadySettled(event, batched):
                report(StepKind.SETTLED_BEFORE)
                running.batched = running.batched or batched
                await self._publish_settled(event, running)
            case KeyReused():
                report(StepKind.KEY_REUSED)
                while running.deliveries:
                    await self.replies.reject_reuse(running.deliveries[0], running.asked, report)
                    del running.deliveries[0]
            case NoSuchRun():
                while running.deliveries:
                    await self.replies.reject_run(running.deliveries[0], running.asked, report)
                    del running.deliveries[0]
            case Claimed(entry):
                await self._claimed(entry, running)

    async def plan(self, command: UnlinkCommand, delivery: Delivery, authorized: Authorized, report: Reporter) -> None:
        """A dry run: the workflow up to the intent, without a record in the ledger."""
        lease = Lease(command.idempotency_key, 0)
        entry = Entry(lease, Stage.CLAIMED, delivery.attempt, self.clock.now(), user_id=delivery.user_id)
        running = Running(command, authorized, [delivery], report, command.fingerprint)
        workflow = self._workflow(command, entry, running, lambda _entry, _task: None)
        why = given_up(delivery)
        ending = await self._ending(workflow, running) if why is None else failed(ReasonCode.GAVE_UP, why)
        dead = None if why is None else ending.reason
        ending = as_plan(ending)
        event = self._event(command, workflow.entry, ending, running)
        report(StepKind.PLANNED, event=event, **ending.facts)
        await self.replies.publish(event, [delivery], report, dead=dead)

    # --- parts ------------------------------------------------------------------------------------------------------

    async def _require_due(self, running: Running) -> None:
        """Return unless the stored command of the key has to wait for its `not_before` in a delay queue.

        Raises:
            DeferredError: it has to: this repeat or returning copy is delayed again without a claim.
        """
        if running.given_up is not None or running.cancelled.is_set():
            return
        if running.asked.not_before is None and not isinstance(running.asked, RetryCommand):
            return  # a retry may have to wait for the time of the command that it runs again
        known = await self.ledger.last_run(running.key)
        if known is not None and running.fingerprint in {None, known.fingerprint}:
            require_soon(seconds_of_waiting(known, self.clock.now()))

    async def _claim_of(self, running: Running) -> Callable[[], Awaitable[RetryResult]]:
        """The call of the ledger that claims the key, or starts its next run."""
        asked, delivery = running.asked, running.deliveries[0]
        if isinstance(asked, RetryCommand):
            retried = running.authorized.retried
            if retried is not None and retried.failure is not None:
                # A worker may have ended before it published the event, and no later delivery would publish it.
                await self.replies.repeat(retried.failure, running.deliveries, running.report)
            retry = Retry(
                key=asked.idempotency_key,
                enterprise_manager=asked.enterprise_manager,
                run=asked.run,
                permitted=None if retried is None else retried.fingerprint,
                requested_by=asked.requested_by,
                reason=asked.reason,
                not_before=asked.not_before,
                not_after=asked.not_after,
                correlation_id=delivery.correlation_id,
                user_id=delivery.user_id,
            )
            return partial(self.ledger.retry, retry)
        running.stored = to_stored(asked, delivery.correlation_id)
        claim = NewClaim(
            key=asked.idempotency_key,
            fingerprint=running.fingerprint or asked.fingerprint,
            enterprise_manager=asked.enterprise_manager,
            command=running.stored,
            received_at=self.clock.now(),
            user_id=delivery.user_id,
        )
        return partial(self.ledger.claim, claim)

    async def _claimed(self, entry: Entry, running: Running) -> None:
        report = running.report
        try:
            command = _stored(entry, running)
            if command is not running.asked:
                report.identified(command)
            if entry.attempts > 1:
                report(StepKind.TOOK_OVER)
            elif entry.run > 1:
                report(StepKind.RUN_STARTED, run=entry.run)
            else:
                report(StepKind.CLAIMED)
            running.run = entry.run
            running.batched = running.batched or entry.batched
            if command is not running.asked or running.fingerprint is None:
                running.fingerprint = command.fingerprint
            if entry.cancelled:
                running.cancelled.set()
            await self._to_the_answer(command, entry, running)
        except BaseException:
            report(StepKind.RELEASED)
            # Also if the lease seems lost. If it is not, its renewals would keep other workers from the key.
            await self.ledger.release(entry.lease)
            raise

    async def _to_the_answer(self, command: UnlinkCommand, entry: Entry, running: Running) -> None:
        if running.given_up is not None:
            ending = ending_of_given_up(entry, running.given_up)
            event = await self._settle(command, await self._with_canceller(entry, ending, running), ending, running)
        else:
            event = await self._to_the_end(command, entry, running)
        await self._publish_settled(event, running)

    async def _publish_settled(self, event: Event | bytes, running: Running) -> None:
        ended_batches = partial(self._ended_batches, running)
        await self.replies.publish_settled(event, running.deliveries, running.report, ended_batches)

    async def _ended_batches(self, running: Running) -> tuple[BatchEnded, ...]:
        return await self.batches.ended(running.key) if running.batched else ()

    async def _to_the_end(self, command: UnlinkCommand, entry: Entry, running: Running) -> Event:
        progress: list[asyncio.Task[None]] = []

        def on_submitted(entry: Entry, task: Task | None) -> None:
            event = self._event(command, entry, Ending(Outcome.SUBMITTED, seen=entry.intent, task=task), running)
            progress.append(asyncio.create_task(self.replies.offer(event, running.report)))

        denied = await self._await_start(command, entry, running)
        workflow = self._workflow(command, entry, running, on_submitted)
        try:
            ending = denied or await self._ending(workflow, running)
            entry = await self._with_canceller(workflow.entry, ending, running)
            return await self._settle(command, entry, ending, running)
        finally:
            for publishing in progress:
                publishing.cancel()

    async def _await_start(self, command: UnlinkCommand, entry: Entry, running: Running) -> Ending | None:
        """Wait for the command's `not_before`, then apply the policy again. Return the ending if it is denied."""
        if command.not_before is None or entry.stage is not Stage.CLAIMED:
            return None
        waiting = self._waiting(running)
        try:
            waiting.require_not_cancelled()
            while (left := seconds_until_start(command, self.clock.now())) > 0:
                require_soon(left)
                await waiting.wait(left)
            running.authorized = await self.authorizer.authorize_start(command, entry, waiting)
        except CancelRequestedError:
            return None  # the workflow begins with the check for a cancel
        except DeniedError as no:
            running.report(StepKind.DENIED, user_id=entry.sender, job_id=command.job.id, problem=str(no))
            return failed(ReasonCode.ACCESS_DENIED, str(no), changed=None if entry.may_act else False)
        return None

    def _waiting(self, running: Running) -> Waiting:
        hold_until = partial(self.attempts.hold_until, running.deliveries)
        return Waiting(self.clock, hold_until, self.leaving, running.cancelled, running.report)

    async def _settle(self, command: UnlinkCommand, entry: Entry, ending: Ending, running: Running) -> Event:
        event = self._event(command, entry, ending, running)
        if ending.gave_up is not None:
            # Before it is settled: a worker that finds it settled after a crash only publishes its event.
            if not self.ledger.alive(entry.lease):
                raise LeaseLostError
            await self.replies.dead_letter(running.deliveries[0], ending.gave_up, running.report, run=entry.run)
        running.report(StepKind.SETTLING)
        await self.ledger.record(entry.lease, Settled(ending.outcome, event.to_bytes(), event.time))
        running.report(StepKind.SETTLED, event=event, **ending.facts)
        return event

    async def _with_canceller(self, entry: Entry, ending: Ending, running: Running) -> Entry:
        """The entry with `cancelled_by`, if the run was cancelled or this worker knows of a request to cancel."""
        if not running.cancelled.is_set() and ending.outcome is not Outcome.CANCELLED:
            return entry
        return replace(entry, cancelled_by=await self.ledger.cancelled_by(entry.lease))

    async def _ending(self, workflow: Workflow, running: Running) -> Ending:
        try:
            return await workflow.to_ending()
        except Exception as error:  # noqa: BLE001 - raised again, unless it was the last attempt
            message = self.attempts.gave_up(error, running.deliveries, running.report)
            may_act = workflow.entry.stage is not Stage.CLAIMED or workflow.earlier_may_act
            return failed(ReasonCode.GAVE_UP, message, changed=None if may_act else False, seen=workflow.entry.intent)

    def _workflow(
        self,
        command: UnlinkCommand,
        entry: Entry,
        running: Running,
        on_submitted: Callable[[Entry, Task | None], None],
    ) -> Workflow:
        return Workflow(
            command=command,
            entry=entry,
            enterprise_manager=self.enterprise_managers[command.enterprise_manager],
            ledger=self.ledger,
            job_locks=self.job_locks,
            waiting=self._waiting(running),
            clock=self.clock,
            pace=self.rules.paces.get(command.enterprise_manager, Pace()),
            on_submitted=on_submitted,
            report=running.report,
            authorized=running.authorized.job,
        )

    def _event(self, command: UnlinkCommand, entry: Entry, ending: Ending, running: Running) -> Event:
        delivery = running.deliveries[0]
        correlation_id = command.correlation_id or delivery.correlation_id or command.idempotency_key
        arrived_at, now = delivery.arrived_at, self.clock.now()
        return compose(command, entry, ending, correlation_id=correlation_id, arrived_at=arrived_at, now=now)


def _stored(entry: Entry, running: Running) -> UnlinkCommand:
    """The command that claimed the key first. Its deadline, ticket and texts apply, not those of a repeat.

    Raises:
        UnreadableMessageError: it follows a contract that this version does not know, and no delivery has it.
    """
    asked = running.asked
    if entry.command == running.stored and not isinstance(asked, RetryCommand):
        return asked  # the usual case; reading the stored bytes would give the same command
    try:
        return read_command(entry.command)
    except UnreadableMessageError:
        if isinstance(asked, RetryCommand):
            raise
        return asked  # the content is the same
