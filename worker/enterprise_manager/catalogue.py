"""What can be unlinked: the links of one copy job, or the links of all copy jobs to one repository."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from contracts.commands import JobReference, RepositoryReference
from contracts.events import ReasonCode
from worker.enterprise_manager.gateway import Gateway, LinksNotListed
from worker.unlinks.ports.enterprise_manager import Job, Link, Refused

#: How many jobs are read concurrently. The setting `MAX_REQUESTS` limits the concurrent requests separately.
_JOBS_AT_ONCE = 32

#: Reasons to skip a job: it is no copy job, or it was deleted after the jobs were listed.
_NOT_CONCERNED = {ReasonCode.NOT_A_COPY_JOB, ReasonCode.JOB_NOT_FOUND}


@dataclass(frozen=True, slots=True)
class LinkedJob:
    """A link, and the job that has it."""

    job: Job
    link: Link


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The links found, ordered by job name.

    Attributes:
        unread: one text for each job whose links could not be read, and why; another try may read them.
        unlisted: the copy jobs whose links Enterprise Manager never lists: those made in version 11a or earlier.
    """

    links: tuple[LinkedJob, ...]
    unread: tuple[str, ...] = ()
    unlisted: tuple[Job, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """One text for each job whose links may be missing here, and why."""
        never = "its links are not listed, because it was made in version 11a or earlier"
        return (*self.unread, *(f"{job.name or job.id}: {never}" for job in self.unlisted))


async def links_of_job(gateway: Gateway, reference: JobReference) -> Catalogue:
    """The links of one copy job.

    Raises:
        Refused: there is no such job, it is no copy job, the reference is ambiguous, or the request was refused.
        Unavailable: Enterprise Manager does not answer.
    """
    job = await gateway.find_job(reference)
    repositories = await gateway.names("Repository")
    return Catalogue(tuple(_named(job, link, repositories) for link in await gateway.links(job.id)))


async def links_to_repository(
    gateway: Gateway, reference: RepositoryReference, progress: Callable[[int, int], None]
) -> Catalogue:
    """The links of all copy jobs to one repository. Each job of any type takes one request, each copy job two.

    `progress` is called with the number of jobs read and the total number of jobs.

    Raises:
        Refused: there is no such repository, or the reference is ambiguous. A UID is refused if no job has a link to
            it, and Enterprise Manager lists no such repository either: it is mistyped.
        Unavailable: Enterprise Manager does not answer.
    """
    uid = await gateway.find_repository(reference)
    repositories, jobs = await gateway.names("Repository"), await gateway.names("Job")
    found: list[LinkedJob] = []
    unread: list[str] = []
    unlisted: list[Job] = []
    at_once = asyncio.Semaphore(_JOBS_AT_ONCE)
    done = 0

    async def look(job_id: str, name: str) -> None:
        nonlocal done
        async with at_once:
            try:
                job = await gateway.find_job(JobReference(id=job_id))
                links = await _links_of(gateway, job, unlisted)
            except Refused as no:
                if no.code not in _NOT_CONCERNED:
                    unread.append(f"{name}: {no.message}")
            else:
                found.extend(_named(job, link, repositories) for link in links if link.repository_uid == uid)
        done += 1
        progress(done, len(jobs))

    try:
        async with asyncio.TaskGroup() as group:
            for job_id, name in jobs.items():
                group.create_task(look(job_id, name))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    if not found and uid not in repositories:
        raise Refused(ReasonCode.REPOSITORY_NOT_FOUND, f"no repository has the UID {uid}, and no job a link to it")
    ordered = sorted(found, key=lambda each: (each.job.name or "", each.job.id, each.link.object_in_job_id))
    never = sorted(unlisted, key=lambda job: (job.name or "", job.id))
    return Catalogue(tuple(ordered), tuple(sorted(unread)), tuple(never))


async def _links_of(gateway: Gateway, job: Job, unlisted: list[Job]) -> Sequence[Link]:
    """The links of a job; none if they are not listed: the job is then added to `unlisted`."""
    try:
        return await gateway.links(job.id)
    except LinksNotListed:
        unlisted.append(job)
        return ()


def _named(job: Job, link: Link, repositories: dict[str, str]) -> LinkedJob:
    name = link.repository_name or repositories.get(link.repository_uid or "")
    return LinkedJob(job, replace(link, repository_name=name))
