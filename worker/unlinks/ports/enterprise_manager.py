"""Enterprise Manager, and every error that it may raise.

EnterpriseManagerError
+-- Unavailable      nothing was done, and nothing is known; try again when it is back
+-- NotSent          the DELETE was not written: its last moment had passed when the connection was ready
+-- AnswerLost       a DELETE may have arrived; the links decide
+-- LinkNotFound     the DELETE was answered with 404
+-- TaskNotFound     this logon session knows no such task
+-- Refused          definitely refused, with the reason code for the event
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contracts.commands import JobReference, RepositoryReference
    from contracts.events import ReasonCode


class EnterpriseManagerError(Exception):
    """Enterprise Manager did not do what was asked."""


class Unavailable(EnterpriseManagerError):  # noqa: N818 - the tree above reads as what happened
    """Nothing was done and nothing is known: unreachable, overloaded, or it refuses the logon. Try when it is back."""


class NotSent(EnterpriseManagerError):  # noqa: N818 - as above
    """The DELETE was certainly not written: its last moment had passed when the connection was ready."""


class AnswerLost(EnterpriseManagerError):  # noqa: N818 - as above
    """A DELETE left, and no answer that can be read came back: it may have been carried out."""


class LinkNotFound(EnterpriseManagerError):  # noqa: N818 - as above
    """The DELETE was answered with 404: there is no such link, or no such job."""


class TaskNotFound(EnterpriseManagerError):  # noqa: N818 - as above
    """The present logon session knows no such task: it belongs to another session, or was forgotten."""


class Refused(EnterpriseManagerError):  # noqa: N818 - as above
    """Definitely refused. Nothing was done."""

    def __init__(self, code: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Job:
    """A job, with its bare lower-case UUID.

    `linked_backups` and `links` are set if they were read with it; `read_at` is by `Clock.monotonic`. See
    `EnterpriseManager.linked_backups` and `EnterpriseManager.links_read_with`.
    """

    id: str
    name: str | None
    linked_backups: tuple[LinkedBackup, ...] | None = field(default=None, compare=False)
    read_at: float = field(default=float("-inf"), compare=False)
    links: tuple[Link, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Link:
    """A repository's link to a job. A repository that is unlinked and linked again has another `object_in_job_id`."""

    object_in_job_id: str
    repository_uid: str
    repository_name: str | None = None


@dataclass(frozen=True, slots=True)
class LinkedBackup:
    """A backup linked to a copy job, dropped by any edit of the job."""

    object_in_job_id: str
    uid: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class TaskTicket:
    """A task's ID together with the logon session in which it is valid (a name made here, not secret)."""

    task_id: str
    session: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task as last seen. `finished` only if its state is `Finished`; `success` is None if it has no result (yet)."""

    ticket: TaskTicket
    operation: str | None
    finished: bool
    success: bool | None
    message: str | None


class EnterpriseManager(Protocol):
    """One Enterprise Manager.

    Every call may raise `Unavailable`, after a few short retries of its own where that is safe.

    IDs are bare lower-case UUIDs.
    """

    async def find_job(self, reference: JobReference) -> Job:
        """The one backup copy job that the reference names.

        Raises:
            Refused: job_not_found, job_ambiguous, not_a_copy_job, access_denied, enterprise_manager_error.
        """
        ...

    async def find_repository(self, reference: RepositoryReference) -> str:
        """The UID of the one repository that the reference names (`uid` as it is, `name` looked up; never `link_id`).

        Raises:
            Refused: repository_not_found, repository_ambiguous, access_denied, enterprise_manager_error.
        """
        ...

    async def repository_name(self, uid: str) -> str | None:
        """The name of a repository, for people; None if it is not known within a moment. Raises no error."""
        ...

    async def links(self, job_id: str) -> Sequence[Link]:
        """The repositories linked to the job, by its list now. The list may lag behind a finished task.

        Raises:
            Refused: job_not_found, access_denied, enterprise_manager_error.
        """
        ...

    def links_read_with(self, job: Job) -> Sequence[Link]:
        """The linked repositories that `find_job` has just read with the job; none if an edit may have come since.

        Nothing may be concluded from a link that is not among them: `links` decides that.
        """
        ...

    async def linked_backups(self, job: Job) -> Sequence[LinkedBackup]:
        """The linked backups that any edit of the job drops.

        Those that `find_job` has just read with the job, unless an edit may have come since.

        Raises:
            Refused: job_not_found, access_denied, enterprise_manager_error (also where the answer does not say).
        """
        ...

    async def delete_link(
        self,
        job_id: str,
        object_in_job_id: str,
        may_send: Callable[[], Awaitable[float]],
        unsent: Callable[[], None] = lambda: None,
    ) -> Task:
        """Send the DELETE once. It is repeated here only if it was certainly not carried out.

        `may_send` is awaited when logon session, request slot, thread and connection are ready, before each attempt. It
        returns the last moment, by `Clock.monotonic`, at which the DELETE may be written; the moment is compared once
        more directly before the write. What `may_send` raises is raised here, and then no DELETE was carried out.

        `unsent` is called when an attempt that was permitted was certainly not carried out and is to be repeated,
        before the wait for that. What it raises is raised here.

        This call may be cancelled until `may_send` has returned, and again from `unsent` until it has returned once
        more; then no DELETE is carried out. Otherwise it ends within 60 s, and a caller that cancels it does not learn
        whether the DELETE was carried out.

        Raises:
            NotSent: it was certainly not written, because the last moment had passed.
            Unavailable: it was certainly not carried out.
            AnswerLost: it may have been.
            LinkNotFound: answered with 404.
            Refused: access_denied, enterprise_manager_error.
        """
        ...

    def pause_before_task(self, ticket: TaskTicket) -> float:
        """The seconds to wait before the task is polled: until it is due, by the durations of others."""
        ...

    async def task(self, ticket: TaskTicket) -> Task:
        """Look at a task once.

        Raises:
            TaskNotFound: it is of another logon session, or forgotten.
            Refused: access_denied, enterprise_manager_error.
        """
        ...

    async def stop_task(self, ticket: TaskTicket) -> None:
        """Ask Enterprise Manager to stop the task, through its Delete link. The job's links show whether it stopped.

        Raises:
            TaskNotFound: it is of another logon session, or forgotten.
            Refused: access_denied, enterprise_manager_error.
        """
        ...

    async def until_available(self) -> None:
        """Return when calls may succeed again. Returns at once unless an earlier call raised `Unavailable`."""
        ...
