"""Pages of Enterprise Managers: pause, resume, and the form for an unlink, which shows the plan before the order."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import ValidationError

from contracts.commands import JobReference, UnlinkCommand
from worker.console.actions import WHY_BODY, Asking, Ordering, field, why_of
from worker.console.api import Known
from worker.console.audit import audit, audited
from worker.console.catalogues import Catalogues, Listing, Name, catalogues_of, reference
from worker.console.keys import is_id, query_of, to_path
from worker.console.models import OffboardingOrder, PausedItem
from worker.console.offboardings import order_plan, plan_of
from worker.console.orders import broken, read_unlink
from worker.console.problems import Problem
from worker.console.readings import Readings
from worker.console.rendering import render
from worker.console.signed_in import form_of
from worker.console.users import Caller
from worker.console.views import managers
from worker.offboarding import backups_of, counts_of

router = APIRouter()

#: How long a page waits for its plan, in seconds.
_PLAN_SECONDS: Final = 30.0
_BAD_REQUEST: Final = 400
_LONGEST_REASON: Final = 1000

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
    request: Request,
    readings: Known,
    caller: Asking,
    orders: Ordering,
    catalogues: Listing,
    name: Name,
    action: str,
) -> Response:
    """A button of the page, or of the form for an unlink."""
    form = form_of(await request.body())
    if action == "plan" and catalogues.has(name) and field(form, "repository") and not field(form, "job"):
        return await _offboarding_planned(request, caller, catalogues, name, form)
    if action == "plan" and catalogues.has(name) and field(form, "job") and not field(form, "repository"):
        return await _links_of_job(request, caller, catalogues, name, form)
    if action == "offboardings":
        plan = await plan_of(catalogues, _offboarding(name, form), caller)
        await order_plan(orders, caller, plan, field(form, "links"))
        return RedirectResponse(f"/batches/{to_path(plan.batch or '')}?{_ordered_now()}", 303)
    if action == "plan":
        return await _planned(request, caller, orders, name, form)
    if action == "unlinks":
        ordered = await orders.unlink(caller, _command(name, form, caller), 0)
        return RedirectResponse(f"/unlinks/{to_path(ordered.key)}?{_ordered_now()}", 303)
    if action == "pause":
        await _pause(readings, caller, name, field(form, "reason"), _seen_in(form))
    elif action == "resume":
        await _resume(readings, caller, name, _seen_in(form))
    else:
        raise Problem(404, "There is no such action.")
    return RedirectResponse("/enterprise-managers", 303)


@router.get("/enterprise-managers/{name}", response_class=HTMLResponse, include_in_schema=False)
async def form_page(request: Request, caller: Asking, name: Name) -> HTMLResponse:
    """The form for an unlink."""
    _require_may_order(caller)
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
        to_change=given if field(form, "by") != "link" else _by_repository(given, plan),
        plan=plan,
        at_risk=bool(plan and plan.get("reason") and plan["reason"]["code"] == "linked_backups_at_risk"),
        key=f"console/{uuid.uuid4().hex}",
    )


def _by_repository(given: Mapping[str, str], plan: Mapping[str, Any] | None) -> dict[str, str]:
    """What to fill the form with, whose field takes a repository: a link was given, by its ID."""
    found = {} if plan is None else plan["repository"]
    return {**given, "repository": found.get("uid") or found.get("name") or ""}


async def _links_of_job(
    request: Request, caller: Caller, catalogues: Catalogues, name: str, form: Mapping[str, list[str]]
) -> Response:
    """The links of a job, each with the button for its plan, which names the job and the link by their IDs."""
    _require_may_order(caller)
    given = {each: field(form, each) or "" for each in _FIELDS}
    try:
        job = JobReference.model_validate(reference(given["job"], "id", None))
    except ValidationError as error:
        return _form(request, name, given, broken(error, error))
    found = await catalogues.of_job(name, job)
    return render(
        request.scope,
        "links.html",
        page="managers",
        title="Links",
        name=name,
        given=given,
        links=found.links,
        backups=backups_of(found.links[0]) if found.links else (),
    )


async def _offboarding_planned(
    request: Request, caller: Caller, catalogues: Catalogues, name: str, form: Mapping[str, list[str]]
) -> Response:
    """All links to the repository. The order then names this plan, and is refused if the links have changed."""
    given = {each: field(form, each) or "" for each in _FIELDS}
    _require_may_order(caller)
    try:
        order = _offboarding(name, form)
        plan = await plan_of(catalogues, order, caller)
    except Problem as problem:
        if problem.status != _BAD_REQUEST:
            raise
        return _form(request, name, given, problem)
    return render(
        request.scope,
        "offboarding.html",
        page="managers",
        title="Plan",
        name=name,
        given=given,
        plan=plan,
        links=[(each, backups_of(each)) for each in plan.catalogue.links],
        counts=counts_of(plan.catalogue),
    )


def _ordered_now() -> str:
    """For the page to say how long it has waited for a worker."""
    return query_of({"asked": "order", "at": int(time.time())})


def _require_may_order(caller: Caller) -> None:
    if not caller.may_order:
        raise Problem(403, "You may look at everything, and order nothing.")


def _offboarding(name: str, form: Mapping[str, list[str]]) -> OffboardingOrder:
    content = {
        "enterprise_manager": name,
        "repository": reference(field(form, "repository") or "", "uid", None),
        "allow_linked_backups_removal": field(form, "consent") == "yes",
        "reason": field(form, "reason"),
        "ticket": _ticket(form),
    }
    try:
        return OffboardingOrder.model_validate(content)
    except ValidationError as error:
        raise broken(error, error) from None


def _ticket(form: Mapping[str, list[str]]) -> dict[str, str] | None:
    system, number = field(form, "ticket_system"), field(form, "ticket_id")
    return {"system": system or "", "id": number or ""} if system or number else None


def _form(request: Request, name: str, given: Mapping[str, str], problem: Problem | None = None) -> HTMLResponse:
    wrong = {error["field"].partition(".")[0]: error["message"] for error in problem.errors} if problem else {}
    return render(
        request.scope,
        "order.html",
        _BAD_REQUEST if problem else 200,
        page="managers",
        title="Unlink a repository",
        name=name,
        lists=catalogues_of(request).has(name),
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
        "job": {"id" if is_id(job) else "name": job},
        "repository": _repository(repository, is_link=field(form, "by") == "link"),
        "allow_linked_backups_removal": field(form, "consent") == "yes",
        "dry_run": dry_run,
        "requested_by": caller.name,
    }
    if reason := field(form, "reason"):
        content["reason"] = reason
    if ticket := _ticket(form):
        content["ticket"] = ticket
    return read_unlink(json.dumps(content).encode(), None, None)


def _repository(text: str, *, is_link: bool) -> dict[str, str]:
    if is_link:
        return {"link_id": text}
    return {"uid" if is_id(text) else "name": text}


def _seen_in(form: Mapping[str, list[str]]) -> str | None:
    """When it was paused, as the page of this button shows it; empty if it was not; None if the page does not say."""
    return form["paused_at"][-1] if "paused_at" in form else None


async def _pause(readings: Readings, caller: Caller, name: str, reason: str | None, seen: str | None = None) -> None:
    with audited(caller, "pause", name, name):
        await _require(readings, caller, name)
        if len(reason or "") > _LONGEST_REASON:
            raise Problem(400, "reason: at most 1000 characters", [{"field": "reason", "message": "is too long"}])
        await readings.pause(name, caller.name or "", reason, seen)
    audit(caller, "pause", name, "paused", name)


async def _resume(readings: Readings, caller: Caller, name: str, seen: str | None = None) -> None:
    with audited(caller, "resume", name, name):
        await _require(readings, caller, name)
        was_paused = await readings.resume(name, seen)
    audit(caller, "resume", name, "resumed" if was_paused else "was not paused", name)


async def _require(readings: Readings, caller: Caller, name: str) -> None:
    if not caller.may_operate:
        raise Problem(403, "The role `operate` alone pauses and resumes.")
    await readings.overview()
    await readings.queues()
    if name not in readings.enterprise_managers:
        raise Problem(404, f"No worker knows an Enterprise Manager named {name}.")
