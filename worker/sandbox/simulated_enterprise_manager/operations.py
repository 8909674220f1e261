"""The operations on a simulated Enterprise Manager that are not part of its API, in one table."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from pydantic import TypeAdapter

from worker.sandbox.simulated_enterprise_manager.behaviour import Behaviour
from worker.sandbox.simulated_enterprise_manager.faults import Fault, Faults
from worker.sandbox.simulated_enterprise_manager.model import (
    COPY_JOB,
    Linked,
    LinkedBackup,
    LinkedJob,
    LinkedRepository,
)
from worker.sandbox.simulated_enterprise_manager.server import RecordedRequest, Server
from worker.sandbox.simulated_enterprise_manager.state import DEFAULT_BACKUP_SERVER, State

_P = ParamSpec("_P")
_R = TypeVar("_R")

_FAULT = TypeAdapter(Fault)

#: The operations by name. They run in the process that has the state, under its lock; coroutines run on the server's
#: event loop.
OPERATIONS: dict[str, Callable[..., Any]] = {}


class AlreadyLinkedError(LookupError):
    """The repository is already linked to the job."""


@overload
def operation(
    method: Callable[Concatenate[Any, _P], Coroutine[Any, Any, _R]],
) -> Callable[Concatenate[Any, _P], _R]: ...
@overload
def operation(method: Callable[Concatenate[Any, _P], _R]) -> Callable[Concatenate[Any, _P], _R]: ...
def operation(method: Callable[..., Any]) -> Callable[..., Any]:
    """Add a method of `Simulation` to the table. A call of the method executes it in the process that has the state."""
    OPERATIONS[method.__name__] = method
    _, *names = inspect.signature(method).parameters

    @functools.wraps(method)
    def perform(simulation: Simulation, *positional: Any, **named: Any) -> Any:
        arguments = dict(zip(names, positional, strict=False)) | named
        return simulation._perform(method.__name__, **arguments)  # noqa: SLF001 - its own decorator

    return perform


class Simulation(ABC):
    """The operations on a simulated Enterprise Manager, callable from any thread. IDs are bare UUIDs.

    The bodies of the operations run in the process of the simulated Enterprise Manager. The attributes
    exist only there.
    """

    _state: State
    _faults: Faults
    _server: Server
    _about: dict[str, str]

    @abstractmethod
    def _perform(self, operation: str, /, **arguments: Any) -> Any: ...

    # --- address and account ---

    @operation
    def about(self) -> dict[str, str]:
        """Its `url`, `ca_file` and `username`; with the program of its own, also `password_file`."""
        return self._about

    @property
    def url(self) -> str:
        """The URL, such as `https://localhost:12345`."""
        return self.about()["url"]

    @property
    def ca_file(self) -> Path:
        """The CA certificate with which a client verifies the server, PEM."""
        return Path(self.about()["ca_file"])

    @property
    def username(self) -> str:
        """The user name of the account that may log on."""
        return self.about()["username"]

    @property
    @abstractmethod
    def password(self) -> str:
        """The password of that account."""

    # --- contents ---

    @operation
    def add_repository(self, name: str, uid: str | None = None, backup_server: str = DEFAULT_BACKUP_SERVER) -> str:
        """Add a repository. Returns its UID."""
        return self._state.add_repository(name, uid, backup_server)

    @operation
    def add_job(
        self,
        *,
        name: str,
        links: Sequence[str | LinkedRepository] = (),
        job_type: str = COPY_JOB,
        platform: str = "VMware",
        linked_backups: Sequence[str | LinkedBackup] = (),
        linked_jobs: Sequence[str] = (),
        id: str | None = None,  # noqa: A002 - what it is called everywhere else
        backup_server: str = DEFAULT_BACKUP_SERVER,
    ) -> str:
        """Add a job. Returns its ID.

        Args:
            name: need not be unique.
            links: linked repositories, each by its UID, or as a `LinkedRepository` with the link's ID. Repositories
                that do not exist are added.
            job_type: `ImmediateBackupCopy`, `BackupCopy` (made in 11a or earlier), `Backup`, `Replica`, ...
            platform: `VMware`, `Hyperv`, `vCloud`, or `CustomPlatform` as in the vendor's examples of copy jobs.
            linked_backups: backups that any edit drops, each by its UID, or as a `LinkedBackup` with the link's ID.
            linked_jobs: the IDs of jobs from which it copies.
            id: a random one if it is left out.
            backup_server: the name of the backup server that it is configured on.
        """
        new_id = self._state.new_id
        return self._state.add_job(
            name,
            job_id=id,
            job_type=job_type,
            platform=platform,
            backup_server=backup_server,
            links=[self._known(LinkedRepository(new_id(), link) if isinstance(link, str) else link) for link in links],
            linked_backups=[
                LinkedBackup(new_id(), backup) if isinstance(backup, str) else backup for backup in linked_backups
            ],
            linked_jobs=[LinkedJob(new_id(), job) for job in linked_jobs],
        )

    @operation
    def set_running(self, job_id: str, *, running: bool = True) -> None:
        """Let a job start running, or stop."""
        self._state.set_running(job_id, running=running)

    @operation
    def links(self, job_id: str) -> list[LinkedRepository]:
        """The repositories that are linked to a job now, even if its list lags behind."""
        return list(self._linked(job_id).repositories)

    @operation
    def linked_jobs(self, job_id: str) -> list[LinkedJob]:
        """The jobs that are linked to a job now, even if its list lags behind."""
        return list(self._linked(job_id).jobs)

    @operation
    def linked_backups(self, job_id: str) -> list[LinkedBackup]:
        """The backups that are linked to a job now, even if its entity lags behind."""
        return list(self._linked(job_id).backups)

    @operation
    def add_link(self, job_id: str, repository_uid: str, object_in_job_id: str | None = None) -> str:
        """Link a repository at once, as another user does in the console. Returns the new link's ID."""
        return self._link(job_id, repository_uid, object_in_job_id)

    @operation
    def put_back(self, job: str, repository: str, backup_server: str | None = None) -> str:
        """Link a repository to a job at once, both by ID or name. Returns the new link's ID.

        Args:
            job: its ID or name.
            repository: its UID or name, on the job's backup server.
            backup_server: the job's backup server; needed if several jobs have the name.

        Raises:
            LookupError: there is no such job or repository, or several; or the repository is linked already.
            ControlFailedError: the same, raised instead by `SimulationControl`.
        """
        found_job = self._state.job_called(job, backup_server)
        found_repository = self._state.repository_called(repository, found_job.backup_server)
        if any(link.repository_uid == found_repository.uid for link in found_job.linked.repositories):
            raise AlreadyLinkedError(f"{repository} is linked to {job}")
        return self._link(found_job.id, found_repository.uid, None)

    @operation
    def remove_link(self, job_id: str, object_in_job_id: str) -> None:
        """Remove a link at once, as another user does in the console. This drops the job's linked backups too."""
        self._state.relink(job_id, self._linked(job_id).without(object_in_job_id).without_backups())

    @property
    @operation
    def departures(self) -> dict[str, float]:
        """The time of each link's removal, by `time.monotonic`, by the link's ID; only of a job's last 200 changes.

        All processes of a machine share the monotonic clock.
        """
        return self._state.departures()

    @operation
    def departures_since(self, monotonic: float) -> dict[str, float]:
        """Those of `departures` that are not before this time."""
        return {link_id: at for link_id, at in self._state.departures().items() if at >= monotonic}

    def _linked(self, job_id: str) -> Linked:
        self._state.now()
        return self._state.job(job_id).linked

    def _link(self, job_id: str, repository_uid: str, object_in_job_id: str | None) -> str:
        link = self._known(LinkedRepository(object_in_job_id or self._state.new_id(), repository_uid))
        self._state.relink(job_id, self._linked(job_id).plus(link))
        return link.object_in_job_id

    def _known(self, link: LinkedRepository) -> LinkedRepository:
        """Return the link, after adding its repository if that is unknown."""
        if link.repository_uid not in self._state.repositories:
            self._state.add_repository(f"Repository {len(self._state.repositories) + 1}", link.repository_uid)
        return link

    # --- behaviour and faults ---

    @property
    @operation
    def behaviour(self) -> Behaviour:
        """All switches. Setting a field changes the switch at once."""
        return self._state.behaviour

    @operation
    def change_behaviour(self, /, **changes: Any) -> None:
        """Set several switches at once. Events that were due before are executed first, by the old values.

        Raises:
            UnknownBehaviourError: for a field that does not exist or a value that it cannot have.
        """
        self._state.now()
        self._state.behaviour.change(**changes)

    @operation
    def inject(self, fault: Fault) -> None:
        """Inject a fault into the next requests that match. If several faults match, the oldest is used."""
        self._faults.add(_FAULT.validate_python(asdict(fault)))

    @property
    @operation
    def faults(self) -> list[Fault]:
        """The faults that are still injected into requests."""
        return self._faults.left()

    @operation
    def clear_faults(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    # --- sessions and the listener ---

    @property
    @operation
    def sessions(self) -> list[str]:
        """The IDs of the logon sessions that have not ended."""
        return [session.id for session in self._state.live_sessions()]

    @operation
    def expire_sessions(self) -> None:
        """End all logon sessions, as if they had been idle for too long."""
        self._state.forget_sessions()

    @operation
    async def refuse_connections(self) -> None:
        """Reset every connection and accept none."""
        await self._server.close()

    @operation
    async def accept_connections(self) -> None:
        """Accept connections again, on the same port."""
        await self._server.open()

    @operation
    async def restart(self) -> None:
        """Reset every connection and forget all sessions and tasks. Edits continue on the backup server."""
        await self._server.close()
        with self._state.lock:
            self._state.forget_sessions()
        await self._server.open()

    # --- recorded requests ---

    @property
    @operation
    def requests(self) -> list[RecordedRequest]:
        """All recorded requests, in the order of their arrival."""
        return self._server.requests()

    @operation
    def count(self, method: str = "", path: str = "") -> int:
        """The number of recorded requests with this method (empty: any) and this text in their path."""
        return sum(
            method in {"", request.method} and path.lower() in request.path.lower()
            for request in self._server.requests()
        )

    def deletes_of(self, object_in_job_id: str) -> int:
        """The number of DELETEs of this link, whatever their answers were."""
        return self.count("DELETE", f"/linkedBackupRepositories/{object_in_job_id}")

    @operation
    def forget_requests(self) -> None:
        """Delete the recorded requests."""
        self._server.forget_requests()
