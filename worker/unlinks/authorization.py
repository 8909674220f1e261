"""Applying the policy to a command, before the ledger is written.

A denied command must leave no trace: a claim would block the key for some time for users who may use it. If the policy
depends on data of the job that only Enterprise Manager has, the job is therefore read before the claim, and the unlink
then uses this job.

The policy is applied when a key is claimed. Once a link is recorded for the key, or the key has ended, the same command
is allowed: a change of the policy, or of the job's name, must not change its outcome. A repeat has no further effect,
whichever user sends it. While a key waits for its `not_before`, the same holds; when the wait is over, the policy is
applied again, to the sender of the stored command.

The policy is applied to a retry as if its sender had sent the stored command. A retry that cannot start a run is
allowed: its run was started before, or has succeeded. The answer to a denied retry goes to its sender, who may have
guessed the key. It names ticket, job and repository of the stored command only if the broker says that the same user
had sent it; the log, which operators read, always does.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from contracts.commands import CancelCommand, Command, JobReference, RetryCommand, UnlinkCommand
from contracts.reading import UnreadableMessageError, read_command
from worker.unlinks.policy import DeniedError, Policy
from worker.unlinks.ports.enterprise_manager import EnterpriseManager, Job, Refused
from worker.unlinks.ports.ledger import Entry, KnownRun, Ledger
from worker.unlinks.ports.steps import Reporter, StepKind
from worker.unlinks.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Authorized:
    """The command may run; `job` is the job that it means, if it had to be read.

    `retried` is the run that a retry may follow with another one; None if it may start no run.
    """

    job: Job | None = None
    retried: KnownRun | None = None


class Authorizer:
    """Applies the policy. Without one, all commands pass."""

    def __init__(
        self, policy: Policy | None, ledger: Ledger, enterprise_managers: Mapping[str, EnterpriseManager]
    ) -> None:
        self._policy = policy
        self._ledger = ledger
        self._enterprise_managers = enterprise_managers

    async def authorize(self, command: Command, user_id: str | None, waiting: Waiting) -> Authorized:
        """Authorize a command of this sender. Has no side effects.

        Raises:
            DeniedError: the policy does not allow it.
            DeferredError, LeavingError, UnansweredError: Enterprise Manager did not answer.
        """
        if isinstance(command, RetryCommand):
            return await self._authorize_retry(command, user_id, waiting)
        if self._policy is None:
            return Authorized()
        if isinstance(command, CancelCommand):
            self._policy.require_cancel(user_id, command.enterprise_manager)
            return Authorized()
        try:
            if self._policy.is_decided(user_id, command) or await self._is_repeat(command):
                return Authorized()
        except DeniedError:
            if await self._is_repeat(command):
                return Authorized()
            raise
        return Authorized(await self._judge(command, user_id, waiting))

    async def _authorize_retry(self, retry: RetryCommand, user_id: str | None, waiting: Waiting) -> Authorized:
        known = await self._ledger.last_run(retry.idempotency_key)
        if known is not None:
            _identify(known, waiting.report)
        if known is None or known.failure is None or known.run != retry.run:
            return Authorized()
        if self._policy is None:
            return Authorized(retried=known)
        stored = _stored_command(known)
        try:
            return Authorized(await self._judge(stored, user_id, waiting), known)
        except DeniedError as no:
            if user_id is not None and user_id == known.user_id:
                no.stored = stored
            raise

    async def authorize_start(self, command: UnlinkCommand, entry: Entry, waiting: Waiting) -> Authorized:
        """Authorize a stored command again, at the end of its wait. Has no side effects.

        Raises:
            DeniedError: the policy does not allow its sender to send it any more.
            DeferredError, LeavingError, UnansweredError: Enterprise Manager did not answer.
        """
        if self._policy is None:
            return Authorized()
        if entry.intent is not None:
            command = _of_job(command, entry.intent.job_id)
        return Authorized(await self._judge(command, entry.sender, waiting))

    async def _judge(self, command: UnlinkCommand, user_id: str | None, waiting: Waiting) -> Job | None:
        """Apply the policy. Return the job that the command means, if it had to be read."""
        if self._policy is None or self._policy.is_decided(user_id, command):
            return None
        job = await self._look(command, waiting)
        self._policy.require_job(user_id, command, job)
        return job

    async def _is_repeat(self, command: UnlinkCommand) -> bool:
        # A dry run leaves nothing in the ledger; what is there belongs to another command.
        return not command.dry_run and await self._ledger.has_decided(command.idempotency_key, command.fingerprint)

    async def _look(self, command: UnlinkCommand, waiting: Waiting) -> Job:
        enterprise_manager = self._enterprise_managers[command.enterprise_manager]
        waiting.report(StepKind.LOOKING)
        try:
            return await waiting.ask(enterprise_manager, lambda: enterprise_manager.find_job(command.job))
        except Refused as no:
            # Only the code: the message may name jobs that the sender must not see.
            raise DeniedError(
                f"the policy goes by the job's name and ID, and it cannot be looked at ({no.code})"
            ) from no


def _stored_command(known: KnownRun) -> UnlinkCommand:
    """The stored command, with the ID of the job that it was run for, whose name may have changed."""
    try:
        stored = read_command(known.command)
    except UnreadableMessageError as error:
        raise DeniedError(f"the policy cannot judge the command that is stored for this key: {error}") from error
    return stored if known.job_id is None else _of_job(stored, known.job_id)


def _identify(known: KnownRun, report: Reporter) -> None:
    with suppress(UnreadableMessageError):
        report.identified(read_command(known.command))


def _of_job(command: UnlinkCommand, job_id: str) -> UnlinkCommand:
    return command.model_copy(update={"job": JobReference.model_construct(id=job_id)})
