"""Resources that the worker does not request, but other programs may: they follow from the jobs and repositories."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from worker.sandbox.simulated_enterprise_manager.model import Job, Run
from worker.sandbox.simulated_enterprise_manager.rendering import Scalar
from worker.sandbox.simulated_enterprise_manager.state import State

#: The root of the one virtual infrastructure.
HIERARCHY_ROOT = "vcenter01.corp.example"

#: The collections to which a logon session links, in the order of the vendor's example, with their types.
COLLECTIONS = (
    ("backupServers", "BackupServer"),
    ("managedServers", "ManagedServer"),
    ("jobs", "Job"),
    ("failoverPlans", "FailoverPlan"),
    ("hierarchyRoots", "HierarchyRoot"),
    ("repositories", "Repository"),
    ("backups", "Backup"),
    ("restorePoints", "RestorePoint"),
    ("vmRestorePoints", "VmRestorePoint"),
    ("vAppRestorePoints", "VAppRestorePoint"),
    ("replicas", "Replica"),
    ("vmReplicaPoints", "VmReplicaPoint"),
    ("backupSessions", "BackupJobSession"),
    ("restoreSessions", "RestoreSession"),
    ("replicaSessions", "ReplicaJobSession"),
    ("backupTaskSessions", "BackupTaskSession"),
    ("replicaTaskSessions", "ReplicaTaskSession"),
    ("wanAccelerators", "WanAccelerator"),
    ("backupFiles", "BackupFile"),
)

#: The type of each collection of this module, by its name in paths, in lower case. Most are empty, because the
#: simulation has no machines.
TYPES = {name.lower(): kind for name, kind in COLLECTIONS if name not in {"jobs", "repositories"}}

_SESSION_PROPERTIES = frozenset(
    {"jobtype", "jobuid", "jobname", "creationtime", "endtime", "state", "result", "isretry"}
)

#: The properties by which each type can be filtered and sorted [doc], beside UID, name and the backup server's name.
PROPERTIES: dict[str, frozenset[str]] = dict.fromkeys(TYPES.values(), _SESSION_PROPERTIES) | {
    "BackupServer": frozenset(),
    "Backup": frozenset({"platform"}),
    "HierarchyRoot": frozenset({"hosttype"}),
}


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of one of `TYPES`. `details` are the elements of its entity, in the order of the vendor's example."""

    type: str
    uid: str
    name: str
    backup_server: str
    details: Mapping[str, Scalar]
    #: The job that it belongs to.
    job: Job | None = None

    @property
    def collection(self) -> str:
        """The collection, as it stands in paths."""
        return {"BackupJobSession": "backupSessions"}.get(self.type, f"{self.type[0].lower()}{self.type[1:]}s")

    @property
    def urn(self) -> str:
        """The UID with its type."""
        return f"urn:veeam:{self.type}:{self.uid}"

    @property
    def properties(self) -> dict[str, str]:
        """What it can be filtered and sorted by, by lower-case names."""
        named = {
            name.lower().removesuffix("utc"): "" if value is None else str(value)
            for name, value in self.details.items()
        }
        details = {name: named[name] for name in PROPERTIES[self.type]}
        return {"uid": self.urn, "name": self.name, "backupservername": self.backup_server} | details


def resources(kind: str, state: State) -> list[Resource]:
    """All resources of that type."""
    match kind:
        case "BackupServer":
            return [_backup_server(name) for name in _backup_servers(state)]
        case "HierarchyRoot":
            return [_root(server) for server in list(_backup_servers(state))[:1]]
        case "Backup":
            return list({backup.uid: backup for backup in _backups(state)}.values())
        case "BackupJobSession":
            return [session for job in state.jobs.values() for session in sessions_of(job)]
    return []


def sessions_of(job: Job) -> list[Resource]:
    """The runs of a job, the oldest first."""
    return [_session(job, run) for run in job.runs]


def id_of_server(name: str) -> str:
    """The ID of the backup server, or of the hierarchy's root, of that name."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def _backup_servers(state: State) -> dict[str, None]:
    names = [job.backup_server for job in state.jobs.values()]
    return dict.fromkeys([*names, *(repository.backup_server for repository in state.repositories.values())])


def _backup_server(name: str) -> Resource:
    details: dict[str, Scalar] = {"Description": "", "Port": 9392, "Version": "13.0"}
    return Resource("BackupServer", id_of_server(name), name, name, details)


def _root(backup_server: str) -> Resource:
    uid = id_of_server(HIERARCHY_ROOT)
    details: dict[str, Scalar] = {"HierarchyRootId": uid, "UniqueId": uid.upper(), "HostType": "VC"}
    return Resource("HierarchyRoot", uid, HIERARCHY_ROOT, backup_server, details)


def _backups(state: State) -> Iterator[Resource]:
    for job in state.jobs.values():
        for backup in state.listed(job).backups:
            details: dict[str, Scalar] = {"Platform": job.platform, "BackupType": "ParentBackup"}
            yield Resource("Backup", backup.uid, job.name, job.backup_server, details)


def _session(job: Job, run: Run) -> Resource:
    ended = run.ended is not None
    details: dict[str, Scalar] = {
        "JobUid": f"urn:veeam:Job:{job.id}",
        "JobName": job.name,
        "JobType": job.job_type,
        "CreationTimeUTC": _utc(run.began),
        "EndTimeUTC": _utc(run.ended) if run.ended is not None else None,
        "State": "Stopped" if ended else "Working",
        "Result": "Success" if ended else "None",
        "Progress": 100 if ended else 50,
        "IsRetry": False,
    }
    name = f"{job.name}@{run.began:%Y-%m-%d %H:%M:%S}"
    return Resource("BackupJobSession", run.id, name, job.backup_server, details, job)


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S.%fZ}"
