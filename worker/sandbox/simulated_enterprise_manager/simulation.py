"""A simulated Enterprise Manager as its user holds it: in this process, or in another one through its control URL."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import tempfile
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.sandbox.certificates import LOOPBACK_NAMES, certificates_in
from worker.sandbox.processes.free_ports import LOOPBACK
from worker.sandbox.simulated_enterprise_manager.behaviour import Behaviour
from worker.sandbox.simulated_enterprise_manager.faults import Fault, Faults
from worker.sandbox.simulated_enterprise_manager.model import COPY_JOB, LinkedBackup, LinkedRepository
from worker.sandbox.simulated_enterprise_manager.operations import Operations
from worker.sandbox.simulated_enterprise_manager.routes import Account
from worker.sandbox.simulated_enterprise_manager.server import RecordedRequest, Server
from worker.sandbox.simulated_enterprise_manager.state import DEFAULT_BACKUP_SERVER, State

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

DEFAULT_USERNAME = "CORP\\unlink-worker"
DEFAULT_PASSWORD = "simulated"  # noqa: S105 - guards nothing but a simulation

#: How long the server's own thread may take to open or close its listener.
_PATIENCE_SECONDS = 10.0


class Simulation(ABC):
    """What can be done to a simulated Enterprise Manager, from any thread. IDs are bare UUIDs."""

    @abstractmethod
    def _perform(self, operation: str, **arguments: Any) -> Any: ...

    # --- where it is ---

    @property
    def url(self) -> str:
        """Such as `https://localhost:12345`."""
        return str(self._perform("about")["url"])

    @property
    def ca_file(self) -> Path:
        """What to verify its certificate against, PEM."""
        return Path(self._perform("about")["ca_file"])

    @property
    def username(self) -> str:
        """Who may log on."""
        return str(self._perform("about")["username"])

    @property
    @abstractmethod
    def password(self) -> str:
        """With what."""

    # --- contents ---

    def add_repository(self, name: str, uid: str | None = None, backup_server: str = DEFAULT_BACKUP_SERVER) -> str:
        """Add a repository; its UID."""
        return str(self._perform("add_repository", name=name, uid=uid, backup_server=backup_server))

    def add_job(
        self,
        *,
        name: str,
        links: Sequence[str | LinkedRepository] = (),
        job_type: str = COPY_JOB,
        platform: str = "VMware",
        linked_backups: Sequence[str | LinkedBackup] = (),
        id: str | None = None,  # noqa: A002 - what it is called everywhere else
        backup_server: str = DEFAULT_BACKUP_SERVER,
    ) -> str:
        """Add a job; its ID.

        Args:
            name: need not be unique.
            links: linked repositories, each by its UID, or with the link's own ID too. Unknown ones are added.
            job_type: `ImmediateBackupCopy`, `BackupCopy` (made in 11a or earlier), `Backup`, `Replica`, ...
            platform: `VMware`, `Hyperv` or `vCloud`.
            linked_backups: backups that any edit drops, each by its UID, or with its own ID too.
            id: a random one if it is left out.
            backup_server: the name of the backup server that it is configured on.
        """
        job_id = self._perform(
            "add_job",
            name=name,
            job_id=id,
            job_type=job_type,
            platform=platform,
            backup_server=backup_server,
            links=[["", one] if isinstance(one, str) else [one.object_in_job_id, one.repository_uid] for one in links],
            linked_backups=[
                ["", one] if isinstance(one, str) else [one.object_in_job_id, one.uid] for one in linked_backups
            ],
        )
        return str(job_id)

    def set_running(self, job_id: str, *, running: bool = True) -> None:
        """Let a job start running, or stop."""
        self._perform("set_running", job_id=job_id, running=running)

    def links(self, job_id: str) -> list[LinkedRepository]:
        """What is truly linked to a job now, whatever a lagging list shows."""
        return [LinkedRepository(*link) for link in self._perform("links", job_id=job_id)]

    def linked_backups(self, job_id: str) -> list[LinkedBackup]:
        """What backups are truly linked to a job now."""
        return [LinkedBackup(*backup) for backup in self._perform("linked_backups", job_id=job_id)]

    def add_link(self, job_id: str, repository_uid: str, object_in_job_id: str | None = None) -> str:
        """Link a repository at once, as somebody else does at the console; the new link's ID."""
        arguments = {"repository_uid": repository_uid, "object_in_job_id": object_in_job_id}
        return str(self._perform("add_link", job_id=job_id, **arguments))

    def put_back(self, job: str, repository: str, backup_server: str | None = None) -> str:
        """Link a repository to a job at once, both by ID or name; the new link's ID.

        Args:
            job: its ID or name.
            repository: its UID or name, on the job's backup server.
            backup_server: which job is meant, where several have the name.

        Raises:
            LookupError: there is no such job or repository, or several; or the repository is linked already.
            ControlFailedError: the same in another process.
        """
        return str(self._perform("put_back", job=job, repository=repository, backup_server=backup_server))

    def remove_link(self, job_id: str, object_in_job_id: str) -> None:
        """Remove a link at once, as somebody else does at the console."""
        self._perform("remove_link", job_id=job_id, object_in_job_id=object_in_job_id)

    @property
    def departures(self) -> dict[str, float]:
        """When each link truly went that is there no more, by `time.monotonic`; a job's last 200 changes only.

        The system's monotonic clock is one for all processes of a machine.
        """
        return dict(self._perform("departures"))

    # --- behaviour and faults ---

    @property
    @abstractmethod
    def behaviour(self) -> Behaviour:
        """Every switch; set a field of it to change it at once."""

    def change_behaviour(self, **changes: Any) -> None:
        """Set several switches at once.

        Raises:
            UnknownBehaviourError: for a field that does not exist or a value that it cannot have.
        """
        self._perform("change_behaviour", changes=changes)

    def inject(self, fault: Fault) -> None:
        """Let the next requests that match meet this fault; of several faults the oldest that matches."""
        self._perform("inject", fault=asdict(fault))

    @property
    def faults(self) -> list[Fault]:
        """Those that have not met all of their requests."""
        return [Fault(**fault) for fault in self._perform("faults")]

    def clear_faults(self) -> None:
        """Let no more faults happen."""
        self._perform("clear_faults")

    # --- sessions and the listener ---

    @property
    def sessions(self) -> list[str]:
        """The IDs of the logon sessions that live."""
        return list(self._perform("sessions"))

    def expire_sessions(self) -> None:
        """End all logon sessions, as if they had idled too long."""
        self._perform("expire_sessions")

    def refuse_connections(self) -> None:
        """Reset every connection and let nobody connect."""
        self._perform("refuse_connections")

    def accept_connections(self) -> None:
        """Let clients connect again, at the same port."""
        self._perform("accept_connections")

    def restart(self) -> None:
        """Reset every connection and forget all sessions and tasks. Edits go on at the backup server."""
        self._perform("restart")

    # --- what was seen ---

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request so far, in the order in which they came."""
        return [RecordedRequest(**request) for request in self._perform("requests")]

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests were of this method (empty: any) with this in their path."""
        return int(self._perform("count", method=method, path=path))

    def deletes_of(self, object_in_job_id: str) -> int:
        """How often a DELETE of this link came, whatever it was answered with."""
        return self.count("DELETE", f"/linkedBackupRepositories/{object_in_job_id}")

    def forget_requests(self) -> None:
        """Begin to count anew."""
        self._perform("forget_requests")


class SimulatedEnterpriseManager(Simulation):
    """A simulated Enterprise Manager in this process, on a thread with an event loop of its own."""

    def __init__(self, folder: Path, behaviour: Behaviour, account: Account, loop: asyncio.AbstractEventLoop) -> None:
        self._folder = folder
        self._behaviour = behaviour
        self._account = account
        self._loop = loop
        self._operations: Operations
        self._server: Server

    @classmethod
    @contextmanager
    def start(
        cls,
        *,
        behaviour: Behaviour | None = None,
        folder: Path | None = None,
        host: str = LOOPBACK,
        name: str = "localhost",
        port: int = 0,
        username: str = DEFAULT_USERNAME,
        password: str = DEFAULT_PASSWORD,
    ) -> Iterator[SimulatedEnterpriseManager]:
        """A simulated Enterprise Manager for as long as the context lasts.

        Args:
            behaviour: how it behaves at first.
            folder: where its certificates are kept, so that the next one there is trusted too; else a temporary one.
            host: the address to listen on.
            name: the host name in its URL; a new certificate is valid for that and for the loopback address.
            port: 0 is any that is free.
            username: who may log on.
            password: with what.

        Raises:
            OSError: the port is taken.
        """
        with contextlib.ExitStack() as stack:
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="simulated-em-")))
            loop = stack.enter_context(_loop_on_a_thread())
            simulated = cls(folder, behaviour or Behaviour(), Account(username, password), loop)
            simulated._on_loop(simulated._open(host, name, port))
            stack.callback(lambda: simulated._on_loop(simulated._server.close()))
            yield simulated

    async def _open(self, host: str, name: str, port: int) -> None:
        state, faults = State(self._behaviour), Faults()
        certificates = certificates_in(self._folder, tuple(dict.fromkeys((name, *LOOPBACK_NAMES))))
        self._server = Server(state, self._account, faults, certificates.server_context(), host)
        await self._server.open(port)
        about = {
            "url": f"https://{name}:{self._server.port}",
            "ca_file": str(certificates.ca_file),
            "username": self._account.username,
        }
        self._operations = Operations(state, faults, self._server, about)

    @property
    def operations(self) -> Operations:
        """What a control listener offers to other processes."""
        return self._operations

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it runs on."""
        return self._loop

    @property
    def password(self) -> str:
        """With what to log on."""
        return self._account.password

    @property
    def behaviour(self) -> Behaviour:
        """Every switch; set a field of it to change it at once."""
        return self._behaviour

    def _perform(self, operation: str, **arguments: Any) -> Any:
        result = self._operations.perform(operation, arguments)
        return self._on_loop(result) if inspect.iscoroutine(result) else result

    def _on_loop(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_PATIENCE_SECONDS)


@contextmanager
def _loop_on_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run_until_ended() -> None:
        ended = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), ended))
        await ended.wait()

    # In the end, asyncio.run cancels the TLS handshakes under way. That closes their connections.
    thread = threading.Thread(
        target=asyncio.run, args=(run_until_ended(),), name="simulated-enterprise-manager", daemon=True
    )
    thread.start()
    loop, ended = started.result(_PATIENCE_SECONDS)
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(_PATIENCE_SECONDS)


#: The names of all switches.
BEHAVIOUR_NAMES = frozenset(field.name for field in fields(Behaviour))
