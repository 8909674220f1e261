"""The documents in Enterprise Manager's responses (helpcenter, "Veeam Backup Enterprise Manager REST API")."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worker.sandbox.simulated_enterprise_manager.behaviour import Behaviour
from worker.sandbox.simulated_enterprise_manager.inventory import COLLECTIONS, id_of_server
from worker.sandbox.simulated_enterprise_manager.model import (
    FINISHED,
    LEGACY_COPY_JOB,
    RUNNING,
    Job,
    Linked,
    LinkedJob,
    LinkedRepository,
    Repository,
    Session,
    Task,
)
from worker.sandbox.simulated_enterprise_manager.rendering import BARE_ARRAY, Element

#: The API's versions [doc].
VERSIONS = ("v1_5", "v1_6", "v1_7")

#: Relation, path and type of a link, and its name if it has one.
Link = tuple[str, str, str | None] | tuple[str, str, str | None, str | None]

#: The elements that may contain a job's settings [doc]. A job has one of them; in JSON the others are null [seen].
_JOB_INFOS = ("BackupJobInfo", "FileCopyJobInfo", "ReplicaJobInfo", "BackupCopyJobInfo", "ImmediateBackupCopyJobInfo")


def error(status: int, message: str) -> Element:
    """An error document [seen]. Its status code and message are attributes in XML."""
    return Element(
        "Error",
        {"Message": message, "StatusCode": status},
        (Element("FirstChanceExceptionMessage", nil=True), Element("StackTrace", nil=True), Element("Status")),
    )


@dataclass(frozen=True, slots=True)
class Paging:
    """The position of a page in a query's results. Pages are numbered from 1."""

    number: int
    size: int
    pages: int
    #: The query string, percent-encoded, without the page number.
    query: str


@dataclass(frozen=True, slots=True)
class Documents:
    """Builds the documents. Their links begin with `api` (such as `https://em01.corp.example:9398/api`)."""

    api: str
    behaviour: Behaviour

    # --- log on ---

    def enterprise_manager(self) -> Element:
        """The answer to `GET /api/`."""
        versions = [
            Element(
                "SupportedVersion",
                {"Name": version},
                (self._links(("Create", f"sessionMngr/?v={version}", "LogonSession")),),
            )
            for version in VERSIONS
        ]
        return Element(
            "EnterpriseManager",
            None,
            (
                self._links(
                    ("Down", "logonSessions", "LogonSessionList"),
                    ("Create", "sessionMngr/?v=latest", "LogonSession"),
                ),
                Element("SupportedVersions", None, versions, array="SupportedVersions"),
            ),
        )

    def logon_session(self, session: Session) -> Element:
        """A logon session, without its token."""
        path = f"logonSessions/{session.id}"
        return Element(
            "LogonSession",
            self._attributes("LogonSession", path),
            (
                self._links(
                    ("Up", "", "EnterpriseManager"),
                    *(("Down", collection, f"{kind}ReferenceList") for collection, kind in COLLECTIONS),
                    ("Down", "tasks", "TaskList"),
                    ("Down", "querySvc", "QueryService"),
                    *(("Down", f"{collection}?format=Entity", f"{kind}List") for collection, kind in COLLECTIONS),
                    ("Delete", path, "LogonSession"),
                ),
                Element("UserName", text=session.username),
                Element("SessionId", text=session.id),
            ),
        )

    def logon_sessions(self, sessions: Iterable[Session]) -> Element:
        """The sessions of all users."""
        return Element("LogonSessions", None, [self.logon_session(one) for one in sessions], array="LogonSessions")

    def query_service(self, session: Session) -> Element:
        """The links to the available queries [doc]."""
        lists = [("Task", ""), *((kind, "&sortAsc=name") for _, kind in COLLECTIONS)]
        links = self._links(
            ("Up", f"logonSessions/{session.id}", "LogonSession"),
            *(
                ("Down", f"query?type={kind}&format=Entities{sorted_by}&pageSize=15&page=1", f"{kind}List")
                for kind, sorted_by in lists
            ),
        )
        return Element("QuerySvc", self._attributes("QueryService", "querySvc"), (links,))

    # --- tasks ---

    def task(self, task: Task, state: str) -> Element:
        """A task in this state."""
        path = f"tasks/{task.id}"
        children = [
            self._links(("Delete", path, "Task")),
            Element("TaskId", text=task.id),
            Element("State", text=state),
            Element("Operation", text=task.operation),
        ]
        result = self._result(task, state)
        if result is not None:
            children.append(result)
        return Element("Task", self._attributes("Task", path), children)

    def tasks(self, tasks: Sequence[tuple[Task, str]]) -> Element:
        """The session's tasks with their states."""
        return Element("Tasks", None, [self.task(task, state) for task, state in tasks], array="Tasks")

    def _result(self, task: Task, state: str) -> Element | None:
        shown = self.behaviour.running_result if state == RUNNING else self.behaviour.finished_result
        if state == FINISHED or shown in {"absent", "null"}:
            return self._final_result(task, shown)
        # Until the server has collected the result, the message is the state, even if the operation failed.
        return Element("Result", {"Success": True}, (Element("Message", text=state),))

    def _final_result(self, task: Task, shown: str) -> Element | None:
        if shown == "absent":
            return None
        if shown == "null":
            return Element("Result", nil=True)
        children = []
        if shown != "without_message":
            texts = {"empty_message": "", "null_message": None}
            children.append(Element("Message", text=texts.get(shown, task.message)))
        asked_for = self.behaviour.failed_result_asks
        if not task.success and asked_for != "nothing":
            children.append(Element(f"{asked_for.capitalize()}Needed", text=True))
        return Element("Result", {"Success": bool(task.success)}, children)

    # --- jobs ---

    def job_reference(self, job: Job, name: str = "EntityRef") -> Element:
        """A job by its name and UID."""
        path = f"jobs/{job.id}"
        links = self._links(
            up_to(job.backup_server),
            ("Alternate", f"{path}?format=Entity", "Job", job.name),
            ("Down", f"{path}/backupSessions", "BackupJobSessionReferenceList"),
        )
        return Element(name, self._entity("JobReference", path, job.name, f"urn:veeam:Job:{job.id}"), (links,))

    def job(self, job: Job, linked: Linked) -> Element:
        """A job with its settings."""
        path = f"jobs/{job.id}"
        links: list[Link] = [
            up_to(job.backup_server),
            ("Alternate", path, "JobReference", job.name),
        ]
        if not job.is_copy_job:
            links += [("Start", f"{path}?action=start", None), ("Stop", f"{path}?action=stop", None)]
        links += [
            ("Clone", f"{path}?action=clone", None),
            ("ToggleScheduleEnabled", f"{path}?action=toggleScheduleEnabled", None),
            ("Down", f"{path}/backupSessions", "BackupJobSessionReferenceList"),
        ]
        if job.is_copy_job:
            links += [
                ("Sync", f"{path}?action=sync", None),
                ("Down", f"{path}/linkedJobs", "LinkedJobObjectList"),
                ("Down", f"{path}/linkedBackupRepositories", "LinkedBackupRepositoryObjectList"),
                ("Create", f"{path}/linkedJobs", "LinkedJobObject"),
                ("Create", f"{path}/linkedBackupRepositories", "LinkedBackupRepositoryObject"),
            ]
        else:
            links.append(("Down", f"{path}/includes", "ObjectInJobList"))
        return Element(
            "Job",
            self._entity("Job", f"{path}?format=Entity", job.name, f"urn:veeam:Job:{job.id}"),
            (
                self._links(*links),
                Element("JobType", text=job.job_type),
                Element("Platform", text=job.platform),
                Element("Description", text=f"Created by .\\administrator ({job.name})"),
                Element("ScheduleConfigured", text=True),
                Element("ScheduleEnabled", text=job.schedule_enabled),
                self._schedule(job),
                self._job_info(job, linked),
            ),
        )

    def _schedule(self, job: Job) -> Element:
        if not job.is_copy_job:
            return Element("JobScheduleOptions", None, ())
        continuous = Element("OptionsContinuous", {"Enabled": job.job_type != LEGACY_COPY_JOB}, ())
        return Element("JobScheduleOptions", None, (Element("ImmediateCopyMode", None, (continuous,)),))

    def _job_info(self, job: Job, linked: Linked) -> Element:
        info = f"{job.job_type}JobInfo"
        children = [
            Element(name, None, self._job_settings(job, linked)) if name == info else Element(name)
            for name in _JOB_INFOS
        ]
        return Element("JobInfo", None, children)

    def _job_settings(self, job: Job, linked: Linked) -> list[Element]:
        if not job.is_copy_job:
            return [Element("Includes", None, (), array="ObjectInJobs")]
        backups = [
            Element(
                "LinkedBackup",
                None,
                (
                    Element("ObjectInJobId", text=backup.object_in_job_id),
                    Element("LinkedBackupUid", text=f"urn:veeam:Backup:{backup.uid}"),
                ),
            )
            for backup in linked.backups
        ]
        settings = [
            Element(
                "LinkedJobIncludes",
                None,
                [Element("LinkedJobObject", None, linked_job_ids(link)) for link in linked.jobs],
                array="LinkedJobs",
            ),
            Element("LinkedBackupIncludes", None, backups, array=self.behaviour.json_linked_backups_name),
        ]
        if job.job_type == LEGACY_COPY_JOB or self.behaviour.links_in_job_entity == "left_out":
            return settings
        links = [Element("LinkedBackupRepository", None, self._link_ids(link)) for link in linked.repositories]
        name = self.behaviour.json_links_name
        return [*settings, Element("LinkedBackupRepositoryIncludes", None, links, array=name)]

    def linked_repositories(self, job: Job, links: Iterable[LinkedRepository]) -> Element:
        """The repositories linked to a copy job."""
        return Element(
            "LinkedBackupRepositoryResourceObjects",
            None,
            [self._linked_repository(job, link) for link in links],
            array=self.behaviour.json_links_name,
        )

    def _linked_repository(self, job: Job, link: LinkedRepository) -> Element:
        path = f"jobs/{job.id}/linkedBackupRepositories/{link.object_in_job_id}"
        links = self._links(("Up", f"jobs/{job.id}?format=Entity", "Job", job.name), ("Delete", path, None))
        attributes = self._attributes("LinkedBackupRepositoryObject", path)
        return Element("LinkedBackupRepository", attributes, (links, *self._link_ids(link)))

    def _link_ids(self, link: LinkedRepository) -> tuple[Element, Element]:
        return (
            Element("ObjectInJobId", text=link.object_in_job_id),
            Element("LinkedBackupRepositoryUid", text=f"urn:veeam:Repository:{link.repository_uid}"),
        )

    # --- repositories ---

    def repository_reference(self, repository: Repository, name: str = "EntityRef") -> Element:
        """A repository by its name and UID."""
        path, uid = f"repositories/{repository.uid}", f"urn:veeam:Repository:{repository.uid}"
        links = self._links(
            up_to(repository.backup_server),
            ("Alternate", f"{path}?format=Entity", "Repository", repository.name),
        )
        return Element(name, self._entity("RepositoryReference", path, repository.name, uid), (links,))

    def repository(self, repository: Repository) -> Element:
        """A repository with its properties."""
        path, uid = f"repositories/{repository.uid}", f"urn:veeam:Repository:{repository.uid}"
        links = self._links(
            up_to(repository.backup_server),
            ("Alternate", path, "RepositoryReference", repository.name),
        )
        return Element(
            "Repository",
            self._entity("Repository", f"{path}?format=Entity", repository.name, uid),
            (
                links,
                Element("Capacity", text=1_079_639_011_328),
                Element("FreeSpace", text=881_812_750_336),
                Element("Kind", text="WindowsLocal"),
            ),
        )

    # --- lists and queries ---

    def reference(self, resource: Job | Repository, name: str = "Ref") -> Element:
        """A job or a repository by its name and UID."""
        if isinstance(resource, Repository):
            return self.repository_reference(resource, name)
        return self.job_reference(resource, name)

    def references(self, resources: Iterable[Job | Repository]) -> Element:
        """All jobs, or all repositories."""
        return Element("EntityReferences", None, [self.reference(one) for one in resources], array="Refs")

    def page_of_references(self, path: str, resources: Iterable[Job | Repository], paging: Paging) -> Element:
        """One page of all jobs, or of all repositories, at the path; the form is that of a query's."""
        return self._paged("EntityReferences", path, self.found_references(resources), paging)

    def jobs(self, jobs: Iterable[tuple[Job, Linked]]) -> Element:
        """All jobs with their settings."""
        return Element("Jobs", None, [self.job(job, linked) for job, linked in jobs], array="Jobs")

    def repositories(self, repositories: Iterable[Repository]) -> Element:
        """All repositories with their properties."""
        return Element("Repositories", None, [self.repository(one) for one in repositories], array="Repositories")

    def query_result(self, found: Element, paging: Paging) -> Element:
        """One page of a query's results: `found` is `Refs`, `Entities` or `Resources`."""
        return self._paged("QueryResult", "query", found, paging)

    def _paged(self, root: str, path: str, found: Element, paging: Paging) -> Element:
        links = [("First", 1), ("Prev", paging.number - 1), ("Next", paging.number + 1), ("Last", paging.pages)]
        page = self._links(
            *(
                (rel, f"{path}?{paging.query}&pageSize={paging.size}&page={number}", None)
                for rel, number in links
                if 1 <= number <= paging.pages
            )
        )
        attributes = {"PageNum": paging.number, "PageSize": paging.size, "PagesCount": paging.pages}
        return Element(root, None, (found, Element("PagingInfo", attributes, (page,))))

    def found_references(self, resources: Iterable[Job | Repository]) -> Element:
        """The `Refs` of a query."""
        return Element("Refs", None, [self.reference(one) for one in resources], array=self._query_array("Refs"))

    def found(self, outer: str, name: str, items: list[Element]) -> Element:
        """The `Entities` or `Resources` of a query."""
        return Element(outer, None, (Element(name, None, items, array=self._query_array(name)),))

    def _query_array(self, name: str) -> str:
        return BARE_ARRAY if self.behaviour.json_query_lists == "flat" else name

    # --- parts ---

    def _links(self, *links: Link) -> Element:
        elements = [
            Element("Link", {"Rel": link[0], "Type": link[2], "Href": f"{self.api}/{link[1]}", "Name": _name(link[3:])})
            for link in links
        ]
        return Element("Links", None, elements, array=BARE_ARRAY)

    def _attributes(self, kind: str, path: str) -> dict[str, str | bool | int | None]:
        return {"Type": kind, "Href": f"{self.api}/{path}"}

    def _entity(self, kind: str, path: str, name: str, uid: str) -> dict[str, str | bool | int | None]:
        return {"Type": kind, "Href": f"{self.api}/{path}", "Name": name, "UID": uid}


def linked_job_ids(link: LinkedJob) -> tuple[Element, Element]:
    """The two IDs of a job's link to a copy job."""
    return (
        Element("ObjectInJobId", text=link.object_in_job_id),
        Element("LinkedJobUid", text=f"urn:veeam:Job:{link.job_uid}"),
    )


def up_to(backup_server: str) -> Link:
    """The link to the backup server of that name."""
    return "Up", f"backupServers/{id_of_server(backup_server)}", "BackupServerReference", backup_server


def _name(rest: tuple[str | None, ...]) -> str | None:
    return rest[0] if rest else None
