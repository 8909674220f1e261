"""The state of one Enterprise Manager, with one clock and one lock."""

from __future__ import annotations

import base64
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from worker.sandbox.simulated_enterprise_manager.behaviour import Behaviour
from worker.sandbox.simulated_enterprise_manager.edits import Edits
from worker.sandbox.simulated_enterprise_manager.faults import Fault
from worker.sandbox.simulated_enterprise_manager.model import (
    COPY_JOB,
    Change,
    Edit,
    Ending,
    Job,
    Linked,
    LinkedBackup,
    LinkedJob,
    LinkedRepository,
    Repository,
    Run,
    Session,
    Task,
)

#: The job and the link of the vendor's example (helpcenter, "DELETE /jobs/{ID}/linkedBackupRepositories/{ID}").
VENDOR_JOB_ID = "d1b85018-2769-45be-89bc-03f66b60e6cb"
VENDOR_LINK_ID = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"
VENDOR_JOB_NAME = "Backup Copy Job - Branch Office"
#: That page does not name the repository. This one is from the vendor's page on POST.
VENDOR_REPOSITORY_UID = "5ef453b0-f3c3-4fe7-be52-2106b6d79ca6"
VENDOR_REPOSITORY_NAME = "Branch Office Repository"

DEFAULT_BACKUP_SERVER = "vbr01.corp.example"


class NotThereError(LookupError):
    """There is no such job, repository or link, or there are several."""


class State:
    """Jobs, repositories, sessions and their tasks. Hold `lock` during a group of calls that belong together.

    Args:
        behaviour: the behaviour, which may be changed later.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, behaviour: Behaviour, clock: Callable[[], float] = time.monotonic) -> None:
        self.behaviour = behaviour
        self.lock = threading.RLock()
        self.jobs: dict[str, Job] = {}
        self.repositories: dict[str, Repository] = {}
        self.sessions: dict[str, Session] = {}
        self._clock = clock
        self._edits = Edits(behaviour)
        self._edit_of_task: dict[Task, Edit] = {}
        self.add_repository(VENDOR_REPOSITORY_NAME, VENDOR_REPOSITORY_UID)
        self.add_job(
            VENDOR_JOB_NAME, job_id=VENDOR_JOB_ID, links=[LinkedRepository(VENDOR_LINK_ID, VENDOR_REPOSITORY_UID)]
        )

    def now(self) -> float:
        """The clock's time. All events that are due by then are executed first."""
        now = self._clock()
        self._edits.advance(now)
        return now

    def new_id(self) -> str:
        """A new UUID."""
        return str(uuid.uuid4())

    # --- jobs and repositories ---

    def add_repository(self, name: str, uid: str | None = None, backup_server: str = DEFAULT_BACKUP_SERVER) -> str:
        """Add a repository, or replace the one with this UID. Returns its UID."""
        uid = uid or self.new_id()
        self.repositories[uid] = Repository(uid, name, backup_server)
        return uid

    def add_job(
        self,
        name: str,
        *,
        job_id: str | None = None,
        job_type: str = COPY_JOB,
        platform: str = "VMware",
        backup_server: str = DEFAULT_BACKUP_SERVER,
        links: Sequence[LinkedRepository] = (),
        linked_backups: Sequence[LinkedBackup] = (),
        linked_jobs: Sequence[LinkedJob] = (),
    ) -> str:
        """Add a job, or replace the one with this ID. Returns its ID."""
        job_id = job_id or self.new_id()
        linked = Linked(tuple(links), tuple(linked_backups), tuple(linked_jobs))
        self.jobs[job_id] = Job(job_id, name, job_type, platform, backup_server, linked)
        return job_id

    def job(self, job_id: str) -> Job:
        """The job with that ID.

        Raises:
            NotThereError: there is none.
        """
        if job_id not in self.jobs:
            raise NotThereError(f"Cannot find job [{job_id}]")
        return self.jobs[job_id]

    def job_called(self, name: str, backup_server: str | None = None) -> Job:
        """The job with that ID or name, on that backup server if it is given.

        Raises:
            NotThereError: there is none, or there are several.
        """
        found = [
            job
            for job in self.jobs.values()
            if name in {job.id, job.name} and backup_server in {None, job.backup_server}
        ]
        if len(found) != 1:
            raise NotThereError(_not_one("job", name, [job.backup_server for job in found]))
        return found[0]

    def repository_called(self, name: str, backup_server: str) -> Repository:
        """The repository with that UID or name on a backup server.

        Raises:
            NotThereError: there is none, or there are several.
        """
        found = [
            repository
            for repository in self.repositories.values()
            if name in {repository.uid, repository.name} and repository.backup_server == backup_server
        ]
        if len(found) != 1:
            raise NotThereError(_not_one("repository", name, [repository.backup_server for repository in found]))
        return found[0]

    def listed(self, job: Job) -> Linked:
        """The job's links as lists show them: the links of `list_lag_seconds` ago."""
        return job.linked_as_of(self.now() - self.behaviour.list_lag_seconds)

    def departures(self) -> dict[str, float]:
        """The time at which each removed link was removed, by the clock; only for the latest changes of each job."""
        self.now()
        return {link_id: at for job in self.jobs.values() for link_id, at in job.departures()}

    def set_running(self, job_id: str, *, running: bool) -> None:
        """Start or stop the run of a job. When it stops, a waiting edit begins."""
        now, job = self.now(), self.job(job_id)
        if running and not job.running:
            job.runs.append(Run(self.new_id(), datetime.now(UTC)))
        elif job.running and not running:
            job.runs[-1].ended = datetime.now(UTC)
        job.running = running
        if not running:
            self._edits.job_stopped_running(job, now)

    def relink(self, job_id: str, linked: Linked) -> None:
        """Change a job's links immediately, as another user does in the console."""
        self.job(job_id).relink(linked, self.now())

    # --- sessions ---

    def log_on(self, username: str) -> Session:
        """Begin a session."""
        now = self.now()
        token = base64.b64encode(self.new_id().encode()).decode()
        session = Session(self.new_id(), token, username, now, now)
        self.sessions[token] = session
        return session

    def session_of(self, token: str | None) -> Session | None:
        """The session with that token, or None if it has ended. The call restarts the session's idle time."""
        now = self.now()
        session = self.sessions.get(token or "")
        if session is None:
            return None
        if now - session.last_used_at > self.behaviour.session_idle_seconds:
            self.log_off(session)
            return None
        session.last_used_at = now
        return session

    def live_sessions(self) -> list[Session]:
        """All sessions that have not expired, the oldest first."""
        oldest = self.now() - self.behaviour.session_idle_seconds
        return [session for session in self.sessions.values() if session.last_used_at >= oldest]

    def log_off(self, session: Session) -> None:
        """End a session. Its tasks can no longer be read, and their edits continue."""
        self.sessions.pop(session.token, None)
        for task in session.tasks.values():
            self._edit_of_task.pop(task, None)

    def forget_sessions(self) -> None:
        """End all sessions."""
        for session in list(self.sessions.values()):
            self.log_off(session)

    # --- tasks ---

    def edit(
        self, session: Session, job: Job, change: Change, link: LinkedRepository | LinkedJob, fault: Fault | None
    ) -> Task:
        """Begin an edit of a job. Returns its task."""
        now = self.now()
        task = self._begin(session, "UpdateJob")
        edit = Edit(job, change, link, task, self.behaviour.edit_seconds)
        if job.running and self.behaviour.running_job == "task_fails":
            edit.ending, edit.failure = Ending.FAILURE, f"Job {job.name} is running and cannot be edited."
        if fault is not None and fault.kind == "task_fails":
            edit.ending, edit.failure = Ending.FAILURE, fault.message
        if fault is not None and fault.kind == "task_hangs":
            edit.ending = Ending.NEVER
        self._edit_of_task[task] = edit
        self._edits.submit(edit, now)
        return task

    def done(self, session: Session, operation: str) -> Task:
        """The task of an operation that is done at once."""
        now = self.now()
        task = self._begin(session, operation)
        task.operation_ended_at = task.finished_at = now
        task.success, task.message = True, "Ok"
        return task

    def _begin(self, session: Session, operation: str) -> Task:
        session.tasks_begun += 1
        task = Task(f"task-{session.tasks_begun}", operation, "")
        session.tasks[task.id] = task
        return task

    def tasks_of(self, session: Session) -> list[Task]:
        """The session's tasks, the oldest first, without those that are no longer kept."""
        now, kept = self.now(), self.behaviour.finished_task_kept_seconds
        if kept is not None:
            for task in list(session.tasks.values()):
                if task.finished_at is not None and now - task.finished_at > kept:
                    self._forget(session, task)
        return list(session.tasks.values())

    def task_of(self, session: Session, task_id: str) -> Task | None:
        """The session's task with that ID; None if there is none, or if it is no longer kept."""
        if self.behaviour.finished_task_kept_seconds is not None:
            self.tasks_of(session)
        return session.tasks.get(task_id)

    def delete_task(self, session: Session, task: Task) -> None:
        """Stop a task, forget it, or both, as `Behaviour.task_delete` says."""
        now, edit = self.now(), self._edit_of_task.get(task)
        if self.behaviour.task_delete == "stops_and_fails" and edit is not None and task.operation_ended_at is None:
            self._edits.stop(edit, now)
            task.operation_ended_at = task.finished_at = now
            task.success, task.message = False, "The operation was stopped by the user."
            return
        if self.behaviour.task_delete == "stops_and_forgets" and edit is not None:
            self._edits.stop(edit, now)
        self._forget(session, task)

    def _forget(self, session: Session, task: Task) -> None:
        session.tasks.pop(task.id, None)
        self._edit_of_task.pop(task, None)


def _not_one(kind: str, name: str, backup_servers: Sequence[str]) -> str:
    if not backup_servers:
        return f"There is no {kind} {name}"
    return f"There are several: {kind} {name} on {', '.join(backup_servers)}"
