"""What Enterprise Manager knows: jobs and their links, repositories, logon sessions, tasks, edits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import pairwise
from typing import Final

#: Job types that have linked repositories [doc]: the second was made in 11a or earlier.
COPY_JOB = "ImmediateBackupCopy"
LEGACY_COPY_JOB = "BackupCopy"

RUNNING: Final = "Running"
OPERATION_FINISHED: Final = "OperationFinished"
FINISHED: Final = "Finished"

#: How many past states of a job's links are remembered, for lists that lag.
_HISTORY_LENGTH = 200


@dataclass(frozen=True, slots=True)
class LinkedRepository:
    """A repository's link to a job. IDs are bare UUIDs."""

    object_in_job_id: str
    repository_uid: str


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
    """All that is linked to a job at one instant."""

    repositories: tuple[LinkedRepository, ...] = ()
    backups: tuple[LinkedBackup, ...] = ()

    def link(self, object_in_job_id: str) -> LinkedRepository | None:
        """The link of that ID."""
        return next((link for link in self.repositories if link.object_in_job_id == object_in_job_id), None)

    def without(self, object_in_job_id: str) -> Linked:
        """The same with that link left out."""
        kept = (link for link in self.repositories if link.object_in_job_id != object_in_job_id)
        return Linked(tuple(kept), self.backups)

    def plus(self, link: LinkedRepository) -> Linked:
        """The same with one more link."""
        return Linked((*self.repositories, link), self.backups)


@dataclass(slots=True, eq=False)
class Job:
    """A job, with what was linked to it and when."""

    id: str
    name: str
    job_type: str
    platform: str
    backup_server: str
    linked: Linked
    running: bool = False
    edits: deque[Edit] = field(default_factory=deque)
    history: deque[tuple[float, Linked]] = field(default_factory=lambda: deque(maxlen=_HISTORY_LENGTH))

    @property
    def is_copy_job(self) -> bool:
        """Whether it is of a type that has linked repositories."""
        return self.job_type in {COPY_JOB, LEGACY_COPY_JOB}

    def relink(self, linked: Linked, at: float) -> None:
        """Let this be linked from that instant on."""
        self.history.append((at, self.linked))
        self.linked = linked

    def linked_as_of(self, instant: float) -> Linked:
        """What was linked at that instant."""
        return next((before for until, before in self.history if instant < until), self.linked)

    def departures(self) -> Iterator[tuple[str, float]]:
        """Each link that went, and when."""
        states = [*self.history, (0.0, self.linked)]
        for (at, before), (_, after) in pairwise(states):
            for link in before.repositories:
                if after.link(link.object_in_job_id) is None:
                    yield link.object_in_job_id, at


class Change(Enum):
    """What an edit does to a job's linked repositories."""

    REMOVE = auto()
    ADD = auto()


class Ending(Enum):
    """What becomes of an edit."""

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
        """Its state, without counting a look."""
        if self.operation_ended_at is None:
            return RUNNING
        collected = self.finished_at is not None and now >= self.finished_at
        if not collected or self.looks_left.get(OPERATION_FINISHED, 0) > 0:
            return OPERATION_FINISHED
        return next((state for state, looks in self.looks_left.items() if looks > 0), FINISHED)

    def look(self, now: float) -> str:
        """Its state as one more client sees it."""
        state = self.state_at(now)
        if self.looks_left.get(state, 0) > 0:
            self.looks_left[state] -= 1
        return state


@dataclass(slots=True, eq=False)
class Edit:
    """A change of a job on its way, with the behaviour that it was started under."""

    job: Job
    change: Change
    link: LinkedRepository
    task: Task
    seconds: float
    ending: Ending = Ending.SUCCESS
    failure: str = ""
    begun: bool = False
    stopped: bool = False
    #: What it read when it began, if it writes that back.
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
