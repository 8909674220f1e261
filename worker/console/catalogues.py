"""The links of a job or to a repository, read from an Enterprise Manager whose account the console has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import ValidationError

from contracts.commands import JobReference, RepositoryReference
from worker.console.api import UNCHANGED, conditional
from worker.console.keys import is_id
from worker.console.models import LinkItem, LinkList
from worker.console.orders import broken
from worker.console.problems import Problem
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.catalogue import Catalogue, LinkedJob, links_of_job, links_to_repository
from worker.offboarding import backups_of
from worker.settings import EnterpriseManagerSettings
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import EnterpriseManagerError, Refused

router = APIRouter()

#: How long Enterprise Manager is read, in seconds, and how many catalogues are read at once.
_SECONDS: Final = 60.0
_AT_ONCE: Final = 2

Name = Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,64}$")]


class Catalogues:
    """Reads links. Removes none: an unlink is an order to the workers.

    Raises:
        Problem: in every method: the console has no account there (404), job or repository are not found or ambiguous
            (404), or Enterprise Manager does not answer in time (503).
    """

    def __init__(self, managers: Mapping[str, EnterpriseManagerSettings], clock: Clock) -> None:
        self._managers = managers
        self._clock = clock
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    def has(self, name: str) -> bool:
        """Whether the console has an account there."""
        return name in self._managers

    async def of_job(self, name: str, job: JobReference) -> Catalogue:
        """The links of a copy job."""
        return await self._read(name, lambda gateway: links_of_job(gateway, job))

    async def of_repository(self, name: str, repository: RepositoryReference) -> Catalogue:
        """All links to a repository."""
        return await self._read(name, lambda gateway: links_to_repository(gateway, repository, _ignore))

    async def _read(self, name: str, read: Callable[[Gateway], Coroutine[Any, Any, Catalogue]]) -> Catalogue:
        if name not in self._managers:
            raise Problem(
                404,
                f"The console has no account on {name}: its links can be listed only where "
                f"UNLINK_ENTERPRISE_MANAGERS__{name.upper()}__URL, __USERNAME and __PASSWORD are set for the console.",
            )
        try:
            async with asyncio.timeout(_SECONDS), self._at_once:
                gateway = Gateway(name, self._managers[name], self._clock)
                try:
                    return await read(gateway)
                finally:
                    await gateway.close(log_off=True)
        except Refused as error:
            raise Problem(404, f"{error.message} ({error.code})") from error
        except EnterpriseManagerError as error:
            raise Problem(503, f"{error}", headers={"Retry-After": "5"}) from error
        except TimeoutError:
            raise Problem(503, f"{name} did not answer in time.", headers={"Retry-After": "5"}) from None


def _ignore(_done: int, _total: int) -> None:
    """Progress is not shown."""


def catalogues_of(request: Request) -> Catalogues:
    """The catalogues of this application."""
    catalogues: Catalogues = request.app.state.catalogues
    return catalogues


Listing = Annotated[Catalogues, Depends(catalogues_of)]
_Text = Annotated[str | None, Query(max_length=1000)]


@router.get(
    "/api/v1/enterprise-managers/{name}/links",
    operation_id="listLinks",
    response_model=LinkList,
    responses=UNCHANGED,
)
async def list_links(
    request: Request,
    catalogues: Listing,
    name: Name,
    job: _Text = None,
    repository: _Text = None,
    backup_server: _Text = None,
) -> Response:
    """The links of a job, or all links to a repository: either is given by name or ID.

    Only where the console has an account on that Enterprise Manager.
    """
    if bool(job) == bool(repository):
        said = "either job or repository is needed"
        raise Problem(400, said, [{"field": each, "message": said} for each in ("job", "repository")])
    try:
        if job:
            found = await catalogues.of_job(name, JobReference(**reference(job, "id", backup_server)))
        else:
            named = RepositoryReference(**reference(repository or "", "uid", backup_server))
            found = await catalogues.of_repository(name, named)
    except ValidationError as error:
        raise broken(error, error) from None
    return conditional(request, LinkList(items=[link_item(each) for each in found.links], unread=list(found.missing)))


def reference(text: str, identifier: str, backup_server: str | None) -> dict[str, str]:
    """A job or a repository: by its ID, if the text is one, else by its name."""
    narrowed = {"backup_server": backup_server} if backup_server else {}
    return {identifier if is_id(text) else "name": text, **narrowed}


def link_item(each: LinkedJob) -> LinkItem:
    """A link, for the API."""
    return LinkItem.model_validate(
        {
            "job": {"id": each.job.id, "name": each.job.name},
            "repository": {
                "link_id": each.link.object_in_job_id,
                "uid": each.link.repository_uid,
                "name": each.link.repository_name,
            },
            "linked_backups": backups_of(each),
        }
    )
