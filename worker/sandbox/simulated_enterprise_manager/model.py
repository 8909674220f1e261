"""The data of Enterprise Manager: jobs and their links, repositories, logon sessions, tasks, edits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from itertools import pairwise
from typing import Final

#: The job types that have linked repositories [doc]. Jobs of the second type were created in version 11a or earlier.
COPY_JOB = "ImmediateBackupCopy"
LEGACY_COPY_JOB = "BackupCopy"

RUNNING: Final = "Running"
OPERATION_FINISHED: Final = "OperationFinished"
FINISHED: Final = "Finished"

#: How many past states of a job's links are kept, for lists that lag behind.
_HISTORY_LENGTH = 200

#: How many runs of a job are kept.
_RUNS_LENGTH = 100


@dataclass(frozen=True, slots=True)
class LinkedRepository:
    """A repository's link to a job. IDs are bare UUIDs."""

    object_in_job_id: str
    repository_uid: str


@dataclass(frozen=True, slots=True)
class LinkedJob:
    """A job's link to a copy job, which copies from it. IDs are bare UUIDs."""

    object_in_job_id: str
    job_uid: str


@dataclass(frozen=True, slots=True)
class LinkedBackup:
    """A backup linked to a copy job. IDs are bare UUIDs."""

    object_in_job_id: str
    uid: str


@dataclass(frozen=True, slots=True)
class Repository:
    """A backup repository."""

    uid: str
    name: str
    backup_server: str


@dataclass(frozen=True, slots=True)
class Linked:
    """All repositories, backups and jobs that are linked to a job at one time."""

    repositories: tuple[LinkedRepository, ...] = ()
    backups: tuple[LinkedBackup, ...] = ()
    jobs: tuple[LinkedJob, ...] = ()

    @property
    def sources(self) -> tuple[LinkedRepository | LinkedJob, ...]:
        """The repositories and jobs from which the job copies."""
        return (*self.repositories, *self.jobs)

    def link(self, object_in_job_id: str) -> LinkedRepository | LinkedJob | None:
        """The link with that ID; None if there is none."""
        return next((link for link in self.sources if link.object_in_job_id == object_in_job_id), None)

    def without(self, object_in_job_id: str) -> Linked:
        """A copy without that link."""
        repositories = tuple(link for link in self.repositories if link.object_in_job_id != object_in_job_id)
        jobs = tuple(link for link in self.jobs if link.object_in_job_id != object_in_job_id)
        return Linked(repositories, self.backups, jobs)

    def without_backups(self) -> Linked:
        """A copy without linked backups."""
        return Linked(self.repositories, (), self.jobs)

    def plus(self, link: LinkedRepository | LinkedJob) -> Linked:
        """A copy with one more link."""
        if isinstance(link, LinkedJob):
            return Linked(self.repositories, self.backups, (*self.jobs, link))
        return Linked((*self.repositories, link), self.backups, self.jobs)


@dataclass(slots=True, eq=False)
class Run:
    """One run of a job: a backup session."""

    id: str
    began: datetime
    ended: datetime | None = None


@dataclass(slots=True, eq=False)
class Job:
    """A job, with its current links and their history."""

    id: str
    name: str
    job_type: str
    platform: str
    backup_server: str
    linked: Linked
    running: bool = False
    schedule_enabled: bool = True
    runs: deque[Run] = field(default_factory=lambda: deque(maxlen=_RUNS_LENGTH))
    edits: deque[Edit] = field(default_factory=deque)
    history: deque[tuple[float, Linked]] = field(default_factory=lambda: deque(maxlen=_HISTORY_LENGTH))

    @property
    def is_copy_job(self) -> bool:
        """Whether the job's type has linked repositories."""
        return self.job_type in {COPY_JOB, LEGACY_COPY_JOB}

    def relink(self, linked: Linked, at: float) -> None:
        """Replace the job's links from that time on."""
        self.history.append((at, self.linked))
        self.linked = linked

    def linked_as_of(self, instant: float) -> Linked:
        """The job's links at that time."""
        return next((before for until, before in self.history if instant < until), self.linked)

    def departures(self) -> Iterator[tuple[str, float]]:
        """The ID of each link that was removed, and the time of its removal."""
        states = [*self.history, (0.0, self.linked)]
        for (at, before), (_, after) in pairwise(states):
            for link in before.sources:
                if after.link(link.object_in_job_id) is None:
                    yield link.object_in_job_id, at


class Change(Enum):
    """What an edit does to a job's linked repositories."""

    REMOVE = auto()
    ADD = auto()


class Ending(Enum):
    """How an edit ends."""

    SUCCESS = auto()
    FAILURE = auto()
    NEVER = auto()


@dataclass(slots=True, eq=False)
class Task:
    """A task of one session. Its number counts from 1 in every session."""

    id: str
    operation: str
    message: str
    operation_ended_at: float | None = None
    finished_at: float | None = None
    success: bool | None = None
    looks_left: dict[str, int] = field(default_factory=dict)

    def state_at(self, now: float) -> str:
        """The task's state. Does not count as a read by a client."""
        if self.operation_ended_at is None:
            return RUNNING
        collected = self.finished_at is not None and now >= self.finished_at
        if not collected or self.looks_left.get(OPERATION_FINISHED, 0) > 0:
            return OPERATION_FINISHED
        return next((state for state, looks in self.looks_left.items() if looks > 0), FINISHED)

    def look(self, now: float) -> str:
        """The task's state for a client. Each read counts towards the `..._looks` switches of `Behaviour`."""
        state = self.state_at(now)
        if self.looks_left.get(state, 0) > 0:
            self.looks_left[state] -= 1
        return state


@dataclass(slots=True, eq=False)
class Edit:
    """A change of a job under way, with the behaviour at its start."""

    job: Job
    change: Change
    link: LinkedRepository | LinkedJob
    task: Task
    seconds: float
    ending: Ending = Ending.SUCCESS
    failure: str = ""
    begun: bool = False
    stopped: bool = False
    #: The job's links when the edit began, if the edit writes them back.
    read: Linked | None = None


@dataclass(slots=True, eq=False)
class Session:
    """A logon session. The token is a secret; the ID is not."""

    id: str
    token: str = field(repr=False)
    username: str
    started_at: float
    last_used_at: float
    tasks: dict[str, Task] = field(default_factory=dict)
    tasks_begun: int = 0
