"""Resolves the job and the link that a command names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from contracts.commands import UnlinkCommand
from contracts.events import ReasonCode
from worker.unlinks.ports.enterprise_manager import EnterpriseManager, Job, Link, Refused
from worker.unlinks.ports.ledger import Intent
from worker.unlinks.waiting import Answer


class Ask(Protocol):
    """Asks Enterprise Manager a question until it is answered; see `Waiting.ask`."""

    async def __call__(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask."""
        ...


@dataclass(frozen=True, slots=True)
class Meaning:
    """Resolves the job and the link of a command.

    `recorded` is the intent of its key: if there is one, the command means only that job and that link. `authorized` is
    the job that was read for the authorization, if it was read; the command then means only that job.
    """

    command: UnlinkCommand
    recorded: Intent | None
    authorized: Job | None
    enterprise_manager: EnterpriseManager
    ask: Ask

    async def job(self) -> Job:
        """The job.

        Raises:
            Refused: not exactly one backup copy job matches the command.
        """
        if self.recorded is not None:
            return Job(self.recorded.job_id, self.recorded.job_name)
        if self.authorized is not None:
            return self.authorized
        return await self.ask(lambda: self.enterprise_manager.find_job(self.command.job))

    async def link(self, job: Job) -> Link | None:
        """The link, if the job has it now.

        Raises:
            Refused: several links match the command, or the recorded link's ID is that of another link now.
        """
        named = self.command.repository
        link_id = named.link_id if self.recorded is None else self.recorded.link.object_in_job_id
        uid = None if link_id else await self.ask(lambda: self.enterprise_manager.find_repository(named))

        def meant_of(links: Sequence[Link]) -> list[Link]:
            if link_id:
                return [link for link in links if link.object_in_job_id == link_id]
            return [link for link in links if link.repository_uid == uid]

        meant = meant_of(self.enterprise_manager.links_read_with(job))
        if len(meant) != 1:
            meant = meant_of(await self.ask(lambda: self.enterprise_manager.links(job.id)))
        if len(meant) > 1:
            candidates = ", ".join(link.object_in_job_id for link in meant)
            raise Refused(
                ReasonCode.REPOSITORY_AMBIGUOUS,
                f"the job links this repository more than once; by link_id: {candidates}",
            )
        if not meant:
            return None
        if self.recorded is not None:
            require_same(meant[0], self.recorded.link)
        return await self._with_name(meant[0])

    async def _with_name(self, link: Link) -> Link:
        """The link with the name of its repository, if neither its list nor the command has it, and it is known."""
        if link.repository_name is not None or self.command.repository.name is not None:
            return link
        name = await self.ask(lambda: self.enterprise_manager.repository_name(link.repository_uid))
        return replace(link, repository_name=name)


def require_same(listed: Link, recorded: Link) -> None:
    """Check that a listed link with the recorded ID is the recorded link: nobody says that IDs are not given again.

    Raises:
        Refused: it is the link of another repository. What became of the recorded one is not known.
    """
    if listed.repository_uid != recorded.repository_uid:
        raise Refused(
            ReasonCode.ENTERPRISE_MANAGER_ERROR,
            f"the link {recorded.object_in_job_id} was of the repository {recorded.repository_uid}, and is of "
            f"{listed.repository_uid} now",
        )
