"""Pages of Enterprise Managers: pause, resume, and the form for an unlink, which shows the plan before the order."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from contracts.commands import UnlinkCommand
from worker.console.actions import WHY_BODY, Asking, Ordering, field, why_of
from worker.console.api import Known
from worker.console.keys import to_path
from worker.console.models import PausedItem
from worker.console.orders import audit, read_unlink
from worker.console.problems import Problem
from worker.console.readings import Readings
from worker.console.rendering import render
from worker.console.signed_in import form_of
from worker.console.users import Caller
from worker.console.views import managers

router = APIRouter()

#: How long a page waits for its plan, in seconds.
_PLAN_SECONDS: Final = 30.0
_BAD_REQUEST: Final = 400
_LONGEST_REASON: Final = 1000

Name = Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,64}$")]

#: The fields of the form, by their path in a command.
_FIELDS: Final = ("job", "repository", "ticket_system", "ticket_id", "reason")


@router.post(
    "/api/v1/enterprise-managers/{name}/pause",
    operation_id="pauseEnterpriseManager",
    response_model=PausedItem,
    openapi_extra=WHY_BODY,
)
async def pause(request: Request, readings: Known, caller: Asking, name: Name) -> PausedItem:
    """Pause it: no worker consumes its commands, which wait on their queue. Unlinks under way continue."""
    await _pause(readings, caller, name, await why_of(request))
    return PausedItem(name=name, paused=True)


@router.post(
    "/api/v1/enterprise-managers/{name}/resume", operation_id="resumeEnterpriseManager", response_model=PausedItem
)
async def resume(readings: Known, caller: Asking, name: Name) -> PausedItem:
    """Resume it: the workers consume its commands again."""
    await _resume(readings, caller, name)
    return PausedItem(name=name, paused=False)


@router.get("/enterprise-managers", response_class=HTMLResponse, include_in_schema=False)
async def managers_page(request: Request, readings: Known) -> HTMLResponse:
    """All of them."""
    overview, queues = await readings.overview(), await readings.queues()
    return render(
        request.scope,
        "managers.html",
        page="managers",
        title="Enterprise Managers",
        managers=managers(readings.enterprise_managers, overview, queues),
    )


@router.post("/enterprise-managers/{name}/{action}", include_in_schema=False, response_model=None)
async def press(
    request: Request, readings: Known, caller: Asking, orders: Ordering, name: Name, action: str
) -> Response:
    """A button of the page, or of the form for an unlink."""
    form = form_of(await request.body())
    if action == "plan":
        return await _planned(request, caller, orders, name, form)
    if action == "unlinks":
        ordered = await orders.unlink(caller, _command(name, form, caller), 0)
        return RedirectResponse(f"/unlinks/{to_path(ordered.key)}?asked=order", 303)
    if action == "pause":
        await _pause(readings, caller, name, field(form, "reason"))
    elif action == "resume":
        await _resume(readings, caller, name)
    else:
        raise Problem(404, "There is no such action.")
    return RedirectResponse("/enterprise-managers", 303)


@router.get("/enterprise-managers/{name}", response_class=HTMLResponse, include_in_schema=False)
async def form_page(request: Request, caller: Asking, name: Name) -> HTMLResponse:
    """The form for an unlink."""
    if not caller.may_order:
        raise Problem(403, "You may look at everything, and order nothing.")
    given = {each: request.query_params.get(each, "")[:1000] for each in _FIELDS}
    return _form(request, name, given)


async def _planned(
    request: Request, caller: Caller, orders: Ordering, name: str, form: Mapping[str, list[str]]
) -> Response:
    """The plan of a dry run. The order then names this job and this link by their IDs."""
    given = {each: field(form, each) or "" for each in _FIELDS}
    try:
        command = _command(name, form, caller, dry_run=True)
        ordered = await orders.unlink(caller, command, _PLAN_SECONDS)
    except Problem as problem:
        if problem.status != _BAD_REQUEST:
            raise
        return _form(request, name, given, problem)
    plan = None if ordered.event is None else ordered.event["data"]
    return render(
        request.scope,
        "plan.html",
        page="managers",
        title="Plan",
        name=name,
        given=given,
        plan=plan,
        at_risk=bool(plan and plan["reason"] and plan["reason"]["code"] == "linked_backups_at_risk"),
        key=f"console/{uuid.uuid4().hex}",
    )


def _form(request: Request, name: str, given: Mapping[str, str], problem: Problem | None = None) -> HTMLResponse:
    wrong = {error["field"].partition(".")[0]: error["message"] for error in problem.errors} if problem else {}
    return render(
        request.scope,
        "order.html",
        _BAD_REQUEST if problem else 200,
        page="managers",
        title="Unlink a repository",
        name=name,
        given=given,
        problem=problem,
        wrong=wrong,
    )


def _command(name: str, form: Mapping[str, list[str]], caller: Caller, *, dry_run: bool = False) -> UnlinkCommand:
    """The command of a filled-in form.

    Raises:
        Problem: a field has a wrong value; 400.
    """
    job, repository = field(form, "job") or "", field(form, "repository") or ""
    content: dict[str, Any] = {
        "command": "unlink.v1",
        "idempotency_key": field(form, "key") or f"console/plan/{uuid.uuid4().hex}",
        "enterprise_manager": name,
        "job": {"id" if _is_id(job) else "name": job},
        "repository": _repository(repository, is_link=field(form, "by") == "link"),
        "allow_linked_backups_removal": field(form, "consent") == "yes",
        "dry_run": dry_run,
        "requested_by": caller.name,
    }
    if reason := field(form, "reason"):
        content["reason"] = reason
    if field(form, "ticket_system") or field(form, "ticket_id"):
        content["ticket"] = {"system": field(form, "ticket_system") or "", "id": field(form, "ticket_id") or ""}
    return read_unlink(json.dumps(content).encode(), None, None)


def _repository(text: str, *, is_link: bool) -> dict[str, str]:
    if is_link:
        return {"link_id": text}
    return {"uid" if _is_id(text) else "name": text}


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text.rpartition(":")[2])) == text.rpartition(":")[2].lower()
    except ValueError:
        return False


async def _pause(readings: Readings, caller: Caller, name: str, reason: str | None) -> None:
    await _require(readings, caller, name)
    if len(reason or "") > _LONGEST_REASON:
        raise Problem(400, "reason: at most 1000 characters", [{"field": "reason", "message": "is too long"}])
    await readings.pause(name, caller.name or "", reason)
    audit(caller, "pause", name, "paused", name)


async def _resume(readings: Readings, caller: Caller, name: str) -> None:
    await _require(readings, caller, name)
    was_paused = await readings.resume(name)
    audit(caller, "resume", name, "resumed" if was_paused else "was not paused", name)


async def _require(readings: Readings, caller: Caller, name: str) -> None:
    if not caller.may_operate:
        raise Problem(403, "The role `operate` alone pauses and resumes.")
    await readings.overview()
    if name not in readings.enterprise_managers:
        raise Problem(404, f"No worker knows an Enterprise Manager named {name}.")
