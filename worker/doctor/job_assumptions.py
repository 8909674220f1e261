"""Checks the assumptions about jobs, their links and queries, on the jobs that the account can see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from worker.doctor.probe import TROUBLE, NotSeenError, Probe, described
from worker.doctor.pseudonyms import NO_NAME, NOBODY, UNUSED_NAME
from worker.enterprise_manager import paths
from worker.enterprise_manager.assumptions import Assumption
from worker.enterprise_manager.documents.records import (
    JobRecord,
    LinkRecord,
    ReferenceRecord,
    read_job,
    read_links,
    read_paging,
    read_references,
)
from worker.enterprise_manager.documents.tree import Node
from worker.enterprise_manager.gateway import COPY_JOBS, LEGACY_COPY_JOB
from worker.enterprise_manager.names import name_filter
from worker.enterprise_manager.responses import BAD_REQUEST

#: The largest number of jobs that are read to find one of each kind.
MOST_JOBS = 50

#: The requested page size, which a server was seen to allow.
PAGE = 100

#: Assumptions that are checked on a backup copy job.
_NEED_A_COPY_JOB = (
    Assumption.JOB_ENTITY,
    Assumption.LINK_LIST,
    Assumption.LINKS_IN_JOB_ENTITY,
    Assumption.JSON_LINKS_NAME,
    Assumption.JSON_LINKED_BACKUPS_NAME,
)

#: Assumptions that are checked on a job of any type.
NEED_A_JOB = (
    Assumption.QUERY,
    Assumption.NAMES_IGNORE_CASE,
    Assumption.QUOTES_DOUBLED,
    Assumption.PAGE_OF_100,
    Assumption.QUERY_PAGES,
    Assumption.BACKUP_SERVER,
    Assumption.JSON_QUERY_LISTS,
    Assumption.JSON_EMPTY_LIST,
    Assumption.ALL_LISTED,
)

#: Assumptions that are checked by queries.
NEED_QUERIES = (*NEED_A_JOB, Assumption.QUERY_REPOSITORIES)


@dataclass(slots=True)
class _Seen:
    """The jobs that are used for the checks."""

    any_job: ReferenceRecord | None = None
    copy_job: JobRecord | None = None
    links: tuple[LinkRecord, ...] = ()
    legacy: str | None = None
    other: str | None = None
    #: How many jobs were read, and how many of them named no type.
    read: int = 0
    untyped: int = 0
    #: Why the list of a copy job's links could not be read.
    unreadable: str | None = None


class JobLooks:
    """The checks on jobs. Each returns a description of the difference, or None. Call `find` before any check."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._jobs = _Seen()

    def all(self) -> dict[Assumption, Callable[[], Awaitable[str | None]]]:
        """The checks by assumption. The check of queries precedes the checks that need a query."""
        return {
            Assumption.QUERY: self._query,
            Assumption.QUERY_REPOSITORIES: self._query_repositories,
            Assumption.NAMES_IGNORE_CASE: self._case,
            Assumption.QUOTES_DOUBLED: self._quotes,
            Assumption.PAGE_OF_100: self._page,
            Assumption.QUERY_PAGES: self._second_page,
            Assumption.BACKUP_SERVER: self._backup_server,
            Assumption.ALL_LISTED: self._all_listed,
            Assumption.JSON_QUERY_LISTS: self._query_lists,
            Assumption.JSON_EMPTY_LIST: self._empty_list,
            Assumption.JOB_TYPE: self._type,
            Assumption.JOB_ENTITY: self._entity,
            Assumption.LINK_LIST: self._list,
            Assumption.LINKS_IN_JOB_ENTITY: self._links_in_entity,
            Assumption.JSON_LINKS_NAME: self._links_name,
            Assumption.JSON_LINKED_BACKUPS_NAME: self._backups_name,
            Assumption.LINKS_OF_LEGACY: self._legacy,
            Assumption.LINKS_OF_OTHERS: self._others,
        }

    def missing(self, assumption: Assumption) -> str | None:
        """Why the check cannot be made: the kind of job that the account does not see. None if it can be made."""
        if assumption in NEED_A_JOB and self._jobs.any_job is None:
            return "the account sees no job"
        if assumption in _NEED_A_COPY_JOB and self._jobs.copy_job is None:
            return "the account sees no backup copy job"
        return None

    async def find(self) -> str | None:
        """Find one job of each kind, and a copy job with links if there is one. Returns None, as every check."""
        query = {"pageSize": str(PAGE)}
        for reference in read_references(await self._probe.read(paths.COLLECTIONS["Job"], query), "Job")[:MOST_JOBS]:
            self._jobs.any_job = self._jobs.any_job or reference
            try:
                job = read_job(await self._probe.read(paths.job(reference.id), {"format": "Entity"}))
            except TROUBLE:
                continue
            await self._sort(job)
            if self._jobs.links and self._jobs.legacy and self._jobs.other:
                break
        return None

    async def _sort(self, job: JobRecord) -> None:
        jobs, kind = self._jobs, (job.job_type or "").casefold()
        jobs.read, jobs.untyped = jobs.read + 1, jobs.untyped + (job.job_type is None)
        if job.job_type is None:
            return
        if kind == LEGACY_COPY_JOB:
            jobs.legacy = jobs.legacy or job.id
        elif kind not in COPY_JOBS:
            jobs.other = jobs.other or job.id
        elif not jobs.links:
            jobs.copy_job, jobs.unreadable = job, None
            try:
                jobs.links = read_links(await self._probe.read(paths.links(job.id)))
            except TROUBLE as error:
                jobs.unreadable = described(error)

    async def _type(self) -> str | None:
        if self._jobs.read == 0:
            raise NotSeenError("no entity of a job could be read")
        return f"{self._jobs.untyped} of {self._jobs.read} do not" if self._jobs.untyped else None

    async def _entity(self) -> str | None:
        return None if self._copy_job.linked_backups is not None else "it does not say which backups are linked"

    async def _list(self) -> str | None:
        if self._jobs.unreadable is not None:
            return self._jobs.unreadable
        for link in self._links:
            documented = paths.link(self._copy_job.id, link.object_in_job_id).lower()
            if link.delete_href is None:
                return "a link without a Delete link"
            if not urlsplit(link.delete_href).path.lower().endswith(documented.removeprefix("/api")):
                return "a Delete link with another path than the documented one"
        return None

    async def _links_in_entity(self) -> str | None:
        listed = {link.object_in_job_id for link in self._links}
        named = {link.object_in_job_id for link in self._copy_job.links}
        if not named:
            return "the entity of a job does not name the repositories that its list does"
        return None if listed == named else f"the entity names {len(named)} links, and the list {len(listed)}"

    async def _links_name(self) -> str | None:
        assert self._links  # noqa: S101 - without links, a `NotSeenError` was raised
        return _otherwise_named(await self._probe.json(paths.links(self._copy_job.id)), "LinkedBackupRepositories")

    async def _backups_name(self) -> str | None:
        document = await self._probe.json(paths.job(self._copy_job.id), {"format": "Entity"})
        info = _field(document, "JobInfo")
        details = _field(info, "ImmediateBackupCopyJobInfo")
        return _otherwise_named(_field(details, "LinkedBackupIncludes"), "LinkedBackups")

    async def _legacy(self) -> str | None:
        if self._jobs.legacy is None:
            raise NotSeenError("the account sees no copy job made in version 11a or earlier")
        return None if read_links(await self._probe.read(paths.links(self._jobs.legacy))) else "it lists none"

    async def _others(self) -> str | None:
        if self._jobs.other is None:
            raise NotSeenError("the account sees only backup copy jobs")
        status = (await self._probe.get(paths.links(self._jobs.other))).status
        return None if status == BAD_REQUEST else f"status {status}"

    @property
    def _copy_job(self) -> JobRecord:
        assert self._jobs.copy_job is not None  # noqa: S101 - the check is not made without one
        return self._jobs.copy_job

    @property
    def _links(self) -> tuple[LinkRecord, ...]:
        if not self._jobs.links:
            raise NotSeenError("the account sees no backup copy job with links")
        return self._jobs.links

    # --- queries ------------------------------------------------------------------------------------------------------

    async def _query(self) -> str | None:
        return None if await self._finds(self._named.name) else "it does not find a job by its name"

    async def _case(self) -> str | None:
        name = self._named.name
        if name.swapcase() == name:
            raise NotSeenError("the name of the first job has no letters")
        return None if await self._finds(name.swapcase()) else "another case is another name"

    async def _quotes(self) -> str | None:
        await self._query_jobs(name_filter(NO_NAME))
        return None

    async def _page(self) -> str | None:
        paging = (await self._query_jobs(f"Name!={UNUSED_NAME}")).find("paginginfo")
        size = paging.value("pagesize") if paging is not None else None
        return None if size == str(PAGE) else f"asked for {PAGE}, a page holds {size}"

    async def _second_page(self) -> str | None:
        query = {"type": "Job", "filter": f"Name!={UNUSED_NAME}", "pageSize": "1"}
        first = await self._probe.read(paths.QUERY, query)
        if read_paging(first).pages <= 1:
            raise NotSeenError("the account sees one job only")
        second = await self._probe.read(paths.QUERY, query | {"page": "2"})
        if read_paging(second).number != 2:  # noqa: PLR2004 - the page that was asked for
            return "it does not say that it is page 2"
        found = [{each.id for each in read_references(page, "Job")} for page in (first, second)]
        return None if found[0] and found[1] and found[0].isdisjoint(found[1]) else "both hold the same, or nothing"

    async def _backup_server(self) -> str | None:
        server = self._named.backup_server
        if server is None:
            return "a reference does not name it"
        found = read_references(await self._query_jobs(name_filter(self._named.name, server)), "Job")
        return None if any(each.id == self._named.id for each in found) else "the filter does not find it"

    async def _all_listed(self) -> str | None:
        listed = await self._probe.read(paths.COLLECTIONS["Job"], {"pageSize": str(PAGE)})
        if (pages := read_paging(listed).pages) > 1:
            return f"in {pages} pages"
        queried = read_paging(await self._probe.read(paths.QUERY, {"type": "Job", "pageSize": "1"})).pages
        missing = queried - len(read_references(listed, "Job"))
        return f"a query finds {missing} more" if missing > 0 else None

    async def _query_repositories(self) -> str | None:
        listed = read_references(await self._probe.read(paths.COLLECTIONS["Repository"]), "Repository")
        named = next((each for each in listed if '"' not in each.name), None)
        if named is None:
            raise NotSeenError("the account sees no repository")
        query = {"type": "Repository", "filter": name_filter(named.name), "pageSize": str(PAGE)}
        found = read_references(await self._probe.read(paths.QUERY, query), "Repository")
        return None if any(each.id == named.id for each in found) else "it does not find one by its name"

    async def _query_lists(self) -> str | None:
        document = await self._probe.json(paths.QUERY, {"type": "Job", "pageSize": "1"})
        return "an array without an object around it" if isinstance(_field(document, "Refs"), list) else None

    async def _empty_list(self) -> str | None:
        query = {"type": "Job", "filter": f'Name=="{NOBODY}"', "pageSize": "1"}
        refs = _field(await self._probe.json(paths.QUERY, query), "Refs")
        inner = _field(refs, "Refs") if isinstance(refs, dict) else refs
        return "null" if inner is None else None

    async def _finds(self, name: str) -> bool:
        found = read_references(await self._query_jobs(f'Name=="{name}"'), "Job")
        return any(each.id == self._named.id for each in found)

    @property
    def _named(self) -> ReferenceRecord:
        job = self._jobs.any_job
        if job is None or '"' in job.name:
            raise NotSeenError("the name of the first job has a quote")
        return job

    async def _query_jobs(self, condition: str) -> Node:
        return await self._probe.read(paths.QUERY, {"type": "Job", "filter": condition, "pageSize": str(PAGE)})


def _field(document: Any, name: str) -> Any:
    """The field of that name, compared without regard to case; None if there is none."""
    if not isinstance(document, dict):
        return None
    return next((value for key, value in document.items() if key.casefold() == name.casefold()), None)


def _otherwise_named(document: Any, expected: str) -> str | None:
    """The name of the array in the document, if it is not the expected name; else None."""
    if document is None:
        raise NotSeenError("the document has no such list")
    if isinstance(document, list):
        return "an array without a name"
    names = [key for key, value in document.items() if isinstance(value, list | None) and key.casefold() != "links"]
    if any(name.casefold() == expected.casefold() for name in names):
        return None
    return f"it is {names[0]}" if names else "an object without an array"
