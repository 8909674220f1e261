"""Documents of resources that the worker does not request, but other programs may."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from worker.sandbox.simulated_enterprise_manager.documents import Documents, Link, linked_job_ids, up_to
from worker.sandbox.simulated_enterprise_manager.inventory import Resource
from worker.sandbox.simulated_enterprise_manager.model import Job, LinkedJob
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

    def resource(self, resource: Resource, *, entity: bool, name: str = "EntityRef") -> Element:
        """A resource, as an entity or a reference."""
        path = f"{resource.collection}/{resource.uid}"
        other: Link = ("Alternate", f"{path}?format=Entity", resource.type, resource.name)
        if not entity:
            attributes = self._entity(f"{resource.type}Reference", path, resource.name, resource.urn)
            return Element(name, attributes, (self._links(*_above(resource), other),))
        other = ("Alternate", path, f"{resource.type}Reference", resource.name)
        details = [Element(each, text=value) for each, value in resource.details.items()]
        attributes = self._entity(resource.type, f"{path}?format=Entity", resource.name, resource.urn)
        return Element(resource.type, attributes, (self._links(*_above(resource), other), *details))

    def resources(self, kind: str, resources: Sequence[Resource], *, entities: bool) -> Element:
        """A list of resources of that type, as entities or references."""
        if entities:
            shown = [self.resource(each, entity=True) for each in resources]
            return Element(f"{kind}s", None, shown, array=f"{kind}s")
        shown = [self.resource(each, entity=False, name="Ref") for each in resources]
        return Element("EntityReferences", None, shown, array="Refs")

    def found_resources(self, kind: str, resources: Sequence[Resource], *, entities: bool) -> Element:
        """The `Entities` or `Refs` of a query."""
        if entities:
            return self.found("Entities", f"{kind}s", [self.resource(each, entity=True) for each in resources])
        shown = [self.resource(each, entity=False, name="Ref") for each in resources]
        return Element("Refs", None, shown, array=self._query_array("Refs"))


def _above(resource: Resource) -> list[Link]:
    above: list[Link] = []
    if resource.type != "BackupServer":
        above.append(up_to(resource.backup_server))
    if resource.job is not None:
        above.append(("Up", f"jobs/{resource.job.id}", "JobReference", resource.job.name))
    return above
