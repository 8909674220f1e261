"""What a delivery finds, and what becomes of it: read, claim, run the workflow, settle, publish, acknowledge.

A delivery is acknowledged only after its terminal event (or its rejection and dead letter, or its copy in a delay
queue) is confirmed by the broker. Whatever goes wrong before that leaves it unacknowledged, and the broker delivers it
again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog

from contracts.commands import CancelCommand
from contracts.events import Outcome, Reason, ReasonCode
from contracts.reading import PartialParse, UnreadableMessageError, read_message
from worker.unlinks.authorization import Authorizer
from worker.unlinks.job_locks import JobLocks
from worker.unlinks.outcome import Ending, as_plan, compose, compose_rejection, failed
from worker.unlinks.policy import DeniedError
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    CancelRequest,
    Claimed,
    Entry,
    HeldElsewhere,
    KeyReused,
    Lease,
    LeaseLostError,
    NewClaim,
    Stage,
)
from worker.unlinks.rules import Pace
from worker.unlinks.waiting import DeferredError, LeavingError, Waiting
from worker.unlinks.workflow import Workflow

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from contracts.commands import Command, UnlinkCommand
    from contracts.events import Event
    from worker.unlinks.authorization import Authorized
    from worker.unlinks.ports.broker import Delivery, Outbox
    from worker.unlinks.ports.clock import Clock
    from worker.unlinks.ports.enterprise_manager import EnterpriseManager, Job, Task
    from worker.unlinks.ports.ledger import Ledger
    from worker.unlinks.rules import Rules

log = structlog.get_logger()

#: How long a command waits, in seconds, when another worker has its key.
HELD_ELSEWHERE_SECONDS = 5.0
#: The wait after an attempt that failed in an unforeseen way, in seconds: it grows by the factor, up to the longest.
FIRST_RETRY_SECONDS = 5.0
RETRY_FACTOR = 3.0
LONGEST_RETRY_SECONDS = 600.0
#: How long a cancelled unlink has to let its lease go, in seconds.
CANCEL_SECONDS = 5.0


@dataclass(slots=True)
class _Running:
    """An unlink under way here, and the deliveries that wait for its end.

    `job` is what it was authorized for; see `Workflow`. `claimed` once the ledger has given the key to this content:
    until then it may belong to another.
    """

    fingerprint: str
    deliveries: list[Delivery]
    job: Job | None = None
    claimed: bool = False
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


class Dispatcher:
    """Takes deliveries, as many at once as come."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        outbox: Outbox,
        enterprise_managers: Mapping[str, EnterpriseManager],
        clock: Clock,
        rules: Rules,
    ) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._enterprise_managers = enterprise_managers
        self._clock = clock
        self._rules = rules
        self._authorizer = Authorizer(rules.policy, ledger, enterprise_managers)
        self._job_locks = JobLocks()
        self._leaving = asyncio.Event()
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        ledger.on_cancel(self._hear_cancel)

    # --- coming and going -------------------------------------------------------------------------------------------

    def receive(self, delivery: Delivery) -> asyncio.Task[None]:
        """Take a delivery; returns at once, with the task that sees to it."""
        task = asyncio.create_task(self._answer(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def in_flight(self) -> int:
        """How many deliveries are being worked on."""
        return len(self._tasks)

    async def drain(self, seconds: float) -> bool:
        """Let what can end within `seconds` end; leave the rest to redelivery. True if all ended.

        What does not end is left at its next wait, not in the middle of a request, and its lease is let go.
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

    async def _answer(self, delivery: Delivery) -> None:
        structlog.contextvars.bind_contextvars(enterprise_manager=delivery.enterprise_manager)
        try:
            command = self._read(delivery)
        except UnreadableMessageError as error:
            await self._reject(delivery, error.partial, ReasonCode.INVALID_MESSAGE, error.problem, dead_letter=True)
            return
        structlog.contextvars.bind_contextvars(idempotency_key=command.idempotency_key)
        if command.enterprise_manager not in self._enterprise_managers:
            problem = f"no Enterprise Manager is configured as {command.enterprise_manager!r}"
            code = ReasonCode.UNKNOWN_ENTERPRISE_MANAGER
            await self._reject(delivery, _known(command), code, problem, dead_letter=True)
        elif (authorized := await self._authorize(command, delivery)) is not None:
            await self._carry_out(command, delivery, authorized)

    async def _carry_out(self, command: Command, delivery: Delivery, authorized: Authorized) -> None:
        if isinstance(command, CancelCommand):
            await self._attempt([delivery], self._cancel(command, delivery))
        elif command.dry_run:
            await self._attempt([delivery], self._plan(command, delivery, authorized))
        elif (running := self._running.get(command.idempotency_key)) is not None:
            await self._join(running, command, delivery)
        else:
            running = _Running(command.fingerprint, [delivery], authorized.job)
            self._running[command.idempotency_key] = running
            try:
                await self._attempt(running.deliveries, self._unlink(command, running))
            finally:
                del self._running[command.idempotency_key]

    def _read(self, delivery: Delivery) -> Command:
        command = read_message(delivery.body, delivery.content_type)
        if command.enterprise_manager != delivery.enterprise_manager and (
            command.enterprise_manager in self._enterprise_managers
        ):
            # One of the two is a mistake; taking the wrong one's word would remove somebody else's link.
            problem = (
                f"enterprise_manager: the command names {command.enterprise_manager!r}, "
                f"but its routing key was {delivery.enterprise_manager!r}"
            )
            raise UnreadableMessageError(problem, _known(command))
        return command

    async def _authorize(self, command: Command, delivery: Delivery) -> Authorized | None:
        """Let it in; or else reject it or put it off, and return None."""
        authorized: Authorized | None = None

        async def authorize() -> None:
            nonlocal authorized
            hold_until = partial(self._hold_until, [delivery])
            waiting = Waiting(self._clock, hold_until, self._leaving, asyncio.Event(), heeds_cancel=False)
            try:
                authorized = await self._authorizer.authorize(command, delivery.user_id, waiting)
            except DeniedError as no:
                log.warning("command.denied", user_id=delivery.user_id, job_id=_job_id(command), problem=str(no))
                await self._reject(delivery, _known(command), ReasonCode.ACCESS_DENIED, str(no), dead_letter=True)
            except Exception as error:
                if isinstance(error, (DeferredError, LeavingError)) or delivery.attempt < self._rules.max_attempts:
                    raise
                log.exception("unlink.gave_up", attempt=delivery.attempt)
                problem = f"gave up after {delivery.attempt} attempts: {error}"
                await self._reject(delivery, _known(command), ReasonCode.GAVE_UP, problem, dead_letter=True)

        await self._attempt([delivery], authorize())
        return authorized

    async def _join(self, running: _Running, command: UnlinkCommand, delivery: Delivery) -> None:
        """The key is under way here: its end answers this delivery too."""
        if running.fingerprint != command.fingerprint:
            if running.claimed:
                await self._reject_reuse(delivery, command)
            else:  # which of the two came first, only the ledger knows
                await self._delay([delivery], HELD_ELSEWHERE_SECONDS, failed=False)
            return
        log.info("unlink.redelivered", live=sum(each.live for each in running.deliveries))
        running.deliveries.append(delivery)

    async def _attempt(self, deliveries: list[Delivery], work: Coroutine[None, None, None]) -> None:
        """Do the work; if it does not come to an end, see to it that the deliveries come back."""
        try:
            await work
        except DeferredError as later:
            log.info("unlink.deferred", why=later.why, seconds=later.seconds)
            await self._delay(deliveries, later.seconds, failed=False)
        except LeavingError:
            log.info("unlink.left_to_redelivery")
        except LeaseLostError:
            log.warning("unlink.lease_lost")
            for delivery in deliveries:
                delivery.requeue()
        except Exception as error:
            if self._leaving.is_set():  # what it worked with is closed under it, as a drain does in the end
                log.warning("unlink.left_to_redelivery", problem=str(error))
                return
            attempt = max(delivery.attempt for delivery in deliveries)
            log.exception("unlink.attempt_failed", attempt=attempt, problem=str(error))
            await self._delay(deliveries, self._clock.jitter(_retry_seconds(attempt)), failed=True)

    async def _delay(self, deliveries: list[Delivery], seconds: float, *, failed: bool) -> None:
        while deliveries:  # one that joins meanwhile is delayed too; one whose channel has gone comes back by itself
            delivery = deliveries.pop()
            if delivery.live:
                await self._outbox.delay(delivery, seconds, failed=failed)
                delivery.acknowledge()

    # --- a command --------------------------------------------------------------------------------------------------

    async def _unlink(self, command: UnlinkCommand, running: _Running) -> None:
        """Claim the key and see its unlink through."""
        claim = NewClaim(
            key=command.idempotency_key,
            fingerprint=command.fingerprint,
            enterprise_manager=command.enterprise_manager,
            command=running.deliveries[0].body,
            received_at=self._clock.now(),
        )
        match await self._ledger.claim(claim):
            case AlreadySettled(event):
                log.info("unlink.settled_before")
                await self._publish(event, running.deliveries)
            case KeyReused():
                while running.deliveries:
                    await self._reject_reuse(running.deliveries.pop(), command)
            case HeldElsewhere():
                raise DeferredError("another worker has this key", HELD_ELSEWHERE_SECONDS)
            case Claimed(entry):
                running.claimed = True
                if entry.cancelled:
                    running.cancelled.set()
                try:
                    await self._see_through(command, entry, running)
                except BaseException:
                    # Also where the lease seems to be lost: if it is not, its renewals would keep everybody else off.
                    await self._ledger.release(entry.lease)
                    raise

    async def _see_through(self, command: UnlinkCommand, entry: Entry, running: _Running) -> None:
        progress: list[asyncio.Task[None]] = []

        def on_submitted(entry: Entry, task: Task | None) -> None:
            event = self._event(command, entry, Ending(Outcome.SUBMITTED, seen=entry.intent, task=task), running)
            progress.append(asyncio.create_task(self._outbox.publish(event)))

        workflow = self._workflow(command, entry, running, on_submitted)
        try:
            ending = await self._ending(workflow, running.deliveries)
            event = self._event(command, workflow.entry, ending, running)
            if _is_dead(ending):
                # Before it is settled: whoever finds it settled after a crash would only publish its event.
                workflow.require_lease()
                await self._outbox.dead_letter(running.deliveries[0], _reason(ending))
            await self._ledger.settle(workflow.entry.lease, ending.outcome, event.to_bytes(), event.time)
            _log_end(ending)
            await asyncio.gather(*progress)
        finally:
            for publishing in progress:
                publishing.cancel()
        await self._publish(event.to_bytes(), running.deliveries)

    async def _ending(self, workflow: Workflow, deliveries: list[Delivery]) -> Ending:
        try:
            return await workflow.to_ending()
        except Exception as error:
            attempt = max(delivery.attempt for delivery in deliveries)
            if isinstance(error, (DeferredError, LeavingError, LeaseLostError)) or attempt < self._rules.max_attempts:
                raise
            log.exception("unlink.gave_up", attempt=attempt)
            sent = workflow.entry.stage is not Stage.CLAIMED
            message = f"gave up after {attempt} attempts: {error}"
            return failed(ReasonCode.GAVE_UP, message, changed=None if sent else False, seen=workflow.entry.intent)

    async def _plan(self, command: UnlinkCommand, delivery: Delivery, authorized: Authorized) -> None:
        """A dry run: the workflow as far as the intend, without a trace in the ledger."""
        entry = Entry(Lease(command.idempotency_key, 0), Stage.CLAIMED, delivery.attempt, self._clock.now())
        running = _Running(command.fingerprint, [delivery], authorized.job)
        workflow = self._workflow(command, entry, running, lambda _entry, _task: None)
        ending = as_plan(await self._ending(workflow, running.deliveries))
        event = self._event(command, workflow.entry, ending, running)
        _log_end(ending)
        await self._publish(event.to_bytes(), [delivery])

    # --- a cancel ---------------------------------------------------------------------------------------------------

    async def _cancel(self, command: CancelCommand, delivery: Delivery) -> None:
        """Remember the wish; whoever has the key acts on it. The unlink's end answers it."""
        request = CancelRequest(
            key=command.idempotency_key,
            enterprise_manager=command.enterprise_manager,
            requested_by=command.requested_by,
            reason=command.reason,
            requested_at=self._clock.now(),
        )
        match await self._ledger.cancel(request):
            case AlreadySettled(event):
                log.info("unlink.settled_before")
                await self._publish(event, [delivery])
            case KeyReused():
                problem = "this idempotency_key belongs to an unlink of another enterprise_manager"
                await self._reject(delivery, _known(command), ReasonCode.KEY_REUSED, problem, dead_letter=False)
            case None:
                log.info("unlink.cancel_recorded", requested_by=command.requested_by)
                delivery.acknowledge()

    def _hear_cancel(self, key: str) -> None:
        if (running := self._running.get(key)) is not None:
            running.cancelled.set()

    # --- small words ------------------------------------------------------------------------------------------------

    def _workflow(
        self,
        command: UnlinkCommand,
        entry: Entry,
        running: _Running,
        on_submitted: Callable[[Entry, Task | None], None],
    ) -> Workflow:
        return Workflow(
            command=command,
            entry=entry,
            enterprise_manager=self._enterprise_managers[command.enterprise_manager],
            ledger=self._ledger,
            job_locks=self._job_locks,
            waiting=Waiting(
                self._clock, lambda: self._hold_until(running.deliveries), self._leaving, running.cancelled
            ),
            clock=self._clock,
            pace=self._rules.paces.get(command.enterprise_manager, Pace()),
            on_submitted=on_submitted,
            authorized=running.job,
        )

    def _hold_until(self, deliveries: list[Delivery]) -> float:
        """Until when the oldest delivery may stay unacknowledged; without end if the broker has them all back."""
        oldest = min((delivery.taken_at for delivery in deliveries if delivery.live), default=float("inf"))
        return oldest + self._rules.hold_seconds

    def _event(self, command: UnlinkCommand, entry: Entry, ending: Ending, running: _Running) -> Event:
        correlation_id = command.correlation_id or running.deliveries[0].correlation_id or command.idempotency_key
        return compose(command, entry, ending, correlation_id=correlation_id, now=self._clock.now())

    async def _publish(self, event: bytes, deliveries: list[Delivery]) -> None:
        """Publish a terminal event, confirmed; then, and only then, acknowledge all that waited for it."""
        reply_to = _reply_to(deliveries)
        await self._outbox.publish(event, reply_to)
        while late := _reply_to(deliveries) - reply_to:  # of deliveries that joined meanwhile
            await self._outbox.publish(event, late)
            reply_to |= late
        for delivery in deliveries:
            delivery.acknowledge()

    async def _reject_reuse(self, delivery: Delivery, command: UnlinkCommand) -> None:
        problem = "this idempotency_key belongs to a command with other content; a new command needs a new key"
        await self._reject(delivery, _known(command), ReasonCode.KEY_REUSED, problem, dead_letter=False)

    async def _reject(
        self, delivery: Delivery, partial: PartialParse, code: ReasonCode, problem: str, *, dead_letter: bool
    ) -> None:
        log.warning("command.rejected", reason=code.value, problem=problem)
        reason = Reason(code=code, message=problem)
        event = compose_rejection(
            delivery.body,
            partial,
            reason,
            enterprise_manager=delivery.enterprise_manager,
            correlation_id=delivery.correlation_id,
            now=self._clock.now(),
        )
        if dead_letter:
            await self._outbox.dead_letter(delivery, reason)
        await self._publish(event.to_bytes(), [delivery])


def _job_id(command: Command) -> str | None:
    return None if isinstance(command, CancelCommand) else command.job.id


def _known(command: Command) -> PartialParse:
    if isinstance(command, CancelCommand):
        return PartialParse(command.idempotency_key, requested_by=command.requested_by)
    return PartialParse(
        command.idempotency_key, command.correlation_id, command.requested_by, command.ticket, dict(command.labels)
    )


def _retry_seconds(attempt: int) -> float:
    # The attempt comes from a header, so it may be any number: one too large to raise anything to.
    return min(FIRST_RETRY_SECONDS * RETRY_FACTOR ** (min(attempt, 10) - 1), LONGEST_RETRY_SECONDS)


def _reply_to(deliveries: list[Delivery]) -> set[str]:
    return {delivery.reply_to for delivery in deliveries if delivery.reply_to is not None}


def _is_dead(ending: Ending) -> bool:
    return ending.outcome is Outcome.FAILED and ending.reason is not None and ending.reason.code is ReasonCode.GAVE_UP


def _reason(ending: Ending) -> Reason:
    if ending.reason is None:
        raise AssertionError("a ending that goes to the dead letters has a reason")
    return ending.reason


def _log_end(ending: Ending) -> None:
    reason = ending.reason
    log.info(
        "unlink.finished",
        outcome=ending.outcome.value,
        changed=ending.changed,
        evidence=ending.evidence,
        verified=ending.verified,
        **({"reason": reason.code.value, "problem": reason.message} if reason is not None else {}),
    )
