"""The jobs, repositories and links that the sandbox starts with: the typical estate of a backup team.

It contains every name that the READMEs use, and one job for each reason to refuse a command. IDs are derived from
names, so that they are the same in every sandbox. The job of the vendor's example, which every simulated Enterprise
Manager has, is part of the estate.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_JOB_NAME,
    VENDOR_LINK_ID,
    VENDOR_REPOSITORY_NAME,
    VENDOR_REPOSITORY_UID,
    LinkedBackup,
    LinkedRepository,
    Simulation,
)

_FIRST_SERVER = "vbr01.example.com"
_SECOND_SERVER = "vbr02.example.com"

#: For each backup server, the names of its repositories.
REPOSITORIES = {
    _FIRST_SERVER: (
        VENDOR_REPOSITORY_NAME,
        "Default Backup Repository",
        "Scale-out 1",
        "Scale-out 2",
        "Scale-out 3",
        "Scale-out 4",
        "Scale-out 5",
        "ReFS Munich",
        "Hardened Linux 1",
        "Hardened Linux 2",
    ),
    _SECOND_SERVER: ("Default Backup Repository", "Scale-out 6", "Scale-out 7", "NAS Lyon", "Hardened Linux 3"),
}

#: IDs that are not derived: those of the vendor's example. The keys are the names of the job, the repository, and both.
_VENDOR_IDS: dict[str | tuple[str, str], str] = {
    VENDOR_JOB_NAME: VENDOR_JOB_ID,
    VENDOR_REPOSITORY_NAME: VENDOR_REPOSITORY_UID,
    (VENDOR_JOB_NAME, VENDOR_REPOSITORY_NAME): VENDOR_LINK_ID,
}


@dataclass(frozen=True, slots=True)
class EstateJob:
    """A job of the estate."""

    name: str
    #: The names of the repositories that are linked to the job; they belong to its backup server.
    links: tuple[str, ...] = ()
    backup_server: str = _FIRST_SERVER
    job_type: str = "ImmediateBackupCopy"
    platform: str = "VMware"
    #: How many linked backups the job has; any edit of the job would drop them.
    linked_backups: int = 0

    @property
    def id(self) -> str:
        """Its ID, a UUID."""
        return _VENDOR_IDS.get(self.name) or _id("job", self.backup_server, self.name)

    def link_id(self, repository: str) -> str:
        """The ID of its link to the repository of that name."""
        return _VENDOR_IDS.get((self.name, repository)) or _id("link", self.backup_server, self.name, repository)


_SCALE_OUTS = ("Scale-out 1", "Scale-out 2", "Scale-out 3", "Scale-out 4", "Scale-out 5")

JOBS = (
    EstateJob(VENDOR_JOB_NAME, (VENDOR_REPOSITORY_NAME,)),
    EstateJob("Copy to Frankfurt", (*_SCALE_OUTS, "Hardened Linux 1")),
    EstateJob("Copy to Vienna", _SCALE_OUTS),
    EstateJob("Copy to Zurich", (*_SCALE_OUTS[:3], "ReFS Munich")),
    EstateJob("Copy to Amsterdam", (*_SCALE_OUTS[1:], "Default Backup Repository")),
    EstateJob("Copy to Object Storage", (*_SCALE_OUTS, "ReFS Munich", "Default Backup Repository")),
    EstateJob("Copy of SQL Servers", ("Scale-out 1", "Scale-out 4", "Hardened Linux 1", "Hardened Linux 2")),
    EstateJob("Copy of Hyper-V Guests", ("Scale-out 2", "Scale-out 5", "ReFS Munich"), platform="Hyperv"),
    # Made in version 11a or earlier: of the older type.
    EstateJob("Copy of File Servers", ("Scale-out 3", "Scale-out 4", "Hardened Linux 2"), job_type="BackupCopy"),
    # Refused with linked_backups_at_risk, unless the command consents.
    EstateJob("Copy to Vault", ("Scale-out 1", "Hardened Linux 1", "Hardened Linux 2"), linked_backups=2),
    # Refused with job_ambiguous, unless the command names the backup server.
    EstateJob("Copy to Archive", (*_SCALE_OUTS[:3], "Default Backup Repository")),
    EstateJob("Copy to Archive", ("Scale-out 6", "Scale-out 7", "Default Backup Repository"), _SECOND_SERVER),
    EstateJob("Copy to Lyon", ("Scale-out 6", "Scale-out 7", "NAS Lyon", "Hardened Linux 3"), _SECOND_SERVER),
    EstateJob("Copy to Dublin", ("Scale-out 6", "NAS Lyon", "Hardened Linux 3"), _SECOND_SERVER),
    # Refused with not_a_copy_job.
    EstateJob("Daily Backup", job_type="Backup"),
    EstateJob("Replica of Domain Controllers", job_type="Replica"),
)


def furnish(enterprise_manager: Simulation) -> None:
    """Add the estate to a simulated Enterprise Manager."""
    for backup_server, names in REPOSITORIES.items():
        for name in names:
            enterprise_manager.add_repository(name, _repository_uid(backup_server, name), backup_server)
    for job in JOBS:
        enterprise_manager.add_job(
            name=job.name,
            id=job.id,
            job_type=job.job_type,
            platform=job.platform,
            backup_server=job.backup_server,
            links=[LinkedRepository(job.link_id(name), _repository_uid(job.backup_server, name)) for name in job.links],
            linked_backups=[
                LinkedBackup(_id("linked backup", job.id, str(number)), _id("backup", job.id, str(number)))
                for number in range(job.linked_backups)
            ],
        )


def _repository_uid(backup_server: str, name: str) -> str:
    return _VENDOR_IDS.get(name) or _id("repository", backup_server, name)


def _id(*parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, "/".join((*parts, "sandbox.unlink-worker.example"))))
