"""Offboarding a repository: the plan of all links to it, and the order of their removal as one batch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from contracts.commands import UnlinkCommand
from contracts.reading import UnreadableMessageError, read_command
from worker.console.actions import Asking, Ordering
from worker.console.catalogues import Catalogues, Listing, link_item
from worker.console.keys import to_path
from worker.console.models import OffboardingItem, OffboardingOrder
from worker.console.orders import Orders, broken, read_body
from worker.console.problems import Problem
from worker.console.users import Caller
from worker.enterprise_manager.catalogue import Catalogue
from worker.offboarding import backups_of, commands_of, counts_of

router = APIRouter()

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/OffboardingOrder"}}},
    }
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The links to a repository, and a command for each."""

    catalogue: Catalogue
    commands: list[UnlinkCommand]

    @property
    def batch(self) -> str | None:
        """The batch of the commands."""
        batch = self.commands[0].batch if self.commands else None
        return None if batch is None else batch.id

    @property
    def digest(self) -> str:
        """A digest of the links and of the linked backups at risk, to tell whether they have changed."""
        seen = [(each.job.id, each.link.object_in_job_id, backups_of(each)) for each in self.catalogue.links]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32]


async def plan_of(catalogues: Catalogues, order: OffboardingOrder, caller: Caller) -> Plan:
    """Look up the links, and make the commands."""
    if order.repository.link_id is not None:
        said = "must be given by uid or name"
        raise Problem(400, f"repository: {said}", [{"field": "repository", "message": said}])
    catalogue = await catalogues.of_repository(order.enterprise_manager, order.repository)
    given: dict[str, Any] = {
        "enterprise_manager": order.enterprise_manager,
        "allow_linked_backups_removal": order.allow_linked_backups_removal,
        "requested_by": order.requested_by or caller.name,
        "reason": order.reason,
        "ticket": None if order.ticket is None else order.ticket.model_dump(exclude_none=True),
    }
    try:
        commands = [read_command(json.dumps(each).encode()) for each in commands_of(catalogue, given)]
    except UnreadableMessageError as error:
        raise broken(error, error.__cause__) from None
    return Plan(catalogue, commands)


async def order_plan(orders: Orders, caller: Caller, plan: Plan, seen: str | None) -> int:
    """Order it. `seen`: the digest of the plan that the caller has seen."""
    if seen is not None and seen != plan.digest:
        raise Problem(409, "The links have changed since the plan was made: look at the new plan.")
    if plan.batch is None:
        if plan.commands:
            raise Problem(409, f"{len(plan.commands)} links are more than a batch may have.")
        return 0
    return await orders.offboard(caller, plan.batch, plan.commands, [each.job for each in plan.catalogue.links])


@router.post(
    "/api/v1/offboardings",
    operation_id="offboard",
    response_model=OffboardingItem,
    status_code=202,
    responses={200: {"model": OffboardingItem, "description": "The plan of a dry run, or there is no link."}},
    openapi_extra=_BODY,
)
async def offboard(request: Request, catalogues: Listing, orders: Ordering, caller: Asking) -> Response:
    """Remove all links to a repository, as one batch. The same request again sends the rest, and nothing twice.

    With `dry_run` the answer is the plan. Only where the console has an account on that Enterprise Manager.
    """
    order = read_body(await request.body(), OffboardingOrder)
    if not caller.may_order:
        raise Problem(403, "The role `read` may order nothing.")
    plan = await plan_of(catalogues, order, caller)
    ordered = 0 if order.dry_run else await order_plan(orders, caller, plan, order.plan)
    href = None if plan.batch is None else f"/api/v1/batches/{to_path(plan.batch)}"
    item = OffboardingItem(
        href=href,
        batch=plan.batch,
        plan=plan.digest,
        enterprise_manager=order.enterprise_manager,
        **counts_of(plan.catalogue),
        items=[link_item(each) for each in plan.catalogue.links],
        unread=list(plan.catalogue.missing),
        ordered=ordered,
    )
    headers = {"Cache-Control": "no-store", **({"Location": href} if href and ordered else {})}
    return Response(item.model_dump_json(), 202 if ordered else 200, headers, media_type="application/json")
