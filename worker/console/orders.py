"""Ordering: publishes the commands of users, after a check of ledger, policy and role."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from contracts.commands import CancelCommand, RetryCommand, UnlinkCommand
from contracts.events import RETRIED
from contracts.reading import UnreadableMessageError, read_command, read_object
from worker.broker.awaited import Awaited
from worker.broker.client import BrokerClient, BrokerClientError, NoQueueError
from worker.console.audit import audit, audited
from worker.console.problems import Problem
from worker.settings import BrokerSettings
from worker.unlinks.policy import DeniedError, Policy
from worker.unlinks.ports.enterprise_manager import Job

if TYPE_CHECKING:
    from worker.console.readings import Readings
    from worker.console.users import Caller
    from worker.ledger import Record

log = structlog.get_logger()

#: The longest that an answer may wait for the end, in seconds.
MOST_WAIT_SECONDS: Final = 60.0
#: How many answers wait at once, each with a connection to the broker; others are sent without waiting.
_MOST_WAITING: Final = 16
#: How many plans are waited for at once; more are refused, because a plan is nowhere but in its answer.
_MOST_PLANNING: Final = 8
#: How many commands are published at once.
_AT_ONCE: Final = 8
#: How often an answer that waits looks whether the console is to stop, in seconds.
_LOOK_SECONDS: Final = 0.5

AnyRequest = TypeVar("AnyRequest", CancelCommand, RetryCommand)
AnyBody = TypeVar("AnyBody", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Ordered:
    """A command that the broker has confirmed. `event` is its terminal event, if that came in time."""

    key: str
    enterprise_manager: str
    dry_run: bool = False
    event: dict[str, Any] | None = None


def read_unlink(body: bytes, content_type: str | None, key: str | None) -> UnlinkCommand:
    """Read a command to unlink. `key` is its idempotency key, if a header has it.

    Raises:
        Problem: the command breaks the contract, or its key is not `key`; 400, with each field.
    """
    try:
        command = read_command(_with_key(body, key), content_type)
    except UnreadableMessageError as error:
        raise broken(error, error.__cause__) from None
    if key is not None and command.idempotency_key != key:
        said = "differs from the header Idempotency-Key"
        raise Problem(400, f"idempotency_key: {said}", [{"field": "idempotency_key", "message": said}])
    return command


def _with_key(body: bytes, key: str | None) -> bytes:
    """The body with the header's key added, if it is an object without a key. The contract checks the rest."""
    if key is None:
        return body
    try:
        text = body.decode("utf-8-sig")
        content = json.loads(text)
    except (ValueError, RecursionError):
        return body
    if not isinstance(content, dict) or "idempotency_key" in content or "specversion" in content:
        return body
    rest = text.lstrip()[1:]
    comma = "," if content else ""
    return f'{{"idempotency_key": {json.dumps(key)}{comma}{rest}'.encode()


def made(kind: type[AnyRequest], **fields: Any) -> AnyRequest:
    """A cancel or a retry.

    Raises:
        Problem: a field has a wrong value; 400.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return kind.model_validate_json(json.dumps(given))
    except ValidationError as error:
        raise broken(error, error) from None


def read_body(body: bytes, kind: type[AnyBody]) -> AnyBody:
    """Read a body of the console's own, as strictly as the contract reads a command.

    Raises:
        Problem: it is no JSON object, repeats a field, or a field has a wrong value; 400.
    """
    try:
        return kind.model_validate_json(json.dumps(read_object(body)))
    except (UnreadableMessageError, ValidationError) as error:
        raise broken(error, error) from None


def broken(said: Exception, cause: BaseException | None) -> Problem:
    """The problem of a message that breaks the contract; with each field, if a model found it."""
    if not isinstance(cause, ValidationError):
        return Problem(400, str(said))
    errors = [
        {
            "field": ".".join(str(part)[:64] for part in each["loc"]) or "message",
            "message": str(each["msg"]).removeprefix("Value error, "),
        }
        for each in cause.errors(include_url=False, include_input=False)[:50]
    ]
    return Problem(400, "; ".join(f"{each['field']}: {each['message']}" for each in errors[:5]), errors)


def _log_skipped(said: str) -> None:
    log.warning("console.message_skipped", problem=said)


def _not_served(error: NoQueueError) -> Problem:
    return Problem(404, f"{error}.", [{"field": "enterprise_manager", "message": "is not served"}])


class Orders:
    """Publishes the commands of users.

    Args:
        broker: where they are published.
        policy: what the workers allow, as far as the console knows it.
        readings: what the ledger holds.
        ending: set when the console is to stop: then no answer waits any longer.

    Raises:
        Problem: in every method: the caller has no permission (403), the key belongs to another command or `run` is not
            its last one (409), there is no queue (404), or the broker or the ledger is away (503).
    """

    def __init__(
        self, broker: BrokerSettings | None, policy: Policy | None, readings: Readings, ending: threading.Event
    ) -> None:
        self._broker = broker
        self._policy = policy
        self._readings = readings
        self._ending = ending
        self._waiting = asyncio.Semaphore(_MOST_WAITING)
        self._planning = asyncio.Semaphore(_MOST_PLANNING)
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def unlink(
        self, caller: Caller, command: UnlinkCommand, wait: float, *, retry: bool = False, run: int | None = None
    ) -> Ordered:
        """Order an unlink; with `retry`, run it again if its last run (which is to be `run`) did not succeed."""
        with audited(caller, _action_of(command), command.idempotency_key, command.enterprise_manager):
            self._require_may_order(caller)
            self._judge(caller, command)
            record = None if command.dry_run else await self._readings.record(command.idempotency_key)
            if record is not None and record.fingerprint != command.fingerprint:
                raise Problem(
                    409, "This key belongs to another command: an unlink with another job, repository or consent."
                )
            if retry and record is not None:
                _require_last(record, run)
                if record.outcome in RETRIED:
                    return await self.retry(caller, record, wait, command.reason, asked=command)
            return await self._publish(caller, command, wait)

    async def cancel(
        self, caller: Caller, key: str, record: Record | None, reason: str | None, em: str, run: int | None
    ) -> Ordered:
        """Ask for an unlink to be stopped: the run that is under way, or the next one; it is to be `run`."""
        with audited(caller, "cancel", key, em if record is None else record.enterprise_manager):
            if record is None and not caller.may_operate:
                raise Problem(403, "What no worker has seen yet is cancelled by the role `operate` alone.")
            if record is not None:
                self._require_own(caller, record)
                _require_last(record, run)
                if record.outcome is not None:
                    raise Problem(409, f"It has ended: {record.outcome}.")
            command = made(
                CancelCommand,
                command="cancel.v1",
                idempotency_key=key,
                enterprise_manager=em if record is None else record.enterprise_manager,
                run=run if record is None else record.entry.run,
                requested_by=caller.name,
                reason=reason,
            )
            try:
                if self._policy is not None:
                    self._policy.require_cancel(caller.sender, command.enterprise_manager)
            except DeniedError as no:
                raise Problem(403, f"{no}.") from no
            return await self._publish(caller, command, 0)

    async def retry(
        self,
        caller: Caller,
        record: Record,
        wait: float,
        reason: str | None,
        *,
        run: int | None = None,
        asked: UnlinkCommand | None = None,
    ) -> Ordered:
        """Retry the command that was accepted first, if its last run, which is to be `run`, did not succeed.

        `asked` is the command that asks for it; the requester and the times are its own.
        """
        with audited(caller, "retry", record.entry.lease.key, record.enterprise_manager):
            self._require_own(caller, record)
            _require_last(record, run)
            if record.outcome not in RETRIED:
                state = "has not ended" if record.outcome is None else f"ended {record.outcome}"
                raise Problem(409, f"It {state}: what failed, timed out or was cancelled can be run again.")
            self._judge_stored(caller, record)
            return await self._publish(caller, _retry_of(record, caller.name, reason, asked), wait)

    async def retry_batch(self, caller: Caller, batch: str, records: Sequence[Record]) -> int:
        """Retry these commands of a batch. Returns how many are on the queue.

        The policy is applied to all before the first is published.
        """
        with audited(caller, "retry", batch):
            for record in records:
                self._require_own(caller, record)
                self._judge_stored(caller, record)
            return await self._publish_all(
                caller, "retry", batch, [_retry_of(record, caller.name, None) for record in records]
            )

    async def offboard(self, caller: Caller, batch: str, commands: Sequence[UnlinkCommand], jobs: Sequence[Job]) -> int:
        """Order the commands of a batch, each for its job; what ended before without success is retried.

        Returns how many are on the queue. The policy is applied to all before the first is published.
        """
        with audited(caller, "offboard", batch):
            self._require_may_order(caller)
            for command, job in zip(commands, jobs, strict=True):
                try:
                    if self._policy is not None:
                        self._policy.require_job(caller.sender, command, job)
                except DeniedError as no:
                    raise Problem(403, f"{no} ({job.name or job.id}).") from no
            return await self._publish_all(
                caller, "offboard", batch, [await self._again(caller, command) for command in commands]
            )

    async def _publish_all(
        self, caller: Caller, action: str, batch: str, commands: Sequence[UnlinkCommand | RetryCommand]
    ) -> int:
        async with self._at_once:
            return await asyncio.to_thread(self._send_all, caller, commands, action, batch)

    async def _again(self, caller: Caller, command: UnlinkCommand) -> UnlinkCommand | RetryCommand:
        """The command, or a retry if its last run ended without success."""
        record = await self._readings.record(command.idempotency_key)
        if record is None or record.outcome not in RETRIED or not caller.may_change(record.user_id):
            return command
        return _retry_of(record, caller.name, command.reason, command)

    def _send_all(
        self, caller: Caller, commands: Sequence[UnlinkCommand | RetryCommand], action: str, batch: str
    ) -> int:
        published = 0
        try:
            with BrokerClient(self._require_broker()) as client:
                for name in {command.enterprise_manager for command in commands}:
                    client.require_queue(name)
                for command in commands:
                    body = command.model_dump_json(exclude_none=True).encode()
                    client.publish(body, command.enterprise_manager, sender=caller.sender)
                    published += 1
        except NoQueueError as error:
            raise _not_served(error) from error
        except BrokerClientError as error:
            said = f"{error}. {published} of {len(commands)} are on the queue; the same request sends the rest."
            raise Problem(503, said, headers={"Retry-After": "5"}) from error
        # Here, and not by the caller, which ends with its request.
        audit(caller, action, batch, f"{published} commands on the queue", commands[0].enterprise_manager)
        return published

    def _require_may_order(self, caller: Caller) -> None:
        if not caller.may_order:
            raise Problem(403, "The role `read` may order nothing.")

    def _require_broker(self) -> BrokerSettings:
        if self._broker is None:
            raise Problem(503, "UNLINK_BROKER__URL is not set: nothing can be ordered here.")
        return self._broker

    def _require_own(self, caller: Caller, record: Record) -> None:
        if not caller.may_change(record.user_id):
            raise Problem(403, "The role `submit` may cancel and retry what it ordered itself.")

    def _judge_stored(self, caller: Caller, record: Record) -> None:
        try:
            self._judge(caller, read_command(record.command))
        except UnreadableMessageError:
            raise Problem(409, "The stored command cannot be read by this version.") from None

    def _judge(self, caller: Caller, command: UnlinkCommand) -> None:
        """Apply the policy to what the command shows. The worker applies it again, when it knows the job."""
        try:
            if self._policy is not None:
                self._policy.is_decided(caller.sender, command)
        except DeniedError as no:
            raise Problem(403, f"{no}.") from no

    async def _publish(
        self, caller: Caller, command: UnlinkCommand | CancelCommand | RetryCommand, wait: float
    ) -> Ordered:
        dry_run = isinstance(command, UnlinkCommand) and command.dry_run
        places = self._planning if dry_run else self._waiting
        if wait and dry_run and places.locked():
            raise Problem(503, "Too many plans are being made now: try again soon.", headers={"Retry-After": "5"})
        if wait and not places.locked():
            async with places:
                event = await asyncio.to_thread(self._send, caller, command, min(wait, MOST_WAIT_SECONDS))
        else:
            async with self._at_once:
                event = await asyncio.to_thread(self._send, caller, command, 0)
        return Ordered(command.idempotency_key, command.enterprise_manager, dry_run, event)

    def _send(
        self, caller: Caller, command: UnlinkCommand | CancelCommand | RetryCommand, wait: float
    ) -> dict[str, Any] | None:
        broker = self._require_broker()
        body = command.model_dump_json(exclude_none=True).encode()
        dry_run = isinstance(command, UnlinkCommand) and command.dry_run
        after = command.run if isinstance(command, RetryCommand) else 0
        awaited = Awaited(command.idempotency_key, body, dry_run, after)
        published = False
        try:
            with BrokerClient(broker) as client:
                client.require_queue(command.enterprise_manager)
                if wait:
                    client.listen(f"*.{command.enterprise_manager}", skipped=_log_skipped)
                client.publish(body, command.enterprise_manager, sender=caller.sender)
                published = True
                # Here, and not by the caller, which ends with its request.
                action = _action_of(command)
                audit(caller, action, command.idempotency_key, "on the queue", command.enterprise_manager)
                over = time.monotonic() + wait
                while (left := over - time.monotonic()) > 0 and not self._ending.is_set():
                    event = client.next_event(min(left, _LOOK_SECONDS))
                    if event and event.known_outcome and event.known_outcome.terminal and awaited.is_answered_by(event):
                        return event.content
        except NoQueueError as error:
            raise _not_served(error) from error
        except BrokerClientError as error:
            if not published:
                raise Problem(503, f"{error}.", headers={"Retry-After": "5"}) from error
        return None


def _action_of(command: UnlinkCommand | CancelCommand | RetryCommand) -> str:
    """The action in the audit line."""
    if isinstance(command, UnlinkCommand) and command.dry_run:
        return "plan"
    return command.command.removesuffix(".v1")


def _require_last(record: Record, run: int | None) -> None:
    """A request that is sent again, or by an old page, would otherwise steer a run that its sender does not know."""
    last = record.entry.run
    if run is not None and run != last:
        said = f"Run {run} is meant, and the last run is {last}: nothing was done."
        raise Problem(409, said, [{"field": "run", "message": f"the last run is {last}"}])


def _retry_of(
    record: Record, caller: str | None, reason: str | None, asked: UnlinkCommand | None = None
) -> RetryCommand:
    return made(
        RetryCommand,
        command="retry.v1",
        idempotency_key=record.entry.lease.key,
        enterprise_manager=record.enterprise_manager,
        run=record.entry.run,
        not_before=asked and asked.not_before and asked.not_before.isoformat(),
        not_after=asked and asked.not_after and asked.not_after.isoformat(),
        requested_by=(asked and asked.requested_by) or caller,
        reason=reason,
    )
