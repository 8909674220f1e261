"""The actions of users: orders by the API, and the buttons of the pages."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from contracts.commands import Run
from worker.console.api import Known
from worker.console.keys import from_path, query_of, storable, to_path
from worker.console.models import OrderedItem, Why, WhyAndRun
from worker.console.orders import Ordered, Orders, read_body, read_unlink
from worker.console.problems import Problem
from worker.console.readings import Readings
from worker.console.signed_in import form_of
from worker.console.users import Caller
from worker.ledger import Record

router = APIRouter()

#: RFC 7240, section 4.3.
_WAIT = re.compile(r"(?:^|,|;)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:$|,|;)", re.IGNORECASE)

_RUN = re.compile("[1-9][0-9]{0,6}")

_PREFER: dict[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "schema": {"type": "string", "examples": ["wait=30"]},
    "description": "`wait=N`: answer with the end, if it comes within N seconds.",
}
_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string"},
    "description": "The key, if the body has none.",
}
_UNLINK_BODY: dict[str, Any] = {
    "parameters": [_PREFER, _KEY],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/UnlinkCommand"}}},
    },
}
WHY_BODY: dict[str, Any] = {
    "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Why"}}}}
}
_RUN_BODY: dict[str, Any] = {
    "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/WhyAndRun"}}}}
}


def caller_of(request: Request) -> Caller:
    """The caller."""
    caller: Caller = request.state.caller
    return caller


def orders_of(request: Request) -> Orders:
    """The orders of this application."""
    orders: Orders = request.app.state.orders
    return orders


Asking = Annotated[Caller, Depends(caller_of)]
Ordering = Annotated[Orders, Depends(orders_of)]


@router.post(
    "/api/v1/unlinks",
    operation_id="orderUnlink",
    response_model=OrderedItem,
    status_code=202,
    responses={200: {"model": OrderedItem, "description": "It has ended."}},
    openapi_extra=_UNLINK_BODY,
)
async def order(
    request: Request,
    caller: Asking,
    orders: Ordering,
    *,
    retry: Annotated[bool, Query(description="Run a key again whose last run did not succeed.")] = False,
    run: Annotated[Run | None, Query(description="With `retry`: the run that is meant (else 409).")] = None,
) -> Response:
    """Order an unlink. With `Prefer: wait=30` the answer waits for its end; `Idempotency-Key` may carry the key."""
    if run is not None and not retry:
        said = "is for retry=true"
        raise Problem(400, f"run: {said}", [{"field": "run", "message": said}])
    key = request.headers.get("idempotency-key")
    command = read_unlink(
        await request.body(), request.headers.get("content-type"), None if key is None else key.strip().strip('"')
    )
    return _answer(await orders.unlink(caller, command, _wait(request), retry=retry, run=run))


@router.post(
    "/api/v1/unlinks/{key}/cancel",
    operation_id="cancelUnlink",
    response_model=OrderedItem,
    status_code=202,
    openapi_extra=_RUN_BODY,
)
async def cancel(
    request: Request,
    readings: Known,
    caller: Asking,
    orders: Ordering,
    key: str,
    enterprise_manager: Annotated[
        str, Query(max_length=64, description="Of a key that no worker has seen.")
    ] = "default",
) -> Response:
    """Ask for an unlink to be stopped."""
    name = from_path(key)
    asked = read_body(await request.body() or b"{}", WhyAndRun)
    record = await readings.record(name)
    return _answer(await orders.cancel(caller, name, record, asked.reason, enterprise_manager, asked.run))


@router.post(
    "/api/v1/unlinks/{key}/retry",
    operation_id="retryUnlink",
    response_model=OrderedItem,
    status_code=202,
    responses={200: {"model": OrderedItem, "description": "The new run has ended."}},
    openapi_extra={"parameters": [_PREFER], **_RUN_BODY},
)
async def retry(request: Request, readings: Known, caller: Asking, orders: Ordering, key: str) -> Response:
    """Retry an unlink that failed, timed out or was cancelled."""
    asked = read_body(await request.body() or b"{}", WhyAndRun)
    record = await _known_record(readings, from_path(key))
    return _answer(await orders.retry(caller, record, _wait(request), asked.reason, run=asked.run))


@router.post("/unlinks/{key}/{action}", include_in_schema=False)
async def press(
    request: Request, readings: Known, caller: Asking, orders: Ordering, key: str, action: str
) -> RedirectResponse:
    """A button of an unlink's page."""
    name = from_path(key)
    form = form_of(await request.body())
    reason, run = field(form, "reason"), _run_in(form)
    record = await _known_record(readings, name)
    if action == "cancel":
        await orders.cancel(caller, name, record, reason, record.enterprise_manager, run)
    elif action == "retry":
        await orders.retry(caller, record, 0, reason, run=run)
    else:
        raise Problem(404, "There is no such action.")
    asked = query_of({"asked": action, "run": record.entry.run, "at": int(time.time())})
    return RedirectResponse(f"/unlinks/{to_path(name)}?{asked}", 303)


@router.post("/batches/{id}/retry", include_in_schema=False)
async def retry_batch(
    readings: Known, caller: Asking, orders: Ordering, batch_id: Annotated[str, Path(alias="id")]
) -> RedirectResponse:
    """The button of a batch's page: retry what failed, as far as the caller may."""
    name = from_path(batch_id)
    records = [each for each in await readings.failed_of(name) if caller.may_change(each.user_id)]
    if not records:
        raise Problem(409, "There is nothing in this batch that you may run again.")
    await orders.retry_batch(caller, name, records)
    asked = query_of({"asked": "retry", "at": int(time.time())})
    return RedirectResponse(f"/batches/{to_path(name)}?{asked}", 303)


def field(form: Mapping[str, list[str]], name: str) -> str | None:
    """A field of a form; None if it is empty.

    Raises:
        Problem: it is no text that can be stored; 400.
    """
    try:
        return storable(form.get(name, [""])[-1].strip()) or None
    except ValueError:
        said = "must be text without NUL"
        raise Problem(400, f"{name}: {said}", [{"field": name, "message": said}]) from None


def _run_in(form: Mapping[str, list[str]]) -> int | None:
    text = field(form, "run")
    if text is None:
        return None
    if _RUN.fullmatch(text) is None:
        said = "must be the number of a run"
        raise Problem(400, f"run: {said}", [{"field": "run", "message": said}])
    return int(text)


async def _known_record(readings: Readings, key: str) -> Record:
    record = await readings.record(key)
    if record is None:
        raise Problem(404, "No worker has seen this key, or it was pruned.")
    return record


async def why_of(request: Request) -> str | None:
    """The reason in an optional body."""
    return read_body(await request.body() or b"{}", Why).reason


def _wait(request: Request) -> float:
    found = _WAIT.search(",".join(request.headers.getlist("prefer")))
    return float(found[1]) if found else 0.0


def _answer(ordered: Ordered) -> Response:
    href = None if ordered.dry_run else f"/api/v1/unlinks/{to_path(ordered.key)}"
    item = OrderedItem(
        href=href, idempotency_key=ordered.key, enterprise_manager=ordered.enterprise_manager, event=ordered.event
    )
    status = 202 if ordered.event is None else 200
    headers = {"Cache-Control": "no-store", **({"Location": href} if href else {})}
    return Response(item.model_dump_json(), status, headers, media_type="application/json")
