"""Whether a command is taken at all: the policy's word, before the ledger knows of the command.

What is denied must leave nothing behind: a claim would keep the key from whoever may use it, if only for a while. So
where the policy goes by what only Enterprise Manager knows of the job, the job is looked at before the claim, and the
unlink then goes on with that very job.

A command is judged when it is first taken. Once a link was recorded for its key, or the key has ended, the same command
passes: its fate is decided, and a change of the policy, or of the job's name, must not give it a second end. Whoever
repeats it can bring about nothing new.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from contracts.commands import CancelCommand
from worker.unlinks.policy import DeniedError
from worker.unlinks.ports.enterprise_manager import Refused
from worker.unlinks.ports.steps import StepKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contracts.commands import Command, UnlinkCommand
    from worker.unlinks.policy import Policy
    from worker.unlinks.ports.enterprise_manager import EnterpriseManager, Job
    from worker.unlinks.ports.ledger import Ledger
    from worker.unlinks.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Authorized:
    """The command is taken; `job` is the one that it means, where that had to be looked at."""

    job: Job | None = None


class Authorizer:
    """The door. Without a policy it stands open."""

    def __init__(
        self, policy: Policy | None, ledger: Ledger, enterprise_managers: Mapping[str, EnterpriseManager]
    ) -> None:
        self._policy = policy
        self._ledger = ledger
        self._enterprise_managers = enterprise_managers

    async def authorize(self, command: Command, user_id: str | None, waiting: Waiting) -> Authorized:
        """Let a command of this sender in. Changes nothing anywhere.

        Raises:
            DeniedError: the policy does not allow it.
            DeferredError, LeavingError, UnansweredError: Enterprise Manager did not answer.
        """
        if self._policy is None:
            return Authorized()
        if isinstance(command, CancelCommand):
            self._policy.require_cancel(user_id, command.enterprise_manager)
            return Authorized()
        try:
            if self._policy.is_decided(user_id, command):
                return Authorized()
        except DeniedError:
            if await self._is_repeat(command):
                return Authorized()
            raise
        if await self._is_repeat(command):
            return Authorized()
        job = await self._look(command, waiting)
        self._policy.require_job(user_id, command, job)
        return Authorized(job)

    async def _is_repeat(self, command: UnlinkCommand) -> bool:
        # A dry run leaves no trace, and another command's is none of its own.
        return not command.dry_run and await self._ledger.has_decided(command.idempotency_key, command.fingerprint)

    async def _look(self, command: UnlinkCommand, waiting: Waiting) -> Job:
        enterprise_manager = self._enterprise_managers[command.enterprise_manager]
        waiting.report(StepKind.LOOKING)
        try:
            return await waiting.ask(enterprise_manager, lambda: enterprise_manager.find_job(command.job))
        except Refused as no:
            # The code alone: the message may name jobs that are none of the sender's business.
            raise DeniedError(
                f"the policy goes by the job's name and ID, and it cannot be looked at ({no.code})"
            ) from no
