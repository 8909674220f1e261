"""The API for programs, `/api/v1`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from worker.console.keys import from_cursor, from_member_cursor, from_path, query_of, to_cursor, to_member_cursor
from worker.console.models import BatchDetail, ManagerList, UnlinkDetail, UnlinkList
from worker.console.problems import Problem
from worker.console.readings import Readings
from worker.console.searching import Search
from worker.console.views import batch_detail, managers, unlink_detail, unlink_item

if TYPE_CHECKING:
    from pydantic import BaseModel

#: Keys on a page: by default, and at most.
PAGE = 50
MOST_ON_A_PAGE = 500

#: The OpenAPI description of the status 304 that `conditional` may answer.
UNCHANGED: Final[dict[int | str, dict[str, Any]]] = {304: {"description": "It is what If-None-Match names."}}

router = APIRouter(prefix="/api/v1")


def readings_of(request: Request) -> Readings:
    """The readings of this application."""
    readings: Readings = request.app.state.readings
    return readings


Known = Annotated[Readings, Depends(readings_of)]
Searched = Annotated[Search, Depends()]
Place = Annotated[str | None, Query(max_length=1000, description="The place where a page before ended.")]
Limit = Annotated[int, Query(ge=1, le=MOST_ON_A_PAGE)]


@router.get("/unlinks", operation_id="listUnlinks", response_model=UnlinkList, responses=UNCHANGED)
async def list_unlinks(
    request: Request,
    readings: Known,
    search: Searched,
    cursor: Place = None,
    limit: Limit = PAGE,
) -> Response:
    """Unlinks that meet all criteria, newest first. Texts must match as a whole; case does not matter."""
    page = await readings.find(search.criteria(), from_cursor(cursor) if cursor else None, limit)
    more = None
    if page.next is not None:
        more = f"/api/v1/unlinks?{query_of({**search.fields, 'limit': limit, 'cursor': to_cursor(page.next)})}"
    items = [unlink_item(record) for record in page.records]
    return conditional(request, UnlinkList.model_validate({"items": items, "next": more, "complete": page.complete}))


@router.get("/unlinks/{key}", operation_id="getUnlink", response_model=UnlinkDetail, responses=UNCHANGED)
async def get_unlink(request: Request, readings: Known, key: str) -> Response:
    """One unlink with its recorded steps. `key` is the idempotency key in base64url without padding."""
    history = await readings.history(from_path(key))
    if history is None or history.record is None:
        raise Problem(404, "No worker has seen this key, or it was pruned.")
    return conditional(request, UnlinkDetail.model_validate(unlink_detail(history, history.record)))


@router.get("/batches/{id}", operation_id="getBatch", response_model=BatchDetail, responses=UNCHANGED)
async def get_batch(
    request: Request,
    readings: Known,
    batch: Annotated[str, Path(alias="id")],
    cursor: Place = None,
    limit: Limit = PAGE,
) -> Response:
    """The batches of an ID, and their commands. `id` is the batch's ID in base64url without padding."""
    name = from_path(batch)
    page = await readings.batches(name, from_member_cursor(cursor) if cursor else None, limit)
    following = None if page.next is None else f"{to_member_cursor(page.next)}&limit={limit}"
    return conditional(request, batch_detail(name, page, following))


@router.get(
    "/enterprise-managers", operation_id="listEnterpriseManagers", response_model=ManagerList, responses=UNCHANGED
)
async def list_enterprise_managers(request: Request, readings: Known) -> Response:
    """Enterprise Managers, as the workers find them."""
    overview, queues = await readings.overview(), await readings.queues()
    return conditional(request, ManagerList(items=managers(readings.enterprise_managers, overview, queues)))


def conditional(request: Request, content: BaseModel) -> Response:
    """The content with its ETag; 304 if the client has it."""
    body = content.model_dump_json().encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)
