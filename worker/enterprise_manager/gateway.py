"""Implements the core's port `EnterpriseManager` for one Enterprise Manager, and reports its availability."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal, NoReturn, TypeVar

import structlog

from contracts.commands import JobReference, RepositoryReference
from contracts.events import ReasonCode
from worker.enterprise_manager import names, paths
from worker.enterprise_manager.assumptions import Assumption
from worker.enterprise_manager.availability import Availability
from worker.enterprise_manager.calls import Calls
from worker.enterprise_manager.deletion import Deletion
from worker.enterprise_manager.differences import Differences
from worker.enterprise_manager.documents.records import (
    MAX_NAME,
    JobRecord,
    LinkRecord,
    TaskRecord,
    hrefs_of_list,
    read_job,
    read_links,
)
from worker.enterprise_manager.documents.tree import DocumentError, Node, UnexpectedDocumentError, cleaned
from worker.enterprise_manager.logon import Logon, LogonSession
from worker.enterprise_manager.probing import probe
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.repository_names import RepositoryNames
from worker.enterprise_manager.responses import Again, NotFound, Unauthorized
from worker.enterprise_manager.tasks import Tasks
from worker.enterprise_manager.tidying import Tidying
from worker.enterprise_manager.transport import Transport
from worker.enterprise_manager.wire import RequestObserver, Wire
from worker.settings import EnterpriseManagerSettings
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import (
    Job,
    Link,
    LinkedBackup,
    Refused,
    Task,
    TaskNotFound,
    TaskTicket,
)

#: The types of job that have linked repositories (vendor, `GET /jobs/{ID}`).
COPY_JOBS = frozenset({"backupcopy", "immediatebackupcopy"})

#: The type of copy jobs created in version 11a or earlier. Their entity has no list of linked repositories.
LEGACY_COPY_JOB = "backupcopy"

#: For how long, in seconds, the linked backups and links that were read with a job are used without reading them again.
FRESH_SECONDS = 2.0

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

#: How many of the server's URLs of links are remembered. The oldest is forgotten first; then the documented path is
#: used.
_MOST_HREFS = 20_000

#: How many jobs are remembered as edited by this worker, or as jobs whose entity does not list their links.
_MOST_JOBS = 20_000

log = structlog.get_logger()


class LinksNotListed(Refused):
    """Enterprise Manager does not list the links of this job, which was made in version 11a or earlier."""


class Gateway:
    """Implements the port `EnterpriseManager`, whose docstrings say what each call raises.

    Each gateway has its own thread pool for blocking requests, so that an Enterprise Manager that does not answer does
    not affect the others. A gateway belongs to one event loop.

    Raises:
        SettingsInvalidError: the CA file cannot be used.
    """

    def __init__(
        self, name: str, settings: EnterpriseManagerSettings, clock: Clock, observer: RequestObserver | None = None
    ) -> None:
        self.name = name
        self._remedies = Remedies(name, settings)
        self._wire = Wire(name, Transport(settings, self._remedies), clock, settings.max_requests, observer)
        self._logon = Logon(settings, self._wire, self._remedies, clock)
        self._availability = Availability(name, clock, self._probe)
        self._differences = Differences(name)
        self._calls = Calls(self._wire, self._logon, self._availability, self._remedies, self._differences, clock)
        self._deletion = Deletion(self._wire, self._logon, self._calls, self._remedies)
        self._tasks = Tasks(name, self._calls, clock, settings.poll_interval_seconds, self._remedies.without_secrets)
        self._repository_names = RepositoryNames(name, self._calls, clock)
        self._tidying = Tidying(name, self._calls, settings.keep_finished_tasks)
        self._clock = clock
        self._link_hrefs: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._edited: OrderedDict[str, None] = OrderedDict()
        self._unlisted: OrderedDict[str, None] = OrderedDict()
        self._without_links: OrderedDict[str, None] = OrderedDict()
        if not settings.verify_tls:
            log.warning(
                "enterprise_manager.tls_not_verified",
                enterprise_manager=name,
                problem="anyone on the network path can read the password and change the answers",
                remedy=f"point {self._remedies.variable('CA_FILE')} to the CA or the certificate of Enterprise Manager",
            )

    @property
    def up(self) -> bool:
        """Whether it is available, according to the latest calls and probes."""
        return self._availability.up

    @property
    def last_problem(self) -> str | None:
        """The last problem, in one line; None before the first. It is kept after Enterprise Manager is up again."""
        return self._availability.last_problem

    def on_availability(self, listener: Callable[[bool], None]) -> None:
        """Call `listener` on the event loop with False when it goes down, and with True when it is up again."""
        self._availability.on_change(listener)

    async def probe(self) -> None:
        """Check that it answers and accepts the logon, before the first call. Never raises."""
        await self._availability.probe()

    async def until_available(self) -> None:
        """Wait until Enterprise Manager is neither down nor in doubt."""
        await self._availability.until_up()

    async def close(self, *, log_off: bool) -> None:
        """Stop probing, log off, and release the threads. Never raises.

        It logs off only if `log_off` is true and none of the session's tasks still runs: whether a task survives the
        end of its session is not known. A session that is left open expires when it is idle.
        """
        await self._availability.close()
        await self._tasks.close()
        await self._repository_names.close()
        await self._tidying.close()
        session = self._logon.current
        if log_off and (session is None or not self._tasks.under_way(session)):
            await self._logon.log_off()
        self._logon.abandon()
        self._wire.close()

    async def find_job(self, reference: JobReference) -> Job:
        """The one backup copy job that the reference names."""
        job_id = reference.id or await self._job_named(str(reference.name), reference.backup_server)
        job = await self._job(job_id, self._calls.low_priority)
        if job.job_type is None:
            self._refuse(UnexpectedDocumentError("it names no type of job"))
        if job.job_type.casefold() not in COPY_JOBS:
            raise Refused(
                ReasonCode.NOT_A_COPY_JOB,
                f'the job "{job.name or job.id}" is of type {job.job_type}; only backup copy jobs have linked '
                "repositories",
            )
        if job.job_type.casefold() == LEGACY_COPY_JOB:
            _remember(self._unlisted, job.id, None, _MOST_JOBS)
        elif job.links:
            self._without_links.pop(job.id, None)
        else:
            _remember(self._without_links, job.id, None, _MOST_JOBS)
        return Job(job.id, job.name, _backups(job), self._clock.monotonic(), tuple(map(_link, job.links)))

    async def names(self, resource: Literal["Job", "Repository"]) -> dict[str, str]:
        """The names of all jobs of any type, or of all repositories, by bare UUID.

        Raises:
            Refused: access_denied, enterprise_manager_error.
            Unavailable: Enterprise Manager does not answer.
        """
        try:
            found = await names.everything(self._calls.low_priority, resource)
        except (NotFound, DocumentError) as error:
            self._refuse(error)
        return {record.id: cleaned(record.name, MAX_NAME) for record in found}

    async def find_repository(self, reference: RepositoryReference) -> str:
        """The UID of the one repository that the reference names."""
        if reference.uid is not None:
            return reference.uid
        try:
            found = await names.find(self._calls, "Repository", str(reference.name), reference.backup_server)
        except names.NameNotFound as error:
            raise Refused(ReasonCode.REPOSITORY_NOT_FOUND, str(error)) from None
        except names.NameAmbiguous as error:
            raise Refused(ReasonCode.REPOSITORY_AMBIGUOUS, str(error)) from None
        except (NotFound, DocumentError) as error:
            self._refuse(error)
        return found.id

    async def repository_name(self, uid: str) -> str | None:
        """The name of a repository; None if it is not known soon."""
        return await self._repository_names.of(uid)

    async def links(self, job_id: str) -> Sequence[Link]:
        """The repositories linked to the job, as listed now.

        Raises:
            LinksNotListed: the job was made in version 11a or earlier, and no links of it are listed.
            Refused, Unavailable: as the port says.
        """
        records = await self._list_of_links(job_id)
        for record in records:
            for href in record.job_hrefs:
                self._require_job(job_id, paths.job_in(href))
        if records and job_id in self._without_links:
            seen = "the entity of a job does not name the repositories that its list does"
            self._differences.report(Assumption.LINKS_IN_JOB_ENTITY, seen)
        if records:
            self._unlisted.pop(job_id, None)
        elif job_id in self._unlisted:
            said = UnexpectedDocumentError(
                "it lists no repositories of this job, which was made in version 11a or earlier; Enterprise "
                "Manager may not list the repositories that are linked to such a job"
            )
            raise LinksNotListed(ReasonCode.ENTERPRISE_MANAGER_ERROR, self._strange(said))
        for record in records:
            if record.delete_href is not None:
                _remember(self._link_hrefs, (job_id, record.object_in_job_id), record.delete_href, _MOST_HREFS)
        return list(map(_link, records))

    async def _list_of_links(self, job_id: str) -> Sequence[LinkRecord]:
        try:
            return await self._calls.get_list(paths.links(job_id), {}, partial(self._read_links, job_id))
        except NotFound as error:
            raise _no_such_job(job_id, error) from None
        except DocumentError as error:
            self._refuse(error)
        except Refused as no:
            if job_id in self._unlisted and no.code is ReasonCode.ENTERPRISE_MANAGER_ERROR:
                raise LinksNotListed(no.code, no.message) from None
            raise

    def _read_links(self, job_id: str, document: Node) -> Sequence[LinkRecord]:
        for href in hrefs_of_list(document):
            self._require_job(job_id, paths.job_in(href))
        return read_links(document)

    def links_read_with(self, job: Job) -> Sequence[Link]:
        """The links that were read with the job; empty if they may be outdated."""
        return job.links if self._is_fresh(job) else ()

    async def linked_backups(self, job: Job) -> Sequence[LinkedBackup]:
        """The linked backups that any edit of the job drops.

        After this worker has edited the job, they are read again at each call.
        """
        if job.linked_backups is not None and self._is_fresh(job):
            return job.linked_backups
        backups = _backups(await self._job(job.id, self._calls))
        if backups is None:
            self._refuse(UnexpectedDocumentError("it does not say which backups are linked to the job"))
        return backups

    def _is_fresh(self, job: Job) -> bool:
        """Whether the data that was read with the job is current: read recently, and no edit by this worker."""
        return job.id not in self._edited and self._clock.monotonic() - job.read_at <= FRESH_SECONDS

    async def delete_link(
        self,
        job_id: str,
        object_in_job_id: str,
        may_send: Callable[[], Awaitable[float]],
        unsent: Callable[[], None] = lambda: None,
    ) -> Task:
        """Send the DELETE. It is repeated only if it was certainly not executed."""
        _remember(self._edited, job_id, None, _MOST_JOBS)
        path = paths.link(job_id, object_in_job_id, self._link_hrefs.get((job_id, object_in_job_id)))
        accepted = await self._deletion.send(path, may_send, unsent)
        self._differences.look_at_task(accepted.task)
        return _task(self._tasks.begun(accepted.session, accepted.task), accepted.task)

    def pause_before_task(self, ticket: TaskTicket) -> float:
        """The seconds until the task is due to be read."""
        return self._tasks.pause(ticket)

    async def task(self, ticket: TaskTicket) -> Task:
        """Read the state of a task once."""
        session, path = self._session_of(ticket), self._tasks.path(ticket)
        try:
            record = await self._tasks.look(session, ticket)
        except (NotFound, Unauthorized) as error:
            self._tasks.forget(ticket)
            raise TaskNotFound(str(error)) from None
        except UnexpectedDocumentError as error:
            raise self._calls.unavailable(Again(self._strange(error), everywhere=False)) from None
        if record.task_id != ticket.task_id:
            raise TaskNotFound(f"asked for {ticket.task_id}, and received {cleaned(record.task_id, 100)}")
        self._differences.look_at_task(record)
        if record.finished:
            self._tidying.finished(session, path)
        return _task(ticket, record)

    async def stop_task(self, ticket: TaskTicket) -> None:
        """Ask Enterprise Manager to stop the task."""
        session = self._session_of(ticket)
        try:
            await self._calls.delete_in(session, self._tasks.path(ticket))
        except (NotFound, Unauthorized) as error:
            self._tasks.forget(ticket)
            raise TaskNotFound(str(error)) from None
        self._tasks.forget(ticket)

    def _session_of(self, ticket: TaskTicket) -> LogonSession:
        session = self._logon.current
        if session is None or session.name != ticket.session:
            self._tasks.forget(ticket)
            raise TaskNotFound(f"{ticket.task_id} is of another logon session")
        return session

    async def _job_named(self, name: str, backup_server: str | None) -> str:
        try:
            return (await names.find(self._calls.low_priority, "Job", name, backup_server)).id
        except names.NameNotFound as error:
            raise Refused(ReasonCode.JOB_NOT_FOUND, str(error)) from None
        except names.NameAmbiguous as error:
            raise Refused(ReasonCode.JOB_AMBIGUOUS, str(error)) from None
        except (NotFound, DocumentError) as error:
            self._refuse(error)

    async def _job(self, job_id: str, calls: Calls) -> JobRecord:
        try:
            job = read_job(await calls.get(paths.job(job_id), {"format": "Entity"}))
        except NotFound as error:
            raise _no_such_job(job_id, error) from None
        except DocumentError as error:
            self._refuse(error)
        self._require_job(job_id, job.id)
        return job

    def _require_job(self, wanted: str, answered: str | None) -> None:
        """Check that a response is about the requested job.

        Raises:
            Unavailable: it is about another job. Something mixes up responses; the next one may be right.
        """
        if answered not in {wanted, None}:
            error = UnexpectedDocumentError(f"asked for the job {wanted}, it answered with the job {answered}")
            raise self._calls.unavailable(Again(self._strange(error), everywhere=False))

    async def _probe(self) -> None:
        await probe(self._wire, self._logon, self._remedies)

    def _refuse(self, error: Exception) -> NoReturn:
        raise Refused(ReasonCode.ENTERPRISE_MANAGER_ERROR, self._strange(error)) from None

    def _strange(self, error: Exception) -> str:
        return self._remedies.answered(f"gave an answer that cannot be used: {error}")


def _no_such_job(job_id: str, error: NotFound) -> Refused:
    return Refused(ReasonCode.JOB_NOT_FOUND, f"there is no job {job_id}: {error}")


def _backups(job: JobRecord) -> tuple[LinkedBackup, ...] | None:
    if job.linked_backups is None:
        return None
    return tuple(LinkedBackup(each.object_in_job_id, each.uid, each.name) for each in job.linked_backups)


def _link(record: LinkRecord) -> Link:
    return Link(record.object_in_job_id, record.repository_uid, record.repository_name)


def _task(ticket: TaskTicket, record: TaskRecord) -> Task:
    return Task(ticket, record.operation, record.finished, record.success, record.message)


def _remember(memory: OrderedDict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    memory[key] = value
    if len(memory) > most:
        memory.popitem(last=False)
