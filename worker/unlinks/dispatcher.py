"""One delivery: read, authorize, claim, run the workflow, settle, answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from contracts.commands import UNKNOWN_NAME, CancelCommand, UnlinkCommand
from contracts.events import Outcome, Reason, ReasonCode
from contracts.reading import UnreadableMessageError, read_command, read_message, to_stored
from worker.unlinks.attempts import Attempts
from worker.unlinks.authorization import Authorized, Authorizer
from worker.unlinks.claiming import HELD_ELSEWHERE_SECONDS, claim_once_free
from worker.unlinks.job_locks import JobLocks
from worker.unlinks.misrouted import Misrouted, ending_of_given_up, given_up
from worker.unlinks.outcome import Ending, as_plan, compose, failed
from worker.unlinks.policy import DeniedError
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    CancelRequest,
    Claimed,
    Entry,
    KeyReused,
    Lease,
    LeaseLostError,
    NewClaim,
    Settled,
    Stage,
)
from worker.unlinks.ports.steps import Reporter, StepKind
from worker.unlinks.replies import Replies, known_of
from worker.unlinks.rules import Pace
from worker.unlinks.signals import Signal
from worker.unlinks.waiting import Waiting
from worker.unlinks.workflow import Workflow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from contracts.commands import Command
    from contracts.events import Event
    from worker.unlinks.ports.broker import Delivery, Outbox
    from worker.unlinks.ports.clock import Clock
    from worker.unlinks.ports.enterprise_manager import EnterpriseManager, Job, Task
    from worker.unlinks.ports.ledger import Ledger
    from worker.unlinks.ports.steps import Steps
    from worker.unlinks.rules import Rules

#: How long a cancelled unlink has to release its lease, in seconds.
CANCEL_SECONDS = 5.0


@dataclass(slots=True)
class _Running:
    """An unlink under way here, and the deliveries that wait for its end.

    `job` is what it was authorized for; see `Workflow`. `given_up`: why it is not run but answered from the ledger.
    `claimed` once the ledger has given the key to this content: until then it may belong to another.
    """

    command: UnlinkCommand
    fingerprint: str
    deliveries: list[Delivery]
    report: Reporter
    job: Job | None = None
    given_up: str | None = None
    claimed: bool = False
    cancelled: Signal = field(default_factory=Signal)


class Dispatcher:
    """Handles deliveries, all at once."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        outbox: Outbox,
        enterprise_managers: Mapping[str, EnterpriseManager],
        clock: Clock,
        rules: Rules,
        steps: Steps,
    ) -> None:
        self._ledger = ledger
        self._replies = Replies(outbox, clock)
        self._enterprise_managers = enterprise_managers
        self._clock = clock
        self._rules = rules
        self._steps = steps
        self._authorizer = Authorizer(rules.policy, ledger, enterprise_managers)
        self._misrouted = Misrouted(ledger, self._replies, enterprise_managers)
        self._job_locks = JobLocks()
        self._leaving = Signal()
        self._attempts = Attempts(
            self._replies, clock, self._leaving, most=rules.max_attempts, hold_seconds=rules.hold_seconds
        )
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        ledger.on_cancel(self._on_cancel)

    def receive(self, delivery: Delivery) -> asyncio.Task[None]:
        """Start to handle a delivery; the task that does."""
        task = asyncio.create_task(self._receive(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def in_flight(self) -> int:
        """How many deliveries are being worked on."""
        return len(self._tasks)

    async def drain(self, seconds: float) -> bool:
        """Wait `seconds` for unlinks to end; leave the rest to redelivery. True if all ended.

        What does not end is left at its next wait, not in the middle of a request, and its lease is released.
        """
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        ended = not self._tasks
        self._leaving.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CANCEL_SECONDS)
        return ended

    # --- one delivery -----------------------------------------------------------------------------------------------

    async def _receive(self, delivery: Delivery) -> None:
        command: Command | Exception
        try:
            command = self._read(delivery)
        except Exception as error:  # noqa: BLE001 - raised again or answered below, as an attempt
            command = error
        key = None if isinstance(command, Exception) else command.idempotency_key
        name = delivery.enterprise_manager
        # Other names are the senders', and without a bound.
        report = Reporter(self._steps, name if name in self._enterprise_managers else UNKNOWN_NAME, key)
        known_by: Mapping[str, Any] = command.known_by if isinstance(command, UnlinkCommand) else {}
        report(StepKind.RECEIVED, delivery=delivery, **known_by)
        try:
            unlink = await self._attempts.run([delivery], self._answer(command, delivery, report), report)
            if unlink is not None:
                await self._run(unlink)
        finally:
            report(StepKind.ANSWERED)

    def _read(self, delivery: Delivery) -> Command:
        command = read_message(delivery.body, delivery.content_type)
        if command.enterprise_manager != delivery.enterprise_manager and (
            command.enterprise_manager in self._enterprise_managers
        ):
            # One of the two is a mistake; following the wrong one would remove a link on another Enterprise Manager.
            problem = (
                f"enterprise_manager: the command names {command.enterprise_manager!r}, "
                f"but its routing key was {delivery.enterprise_manager!r}"
            )
            raise UnreadableMessageError(problem, known_of(command))
        return command

    async def _answer(self, command: Command | Exception, delivery: Delivery, report: Reporter) -> _Running | None:
        """Answer a delivery, or return the unlink that is to be run for it."""
        if (misrouting := self._misrouted.without_queue(delivery)) is not None:
            unlink = await self._misrouted.reject_unless_known(command, delivery, misrouting, report)
            return None if unlink is None else await self._begin(unlink, delivery, Authorized(), report)
        if isinstance(command, UnreadableMessageError):
            code, problem, known = ReasonCode.INVALID_MESSAGE, command.problem, command.partial
        elif isinstance(command, Exception):
            raise command
        elif command.enterprise_manager not in self._enterprise_managers:
            code, known = ReasonCode.UNKNOWN_ENTERPRISE_MANAGER, known_of(command)
            problem = f"no Enterprise Manager is configured as {command.enterprise_manager!r}"
        else:
            try:
                authorized = await self._authorize(command, delivery, report)
            except DeniedError as no:
                report(StepKind.DENIED, user_id=delivery.user_id, job_id=_job_id(command), problem=str(no))
                code, problem, known = ReasonCode.ACCESS_DENIED, str(no), known_of(command)
            else:
                return await self._begin(command, delivery, authorized, report)
        await self._replies.reject(delivery, known, code, problem, report, dead_letter=True)
        return None

    async def _authorize(self, command: Command, delivery: Delivery, report: Reporter) -> Authorized:
        return await self._authorizer.authorize(command, delivery.user_id, self._waiting([delivery], report))

    async def _begin(
        self, command: Command, delivery: Delivery, authorized: Authorized, report: Reporter
    ) -> _Running | None:
        if isinstance(command, CancelCommand):
            await self._cancel(command, delivery, report)
        elif command.dry_run:
            await self._plan(command, delivery, authorized, report)
        elif (running := self._running.get(command.idempotency_key)) is not None:
            await self._join(running, command, delivery, report)
        else:
            running = _Running(command, command.fingerprint, [delivery], report, authorized.job, given_up(delivery))
            self._running[command.idempotency_key] = running
            return running
        return None

    async def _run(self, running: _Running) -> None:
        try:
            await self._attempts.run(running.deliveries, self._unlink(running.command, running), running.report)
        finally:
            del self._running[running.command.idempotency_key]

    async def _join(self, running: _Running, command: UnlinkCommand, delivery: Delivery, report: Reporter) -> None:
        """The key is under way here: its end answers this delivery too."""
        if running.fingerprint != command.fingerprint:
            if running.claimed:
                await self._replies.reject_reuse(delivery, command, report)
            else:  # which of the two came first, only the ledger knows
                await self._replies.delay([delivery], HELD_ELSEWHERE_SECONDS, report, failed=False)
            return
        report(StepKind.JOINED, live=sum(each.live for each in running.deliveries))
        running.deliveries.append(delivery)

    # --- a command --------------------------------------------------------------------------------------------------

    async def _unlink(self, command: UnlinkCommand, running: _Running) -> None:
        """Claim the key and run its unlink."""
        report = running.report
        claim = NewClaim(
            key=command.idempotency_key,
            fingerprint=running.fingerprint,
            enterprise_manager=command.enterprise_manager,
            command=to_stored(command, running.deliveries[0].correlation_id),
            received_at=self._clock.now(),
            user_id=running.deliveries[0].user_id,
        )
        report(StepKind.CLAIMING)
        waiting = self._waiting(running.deliveries, report)
        match await claim_once_free(partial(self._ledger.claim, claim), running.deliveries, waiting, report):
            case AlreadySettled(event):
                report(StepKind.SETTLED_BEFORE)
                await self._replies.publish_settled(event, running.deliveries, report)
            case KeyReused():
                report(StepKind.KEY_REUSED)
                while running.deliveries:
                    await self._replies.reject_reuse(running.deliveries[0], command, report)
                    del running.deliveries[0]
            case Claimed(entry):
                report(StepKind.CLAIMED if entry.lease.token == 1 else StepKind.TOOK_OVER)
                running.claimed = True
                if entry.cancelled:
                    running.cancelled.set()
                try:
                    await self._run_claimed(_stored(entry, command, claim.command), entry, running)
                except BaseException:
                    report(StepKind.RELEASED)
                    # Also if the lease seems lost: if it is not, its renewals would keep the key from other workers.
                    await self._ledger.release(entry.lease)
                    raise

    async def _run_claimed(self, command: UnlinkCommand, entry: Entry, running: _Running) -> None:
        if running.given_up is not None:
            ending = ending_of_given_up(entry, running.given_up)
            event = await self._settle(command, await self._with_canceller(entry, ending, running), ending, running)
        else:
            event = await self._to_the_end(command, entry, running)
        await self._replies.publish_settled(event, running.deliveries, running.report)

    async def _to_the_end(self, command: UnlinkCommand, entry: Entry, running: _Running) -> Event:
        progress: list[asyncio.Task[None]] = []

        def on_submitted(entry: Entry, task: Task | None) -> None:
            event = self._event(command, entry, Ending(Outcome.SUBMITTED, seen=entry.intent, task=task), running)
            progress.append(asyncio.create_task(self._replies.offer(event, running.report)))

        workflow = self._workflow(command, entry, running, on_submitted)
        try:
            ending = await self._ending(workflow, running)
            entry = await self._with_canceller(workflow.entry, ending, running)
            return await self._settle(command, entry, ending, running)
        finally:
            for publishing in progress:
                publishing.cancel()

    async def _settle(self, command: UnlinkCommand, entry: Entry, ending: Ending, running: _Running) -> Event:
        event = self._event(command, entry, ending, running)
        if ending.gave_up is not None:
            # Before it is settled: a worker that finds it settled after a crash only publishes its event.
            if not self._ledger.alive(entry.lease):
                raise LeaseLostError
            await self._replies.dead_letter(running.deliveries[0], ending.gave_up, running.report)
        running.report(StepKind.SETTLING)
        await self._ledger.record(entry.lease, Settled(ending.outcome, event.to_bytes(), event.time))
        running.report(StepKind.SETTLED, event=event, **ending.facts)
        return event

    async def _with_canceller(self, entry: Entry, ending: Ending, running: _Running) -> Entry:
        """The entry with who asked to cancel the run, if it was cancelled or this worker knows of a request."""
        if not running.cancelled.is_set() and ending.outcome is not Outcome.CANCELLED:
            return entry
        return replace(entry, cancelled_by=await self._ledger.cancelled_by(entry.lease))

    async def _ending(self, workflow: Workflow, running: _Running) -> Ending:
        try:
            return await workflow.to_ending()
        except Exception as error:  # noqa: BLE001 - raised again, unless it was the last attempt
            message = self._attempts.gave_up(error, running.deliveries, running.report)
            sent = workflow.entry.stage is not Stage.CLAIMED
            return failed(ReasonCode.GAVE_UP, message, changed=None if sent else False, seen=workflow.entry.intent)

    async def _plan(self, command: UnlinkCommand, delivery: Delivery, authorized: Authorized, report: Reporter) -> None:
        """A dry run: the workflow as far as the intend, without a trace in the ledger."""
        lease = Lease(command.idempotency_key, 0)
        entry = Entry(lease, Stage.CLAIMED, delivery.attempt, self._clock.now(), user_id=delivery.user_id)
        running = _Running(command, command.fingerprint, [delivery], report, authorized.job)
        workflow = self._workflow(command, entry, running, lambda _entry, _task: None)
        if (why := given_up(delivery)) is not None:
            ending = failed(ReasonCode.GAVE_UP, why)
            await self._replies.dead_letter(delivery, Reason(code=ReasonCode.GAVE_UP, message=why), report)
        else:
            ending = await self._ending(workflow, running)
        ending = as_plan(ending)
        event = self._event(command, workflow.entry, ending, running)
        report(StepKind.PLANNED, event=event, **ending.facts)
        await self._replies.publish(event, [delivery], report)

    # --- a cancel ---------------------------------------------------------------------------------------------------

    async def _cancel(self, command: CancelCommand, delivery: Delivery, report: Reporter) -> None:
        """Record the request; the worker that holds the key acts on it. The unlink's end answers it."""
        request = CancelRequest(
            key=command.idempotency_key,
            enterprise_manager=command.enterprise_manager,
            requested_by=command.requested_by,
            reason=command.reason,
            requested_at=self._clock.now(),
            user_id=delivery.user_id,
        )
        match await self._ledger.cancel(request):
            case AlreadySettled(event):
                report(StepKind.CANCELLED_TOO_LATE)
                await self._replies.publish_settled(event, [delivery], report)
            case KeyReused():
                await self._replies.reject_reuse(delivery, command, report)
            case None:
                report(StepKind.CANCEL_RECORDED, requested_by=command.requested_by)
                delivery.acknowledge()

    def _on_cancel(self, key: str) -> None:
        if (running := self._running.get(key)) is not None:
            running.cancelled.set()

    # --- parts ------------------------------------------------------------------------------------------------------

    def _waiting(self, deliveries: list[Delivery], report: Reporter) -> Waiting:
        """Waiting that a cancel does not end."""
        hold_until = partial(self._attempts.hold_until, deliveries)
        return Waiting(self._clock, hold_until, self._leaving, Signal(), report, heeds_cancel=False)

    def _workflow(
        self,
        command: UnlinkCommand,
        entry: Entry,
        running: _Running,
        on_submitted: Callable[[Entry, Task | None], None],
    ) -> Workflow:
        hold_until = partial(self._attempts.hold_until, running.deliveries)
        return Workflow(
            command=command,
            entry=entry,
            enterprise_manager=self._enterprise_managers[command.enterprise_manager],
            ledger=self._ledger,
            job_locks=self._job_locks,
            waiting=Waiting(self._clock, hold_until, self._leaving, running.cancelled, running.report),
            clock=self._clock,
            pace=self._rules.paces.get(command.enterprise_manager, Pace()),
            on_submitted=on_submitted,
            report=running.report,
            authorized=running.job,
        )

    def _event(self, command: UnlinkCommand, entry: Entry, ending: Ending, running: _Running) -> Event:
        correlation_id = command.correlation_id or running.deliveries[0].correlation_id or command.idempotency_key
        return compose(command, entry, ending, correlation_id=correlation_id, now=self._clock.now())


def _stored(entry: Entry, command: UnlinkCommand, claimed: bytes) -> UnlinkCommand:
    """The command that claimed the key first: its deadline, ticket and texts hold, not those of a repeat."""
    if entry.command == claimed:  # almost always; reading it again would give the same command
        return command
    try:
        return read_command(entry.command)
    except UnreadableMessageError:  # of a contract that is not known here; the content is the same
        return command


def _job_id(command: Command) -> str | None:
    return None if isinstance(command, CancelCommand) else command.job.id
