"""Executes each request and builds its response, without I/O. The caller holds the state's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from worker.sandbox.simulated_enterprise_manager import actions
from worker.sandbox.simulated_enterprise_manager.behaviour import Behaviour
from worker.sandbox.simulated_enterprise_manager.documents import VERSIONS
from worker.sandbox.simulated_enterprise_manager.exchange import (
    ACCESS_DENIED,
    SESSION_HEADER,
    Account,
    Answer,
    RefusalError,
    Request,
    as_entity,
    bare,
    posted_uid,
    unauthorized,
)
from worker.sandbox.simulated_enterprise_manager.further_documents import FurtherDocuments
from worker.sandbox.simulated_enterprise_manager.inventory import TYPES, resources, sessions_of
from worker.sandbox.simulated_enterprise_manager.model import (
    LEGACY_COPY_JOB,
    Change,
    Job,
    LinkedJob,
    LinkedRepository,
    Repository,
    Session,
    Task,
)
from worker.sandbox.simulated_enterprise_manager.queries import QueryInvalidError, answer_query, page_of
from worker.sandbox.simulated_enterprise_manager.rendering import Element
from worker.sandbox.simulated_enterprise_manager.state import NotThereError, State


class Routes:
    """The part of the API that an unlink uses, and some resources that other programs request."""

    def __init__(self, state: State, account: Account) -> None:
        self._state = state
        self._account = account

    @property
    def _behaviour(self) -> Behaviour:
        return self._state.behaviour

    def answer(self, request: Request) -> Answer:
        """Execute a request."""
        with self._state.lock:
            try:
                return self._route(request)
            except RefusalError as refusal:
                return refusal.answer
            except NotThereError as absence:
                return self._absent(str(absence.args[0])).answer

    def _absent(self, message: str) -> RefusalError:
        return RefusalError(int(self._behaviour.absent_resource), message)

    def _route(self, request: Request) -> Answer:
        match request.path.split("/"):
            case [""]:
                return self._only(request, GET=self._front_page)
            case ["sessionmngr"]:
                return self._only(request, POST=self._log_on)
        session = self._state.session_of(request.token)
        if session is None:
            raise unauthorized()
        return self._in_session(request, session)

    def _in_session(self, request: Request, session: Session) -> Answer:
        match request.path.split("/"):
            case ["logonsessions"]:
                return self._only(request, GET=self._list_sessions)
            case ["logonsessions", session_id]:
                return self._only(
                    request,
                    GET=lambda asked: Answer(200, self._documents(asked).logon_session(self._live(session_id))),
                    DELETE=lambda _: self._log_off(session_id),
                )
            case ["tasks"]:
                return self._only(request, GET=lambda asked: self._list_tasks(asked, session))
            case ["tasks", task_id]:
                return self._only(
                    request,
                    GET=lambda asked: self._show_task(asked, session, task_id),
                    DELETE=lambda _: self._delete_task(session, task_id),
                )
            case ["query" | "querysvc" as kind]:
                shown = self._query if kind == "query" else self._show_queries
                return self._only(request, GET=lambda asked: shown(asked, session))
            case [kind, *rest] if kind in {"jobs", "repositories", *TYPES}:
                return self._inventory(request, session, kind, rest)
        raise RefusalError(404, f"There is no resource {request.path}.")

    def _inventory(self, request: Request, session: Session, kind: str, rest: list[str]) -> Answer:
        if self._behaviour.role == "Restore Operator":
            raise RefusalError(403, ACCESS_DENIED)
        if kind == "jobs":
            return self._jobs(request, session, rest)
        return self._repositories(request, rest) if kind == "repositories" else self._resources(request, kind, rest)

    def _jobs(self, request: Request, session: Session, rest: list[str]) -> Answer:
        match rest:
            case []:
                return self._only(request, GET=self._list_jobs)
            case [job_id]:
                return self._only(
                    request,
                    GET=lambda asked: self._show_job(asked, self._job(job_id)),
                    POST=lambda asked: self._act(asked, session, self._job(job_id)),
                )
            case [job_id, "includes" | "backupsessions" as kind]:
                listed = self._list_includes if kind == "includes" else self._list_sessions_of
                return self._only(request, GET=lambda asked: listed(asked, self._job(job_id)))
            case [job_id, "linkedjobs"]:
                return self._only(
                    request,
                    GET=lambda asked: self._list_linked_jobs(asked, self._job(job_id)),
                    POST=lambda asked: self._link_job(asked, session, self._job(job_id)),
                )
            case [job_id, "linkedbackuprepositories"]:
                return self._only(
                    request,
                    GET=lambda asked: self._list_links(asked, self._job(job_id)),
                    POST=lambda asked: self._link(asked, session, self._job(job_id)),
                )
            case [job_id, "linkedbackuprepositories" | "linkedjobs" as kind, link_id]:
                return self._only(
                    request, DELETE=lambda asked: self._unlink(asked, session, self._job(job_id), kind, bare(link_id))
                )
        raise RefusalError(404, f"There is no resource {request.path}.")

    def _only(self, request: Request, **methods: Callable[[Request], Answer]) -> Answer:
        if request.method not in methods:
            allowed = ", ".join(methods)
            raise RefusalError(405, f"The method {request.method} is not allowed.", {"Allow": allowed})
        return methods[request.method](request)

    # --- logon sessions ---

    def _front_page(self, request: Request) -> Answer:
        return Answer(200, self._documents(request).enterprise_manager())

    def _log_on(self, request: Request) -> Answer:
        if request.query.get("v", "latest") not in {"latest", *VERSIONS}:
            raise unauthorized()
        if not self._account.matches(request.authorization):
            raise unauthorized()
        self._make_room_for_session()
        session = self._state.log_on(self._account.username)
        return Answer(
            201,
            self._documents(request).logon_session(session),
            {SESSION_HEADER: session.token, "Set-Cookie": f"{SESSION_HEADER}={session.token}; Path=/api;"},
        )

    def _make_room_for_session(self) -> None:
        cap, live = self._behaviour.session_cap, self._state.live_sessions()
        if cap is None or len(live) < cap:
            return
        if self._behaviour.beyond_session_cap != "oldest_ends":
            raise RefusalError(int(self._behaviour.beyond_session_cap), "The maximum number of sessions is reached.")
        for session in live[: len(live) - cap + 1]:
            self._state.log_off(session)

    def _list_sessions(self, request: Request) -> Answer:
        return Answer(200, self._documents(request).logon_sessions(self._state.live_sessions()))

    def _log_off(self, session_id: str) -> Answer:
        self._state.log_off(self._live(session_id))
        return Answer(204)

    def _live(self, session_id: str) -> Session:
        for session in self._state.live_sessions():
            if session.id == session_id:
                return session
        raise self._absent(f"Cannot find logon session [{session_id}]")

    # --- tasks ---

    def _list_tasks(self, request: Request, session: Session) -> Answer:
        now = self._state.now()
        tasks = [(task, task.look(now)) for task in self._state.tasks_of(session)]
        return Answer(200, self._documents(request).tasks(tasks))

    def _show_task(self, request: Request, session: Session, task_id: str) -> Answer:
        return Answer(200, self._task_document(request, self._task(session, task_id)))

    def _delete_task(self, session: Session, task_id: str) -> Answer:
        self._state.delete_task(session, self._task(session, task_id))
        return Answer(204)

    def _task(self, session: Session, task_id: str) -> Task:
        task = self._state.task_of(session, task_id)
        if task is None:
            raise self._absent(f"Cannot find task [{task_id}]")
        return task

    def _task_document(self, request: Request, task: Task) -> Element:
        return self._documents(request).task(task, task.look(self._state.now()))

    # --- jobs ---

    def _job(self, job_id: str) -> Job:
        return self._state.job(bare(job_id))

    def _list_jobs(self, request: Request) -> Answer:
        documents, jobs = self._documents(request), self._state.jobs.values()
        if as_entity(request):
            return Answer(200, documents.jobs((job, self._state.listed(job)) for job in jobs))
        return self._references(request, "jobs", jobs)

    def _references(self, request: Request, path: str, found: Iterable[Job | Repository]) -> Answer:
        documents = self._documents(request)
        if not self._behaviour.pages_of_collections:
            return Answer(200, documents.references(found))
        try:
            page, paging = page_of(list(found), request.query, self._behaviour.page_size)
        except QueryInvalidError as problem:
            raise RefusalError(400, str(problem)) from problem
        return Answer(200, documents.page_of_references(path, page, paging))

    def _show_job(self, request: Request, job: Job) -> Answer:
        documents = self._documents(request)
        if as_entity(request):
            return Answer(200, documents.job(job, self._state.listed(job)))
        return Answer(200, documents.job_reference(job))

    def _list_links(self, request: Request, job: Job) -> Answer:
        behaviour = self._behaviour
        shown: str = "listed" if job.is_copy_job else behaviour.links_of_other_jobs
        if job.job_type == LEGACY_COPY_JOB:
            shown = behaviour.links_of_legacy_copy_jobs
        if shown not in {"listed", "empty"}:
            raise RefusalError(int(shown), f"Job {job.name} is not a backup copy job with linked repositories.")
        links = self._state.listed(job).repositories if shown == "listed" else ()
        return Answer(200, self._documents(request).linked_repositories(job, links))

    def _link(self, request: Request, session: Session, job: Job) -> Answer:
        self._require_editable(job)
        repository_uid = posted_uid(request.body, "LinkedBackupRepositoryUid", "Repository")
        if repository_uid not in self._state.repositories:
            raise self._absent(f"Cannot find repository [{repository_uid}]")
        link = LinkedRepository(self._state.new_id(), repository_uid)
        task = self._state.edit(session, job, Change.ADD, link, request.fault)
        return self._accepted(request, task)

    def _unlink(self, request: Request, session: Session, job: Job, kind: str, link_id: str) -> Answer:
        self._require_editable(job)
        self._state.now()
        link = job.linked.link(link_id)
        if isinstance(link, LinkedJob) is not (kind == "linkedjobs"):
            link = None  # the ID is that of a link of the other kind
        if link is None and self._behaviour.absent_link == "404":
            what = "job" if kind == "linkedjobs" else "repository"
            raise RefusalError(404, f"Cannot find linked {what} [{link_id}]")
        if link is not None and len(job.linked.sources) == 1 and self._behaviour.only_link == "400":
            raise RefusalError(400, f"Unable to remove the last source of job {job.name}.")
        named = link or LinkedRepository(link_id if job.linked.link(link_id) is None else self._state.new_id(), "")
        return self._accepted(request, self._state.edit(session, job, Change.REMOVE, named, request.fault))

    def _list_includes(self, request: Request, _job: Job) -> Answer:
        return Answer(200, self._documents(request).includes())

    def _list_sessions_of(self, request: Request, job: Job) -> Answer:
        documents, entities = self._documents(request), as_entity(request)
        return Answer(200, documents.resources("BackupJobSession", sessions_of(job), entities=entities))

    def _list_linked_jobs(self, request: Request, job: Job) -> Answer:
        if not job.is_copy_job:
            raise RefusalError(400, f"Job {job.name} is not a backup copy job with linked jobs.")
        return Answer(200, self._documents(request).linked_jobs(job, self._state.listed(job).jobs))

    def _link_job(self, request: Request, session: Session, job: Job) -> Answer:
        self._require_editable(job)
        linked = self._state.job(posted_uid(request.body, "LinkedJobUid", "Job"))
        link = LinkedJob(self._state.new_id(), linked.id)
        return self._accepted(request, self._state.edit(session, job, Change.ADD, link, request.fault))

    def _act(self, request: Request, session: Session, job: Job) -> Answer:
        if self._behaviour.role != "Portal Administrator":
            raise RefusalError(403, ACCESS_DENIED)
        return self._accepted(request, actions.perform(self._state, session, job, request))

    def _require_editable(self, job: Job) -> None:
        if self._behaviour.role != "Portal Administrator":
            raise RefusalError(403, ACCESS_DENIED)
        if not job.is_copy_job:
            raise RefusalError(400, f"Job {job.name} is not a backup copy job.")
        if job.running and self._behaviour.running_job == "400":
            raise RefusalError(400, f"Job {job.name} is running and cannot be edited.")

    def _accepted(self, request: Request, task: Task) -> Answer:
        # As in the vendor's examples, the task in the response to an edit is Running, even if the edit has ended.
        documents, headers = self._documents(request), {}
        if self._behaviour.location_header == "always" or (
            self._behaviour.location_header == "post" and request.method == "POST"
        ):
            headers["Location"] = f"{documents.api}/tasks/{task.id}"
        if self._behaviour.accepted_body == "empty":
            return Answer(202, None, headers)
        return Answer(202, documents.task(task, "Running"), headers)

    # --- repositories and queries ---

    def _repositories(self, request: Request, rest: list[str]) -> Answer:
        documents, repositories = self._documents(request), self._state.repositories
        match rest:
            case []:
                found = repositories.values()
                if as_entity(request):
                    return self._only(request, GET=lambda _: Answer(200, documents.repositories(found)))
                return self._only(request, GET=lambda asked: self._references(asked, "repositories", found))
            case [uid] if bare(uid) in repositories:
                form = documents.repository if as_entity(request) else documents.repository_reference
                return self._only(request, GET=lambda _: Answer(200, form(repositories[bare(uid)])))
        raise self._absent(f"Cannot find repository [{'/'.join(rest)}]")

    def _resources(self, request: Request, kind: str, rest: list[str]) -> Answer:
        documents, entity = self._documents(request), as_entity(request)
        found = {resource.uid: resource for resource in resources(TYPES[kind], self._state)}
        match rest:
            case []:
                listed = documents.resources(TYPES[kind], list(found.values()), entities=entity)
                return self._only(request, GET=lambda _: Answer(200, listed))
            case [uid] if bare(uid) in found:
                shown = documents.resource(found[bare(uid)], entity=entity)
                return self._only(request, GET=lambda _: Answer(200, shown))
        raise self._absent(f"Cannot find {request.path}")

    def _show_queries(self, request: Request, session: Session) -> Answer:
        return Answer(200, self._documents(request).query_service(session))

    def _query(self, request: Request, session: Session) -> Answer:
        kind = request.query.get("type", "").lower()
        shown = self._behaviour.query_tasks if kind == "task" else "supported"
        if self._behaviour.query != "supported":
            shown = self._behaviour.query
        if shown != "supported":
            raise RefusalError(int(shown), "The query is not supported.")
        if kind != "task" and self._behaviour.role == "Restore Operator":
            raise RefusalError(403, ACCESS_DENIED)
        try:
            return Answer(200, answer_query(self._state, self._documents(request), session, request.query))
        except QueryInvalidError as problem:
            raise RefusalError(400, str(problem)) from problem

    def _documents(self, request: Request) -> FurtherDocuments:
        host = self._behaviour.links_host
        return FurtherDocuments(request.api if host is None else f"https://{host}/api", self._behaviour)
