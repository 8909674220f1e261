"""What may be done to a simulated Enterprise Manager from outside of its API, in terms that JSON can carry."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from worker.sandbox.simulated_enterprise_manager.faults import Fault, Faults
from worker.sandbox.simulated_enterprise_manager.model import Linked, LinkedBackup, LinkedRepository

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from worker.sandbox.simulated_enterprise_manager.server import Server
    from worker.sandbox.simulated_enterprise_manager.state import State

_FAULT = TypeAdapter(Fault)


class AlreadyLinkedError(LookupError):
    """The repository is linked to the job already."""


class Operations:
    """The operations by name (`perform`). Those of the listener are coroutines of the server's event loop."""

    def __init__(self, state: State, faults: Faults, server: Server, about: dict[str, str]) -> None:
        self._state = state
        self._faults = faults
        self._server = server
        self._about = about

    def perform(self, operation: str, arguments: dict[str, Any]) -> Any:
        """Do it; what it returns, or a coroutine of what it returns.

        Raises:
            ValueError: there is no such operation.
            TypeError: it takes other arguments.
        """
        if operation.startswith("_") or operation == "perform" or not hasattr(Operations, operation):
            raise ValueError(f"there is no operation {operation}")
        with self._state.lock:
            return getattr(self, operation)(**arguments)

    # --- contents ---

    def about(self) -> dict[str, str]:
        """Where it is, and who may log on."""
        return self._about

    def add_repository(self, name: str, uid: str | None, backup_server: str) -> str:
        """Add a repository; its UID."""
        return self._state.add_repository(name, uid, backup_server)

    def add_job(self, links: list[list[str]], linked_backups: list[list[str]], **properties: Any) -> str:
        """Add a job; its ID."""
        return self._state.add_job(
            links=[self._new_link(*link) for link in links],
            linked_backups=[LinkedBackup(backup[0] or self._state.new_id(), backup[1]) for backup in linked_backups],
            **properties,
        )

    def set_running(self, job_id: str, *, running: bool) -> None:
        """Let a job start or stop running."""
        self._state.set_running(job_id, running=running)

    def links(self, job_id: str) -> list[list[str]]:
        """What is truly linked."""
        self._state.now()
        linked = self._state.job(job_id).linked
        return [[link.object_in_job_id, link.repository_uid] for link in linked.repositories]

    def linked_backups(self, job_id: str) -> list[list[str]]:
        """What backups are truly linked."""
        self._state.now()
        return [[backup.object_in_job_id, backup.uid] for backup in self._state.job(job_id).linked.backups]

    def add_link(self, job_id: str, repository_uid: str, object_in_job_id: str | None) -> str:
        """Link a repository at once, as somebody else does; the link's ID."""
        self._state.now()
        link = self._new_link(object_in_job_id or "", repository_uid)
        self._state.relink(job_id, self._state.job(job_id).linked.plus(link))
        return link.object_in_job_id

    def put_back(self, job: str, repository: str, backup_server: str | None = None) -> str:
        """Link a repository to a job as somebody does at the console, both by ID or name; the new link's ID.

        Raises:
            LookupError: no job or no repository is called so, or several are; or the repository is linked already.
        """
        found_job = self._state.job_called(job, backup_server)
        found_repository = self._state.repository_called(repository, found_job.backup_server)
        if any(link.repository_uid == found_repository.uid for link in found_job.linked.repositories):
            raise AlreadyLinkedError(f"{repository} is linked to {job}")
        return self.add_link(found_job.id, found_repository.uid, None)

    def remove_link(self, job_id: str, object_in_job_id: str) -> None:
        """Remove a link at once, as somebody else does; its linked backups too."""
        self._state.now()
        linked = self._state.job(job_id).linked.without(object_in_job_id)
        self._state.relink(job_id, Linked(linked.repositories))

    def departures(self) -> dict[str, float]:
        """When each link went that is there no more, by `time.monotonic`."""
        return self._state.departures()

    def _new_link(self, object_in_job_id: str, repository_uid: str) -> LinkedRepository:
        if repository_uid not in self._state.repositories:
            self._state.add_repository(f"Repository {len(self._state.repositories) + 1}", repository_uid)
        return LinkedRepository(object_in_job_id or self._state.new_id(), repository_uid)

    # --- behaviour and faults ---

    def behaviour(self) -> dict[str, Any]:
        """Every switch as it is."""
        return asdict(self._state.behaviour)

    def change_behaviour(self, changes: dict[str, Any]) -> None:
        """Set several switches, after all that was due under the old ones."""
        self._state.now()
        self._state.behaviour.change(**changes)

    def inject(self, fault: dict[str, Any]) -> None:
        """Let one fault wait for its requests."""
        self._faults.add(_FAULT.validate_python(fault))

    def faults(self) -> list[dict[str, Any]]:
        """The faults that still wait."""
        return [asdict(fault) for fault in self._faults.left()]

    def clear_faults(self) -> None:
        """Forget them."""
        self._faults.clear()

    # --- sessions and the listener ---

    def sessions(self) -> list[str]:
        """The IDs of the sessions that live."""
        return [session.id for session in self._state.live_sessions()]

    def expire_sessions(self) -> None:
        """End all sessions."""
        self._state.forget_sessions()

    def refuse_connections(self) -> Awaitable[None]:
        """Close the listener and every connection."""
        return self._server.close()

    def accept_connections(self) -> Awaitable[None]:
        """Open the listener again, on its port."""
        return self._server.open()

    async def restart(self) -> None:
        """Stop, forget sessions and with them tasks, start again. Edits go on at the backup server."""
        await self._server.close()
        with self._state.lock:
            self._state.forget_sessions()
        await self._server.open()

    # --- what was seen ---

    def requests(self) -> list[dict[str, Any]]:
        """All requests so far."""
        return [asdict(request) for request in self._server.requests()]

    def count(self, method: str, path: str) -> int:
        """How many were of this method (empty: any) with this in their path."""
        path = path.lower()
        return sum(
            1
            for request in self._server.requests()
            if (not method or request.method == method) and path in request.path.lower()
        )

    def forget_requests(self) -> None:
        """Count anew."""
        self._server.forget_requests()
