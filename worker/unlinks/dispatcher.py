"""One delivery: read, authorize, then begin a run, join one, or answer at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from contracts.commands import UNKNOWN_NAME, CancelCommand, Command, RetryCommand, UnlinkCommand
from contracts.events import ReasonCode
from contracts.reading import PartialParse, UnreadableMessageError, read_command, read_message
from worker.frames import without_frames
from worker.unlinks.attempts import Attempts
from worker.unlinks.authorization import Authorized, Authorizer
from worker.unlinks.batches import Batches, member_of
from worker.unlinks.claiming import turn_seconds
from worker.unlinks.job_locks import JobLocks
from worker.unlinks.misrouted import Misrouted, given_up
from worker.unlinks.not_before import problem_with_times, seconds_of_waiting
from worker.unlinks.policy import DeniedError
from worker.unlinks.ports.broker import Delivery, Outbox
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import EnterpriseManager
from worker.unlinks.ports.ledger import AlreadySettled, CancelRequest, KeyReused, KnownRun, Ledger, NoSuchRun
from worker.unlinks.ports.steps import Reporter, StepKind, Steps
from worker.unlinks.replies import Replies, known_of, known_of_retry
from worker.unlinks.rules import Rules
from worker.unlinks.runs import Running, Runs
from worker.unlinks.signals import Signal
from worker.unlinks.waiting import DeferredError, Waiting

#: How long a cancelled unlink has to release its lease, in seconds.
CANCEL_SECONDS = 5.0


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
        self._batches = Batches(ledger)
        self._replies = Replies(outbox, clock, self._batches)
        self._enterprise_managers = enterprise_managers
        self._clock = clock
        self._steps = steps
        self._authorizer = Authorizer(rules.policy, ledger, enterprise_managers)
        self._misrouted = Misrouted(ledger, self._replies, enterprise_managers)
        self._leaving = Signal()
        self._attempts = Attempts(
            self._replies, clock, self._leaving, most=rules.max_attempts, hold_seconds=rules.hold_seconds
        )
        self._runs = Runs(
            ledger,
            self._replies,
            enterprise_managers,
            clock,
            rules,
            self._attempts,
            JobLocks(),
            self._leaving,
            self._batches,
            self._authorizer,
        )
        self._running: dict[str, Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        ledger.on_cancel(self._on_cancel)

    def receive(self, delivery: Delivery) -> asyncio.Task[None]:
        """Start to handle a delivery. Return the task that handles it."""
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

        An unlink that does not end in time is left at its next wait, never during a request, and its lease is released.
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
        # Other names come from senders, and there is no limit to their number.
        report = Reporter(self._steps, name if name in self._enterprise_managers else UNKNOWN_NAME, key)
        known_by: Mapping[str, Any] = command.known_by if isinstance(command, UnlinkCommand) else {}
        report(StepKind.RECEIVED, delivery=delivery, **known_by)
        try:
            unlink = await self._attempts.run([delivery], self._answer(command, delivery, report), report)
            if unlink is not None:
                await self._run(unlink)
        finally:
            report(StepKind.ANSWERED)
            if isinstance(command, Exception):
                without_frames(command)  # this frame is one of them

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

    async def _answer(self, command: Command | Exception, delivery: Delivery, report: Reporter) -> Running | None:
        """Answer a delivery, or return the run that has to be executed for it."""
        known: Command | PartialParse
        if (misrouting := self._misrouted.without_queue(delivery)) is not None:
            in_ledger = await self._misrouted.reject_unless_known(command, delivery, misrouting, report)
            return None if in_ledger is None else await self._begin(in_ledger, delivery, Authorized(), report)
        if isinstance(command, UnreadableMessageError):
            code, problem, known = ReasonCode.INVALID_MESSAGE, command.problem, command.partial
        elif isinstance(command, Exception):
            raise command
        elif command.enterprise_manager not in self._enterprise_managers:
            code, known = ReasonCode.UNKNOWN_ENTERPRISE_MANAGER, command
            problem = f"no Enterprise Manager is configured as {command.enterprise_manager!r}"
        else:
            try:
                if isinstance(command, RetryCommand):
                    await self._wait_for(command, delivery, report)
                authorized = await self._authorize(command, delivery, report)
            except DeniedError as no:
                report(StepKind.DENIED, user_id=delivery.user_id, job_id=_job_id(command), problem=str(no))
                code, problem = ReasonCode.ACCESS_DENIED, str(no)
                known = command if no.stored is None else known_of_retry(command, no.stored)
            else:
                times = problem_with_times(command, authorized.retried, self._clock.now())
                if times is None:
                    return await self._begin(command, delivery, authorized, report)
                code, problem, known = ReasonCode.INVALID_MESSAGE, times, command
        await self._replies.reject(delivery, known, code, problem, report, dead_letter=True)
        return None

    async def _authorize(self, command: Command, delivery: Delivery, report: Reporter) -> Authorized:
        return await self._authorizer.authorize(command, delivery.user_id, self._waiting(delivery, report))

    def _waiting(self, delivery: Delivery, report: Reporter) -> Waiting:
        """The waiting of a delivery before a run is begun for it."""
        hold_until = partial(self._attempts.hold_until, [delivery])
        return Waiting(self._clock, hold_until, self._leaving, Signal(), report, heeds_cancel=False)

    async def _begin(
        self, command: Command, delivery: Delivery, authorized: Authorized, report: Reporter
    ) -> Running | None:
        if (problem := await self._batches.join(command, delivery)) is not None:
            code = ReasonCode.INVALID_MESSAGE
            await self._replies.reject(delivery, command, code, problem, report, dead_letter=True)
            return None
        if isinstance(command, CancelCommand):
            return await self._cancel(command, delivery, report)
        if isinstance(command, UnlinkCommand) and command.dry_run:
            await self._runs.plan(command, delivery, authorized, report)
            return None
        if (running := self._running.get(command.idempotency_key)) is not None:
            await self._join(running, command, delivery, report)
            return None
        fingerprint = command.fingerprint if isinstance(command, UnlinkCommand) else None
        batched = member_of(command, delivery) is not None
        running = Running(command, authorized, [delivery], report, fingerprint, given_up(delivery), batched=batched)
        return self._starting(running)

    def _starting(self, running: Running) -> Running:
        self._running[running.key] = running
        return running

    async def _wait_for(self, retry: RetryCommand, delivery: Delivery, report: Reporter) -> None:
        """Wait for the end of the run that is to be retried: its end is not the answer to the retry.

        The run may have ended already and wait for the confirm of its event, while a later run is under way elsewhere.
        """
        while (running := self._running.get(retry.idempotency_key)) is not None and (
            running.run is not None and running.run <= retry.run
        ):
            await self._waiting(delivery, report).until(running.over.wait())

    async def _run(self, running: Running) -> None:
        try:
            await self._attempts.run(running.deliveries, self._until_answered(running), running.report)
        finally:
            self._end(running)

    async def _until_answered(self, running: Running) -> None:
        await self._runs.execute(running)
        # At once after the last acknowledgement: a delivery that joined one turn of the loop later would get no answer.
        self._end(running)

    def _end(self, running: Running) -> None:
        """Let nobody join the run any more."""
        if self._running.get(running.key) is running:
            del self._running[running.key]
        running.over.set()

    async def _join(
        self, running: Running, command: UnlinkCommand | RetryCommand, delivery: Delivery, report: Reporter
    ) -> None:
        """Let a delivery join the run of its key here, whose end then answers it, if run or content are the same.

        Raises:
            DeferredError: the ledger has not said yet to which content the key belongs, and which run this is.
        """
        if isinstance(command, RetryCommand):
            same = command.enterprise_manager == running.asked.enterprise_manager
            known = running.run is not None and running.run > command.run
        else:
            same = command.fingerprint == running.fingerprint
            known = running.run is not None or same
        if not known:
            raise self._its_key_is_held(delivery)
        if not same:
            await self._replies.reject_reuse(delivery, command, report)
        else:
            report(StepKind.JOINED, live=sum(each.live for each in running.deliveries))
            running.batched = running.batched or member_of(command, delivery) is not None
            running.deliveries.append(delivery)

    # --- a cancel ---------------------------------------------------------------------------------------------------

    async def _cancel(self, command: CancelCommand, delivery: Delivery, report: Reporter) -> Running | None:
        """Record the request. The worker that holds the key acts on it, and the end of the run answers it.

        No worker holds a run that waits for its `not_before`: such a run is returned, and ends here.
        """
        request = CancelRequest(
            key=command.idempotency_key,
            enterprise_manager=command.enterprise_manager,
            requested_by=command.requested_by,
            reason=command.reason,
            requested_at=self._clock.now(),
            run=command.run,
            user_id=delivery.user_id,
        )
        answer = await self._ledger.cancel(request)
        match answer:
            case AlreadySettled(event):
                report(StepKind.CANCELLED_TOO_LATE)
                await self._replies.publish_settled(event, [delivery], report)
            case KeyReused():
                await self._replies.reject_reuse(delivery, command, report)
            case NoSuchRun():
                await self._replies.reject_run(delivery, command, report)
            case KnownRun() | None:
                report(StepKind.CANCEL_RECORDED, requested_by=command.requested_by)
                if answer is not None and seconds_of_waiting(answer, self._clock.now()) > 0:
                    return self._end_waiting(answer, delivery, report)
                delivery.acknowledge()
        return None

    def _end_waiting(self, known: KnownRun, delivery: Delivery, report: Reporter) -> Running:
        """End here a cancelled run that waits for its `not_before`.

        Raises:
            DeferredError: a copy of the command is about to be delayed again.
        """
        stored = read_command(known.command)
        if stored.idempotency_key in self._running:
            raise self._its_key_is_held(delivery)
        running = Running(stored, Authorized(), [delivery], report, known.fingerprint)
        report.identified(stored)
        running.cancelled.set()
        return self._starting(running)

    def _its_key_is_held(self, delivery: Delivery) -> DeferredError:
        seconds = turn_seconds([delivery], self._clock.now())
        return DeferredError("another command of its key is being answered", seconds)

    def _on_cancel(self, key: str) -> None:
        if (running := self._running.get(key)) is not None:
            running.cancelled.set()


def _job_id(command: Command) -> str | None:
    return command.job.id if isinstance(command, UnlinkCommand) else None
