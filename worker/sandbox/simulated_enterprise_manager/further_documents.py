"""Documents of resources that the worker does not request, but other programs may."""

from __future__ import annotations

from collections.abc import Iterable

from worker.sandbox.simulated_enterprise_manager.documents import Documents, id_of_server, linked_job_ids
from worker.sandbox.simulated_enterprise_manager.model import Job, LinkedBackup, LinkedJob
from worker.sandbox.simulated_enterprise_manager.rendering import Element


class FurtherDocuments(Documents):
    """Builds these documents, and as `Documents` those that the worker reads."""

    def linked_jobs(self, job: Job, links: Iterable[LinkedJob]) -> Element:
        """The jobs linked to a copy job (helpcenter, "/jobs/{ID}/linkedJobs")."""
        linked = [self._linked_job(job, link) for link in links]
        return Element("LinkedJobResourceObjects", None, linked, array="LinkedJobs")

    def _linked_job(self, job: Job, link: LinkedJob) -> Element:
        path = f"jobs/{job.id}/linkedJobs/{link.object_in_job_id}"
        links = self._links(("Up", f"jobs/{job.id}?format=Entity", "Job", job.name), ("Delete", path, None))
        return Element("LinkedJobObject", self._attributes("LinkedJobObject", path), (links, *linked_job_ids(link)))

    def includes(self) -> Element:
        """The machines that a job processes: none, the simulation has no machines."""
        return Element("ObjectsInJob", None, (), array="ObjectInJobs")

    def backup_servers(self, names: Iterable[str]) -> Element:
        """References to backup servers."""
        return self._references("BackupServer", "backupServers", [(id_of_server(name), name) for name in names])

    def backup_server(self, name: str) -> Element:
        """A reference to the backup server of that name."""
        return self._reference("EntityRef", "BackupServer", "backupServers", id_of_server(name), name)

    def hierarchy_roots(self, names: Iterable[str]) -> Element:
        """References to the roots of virtual infrastructures."""
        return self._references("HierarchyRoot", "hierarchyRoots", [(id_of_server(name), name) for name in names])

    def backups(self, backups: Iterable[tuple[LinkedBackup, Job]]) -> Element:
        """References to the backups that are linked to jobs. Each has the name of its job."""
        named = {backup.uid: job.name for backup, job in backups}
        return self._references("Backup", "backups", list(named.items()))

    def backup_sessions(self) -> Element:
        """The runs of a job: none, the simulation keeps no record of them."""
        return self._references("BackupJobSession", "backupSessions", [])

    def _references(self, kind: str, collection: str, named: list[tuple[str, str]]) -> Element:
        references = [self._reference("Ref", kind, collection, uid, name) for uid, name in named]
        return Element("EntityReferences", None, references, array="Refs")

    def _reference(self, element: str, kind: str, collection: str, uid: str, name: str) -> Element:
        path = f"{collection}/{uid}"
        links = self._links(("Alternate", f"{path}?format=Entity", kind, name))
        return Element(element, self._entity(f"{kind}Reference", path, name, f"urn:veeam:{kind}:{uid}"), (links,))
