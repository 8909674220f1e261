"""Records of the ledger, as the API and the pages show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.console.keys import to_path
from worker.console.models import BatchDetail, ManagerItem, PauseItem, SightItem
from worker.ledger import BatchMember, BatchPage, Document, KeyHistory, Record
from worker.ledger.documents import cancellation_as_json, step_as_json
from worker.ledger.overview import Overview

if TYPE_CHECKING:
    from worker.console.readings import Queues

#: After this many seconds without a report a worker is regarded as dead; it reports every ten seconds.
LOST_SECONDS = 30.0


def unlink_item(record: Record) -> dict[str, Any]:
    """One unlink, for the API."""
    return {"href": f"/api/v1/unlinks/{to_path(record.entry.lease.key)}", **Document(record).as_json()}


def unlink_detail(history: KeyHistory, record: Record) -> dict[str, Any]:
    """One unlink with its steps and requests to cancel."""
    return {
        **unlink_item(record),
        "steps": [step_as_json(step) for step in history.steps],
        "steps_complete": history.steps_complete,
        "cancellations": [cancellation_as_json(each) for each in history.cancellations],
    }


def batch_detail(batch: str, page: BatchPage, following: str | None) -> BatchDetail:
    """The batches of an ID, for the API. `following` is the cursor of the next page."""
    href = f"/api/v1/batches/{to_path(batch)}"
    return BatchDetail.model_validate(
        {
            "href": href,
            "id": batch,
            "batches": [
                {
                    "enterprise_manager": each.enterprise_manager,
                    "sender": each.user_id,
                    "size": each.size,
                    "missing": each.missing,
                    "under_way": each.under_way,
                    "ended": each.ended,
                }
                for each in page.batches
            ],
            "members": [_batch_member(each) for each in page.members],
            "next": None if following is None else f"{href}?cursor={following}",
        }
    )


def _batch_member(member: BatchMember) -> dict[str, Any]:
    document = None if member.record is None else Document(member.record)
    return {
        "href": None if document is None else f"/api/v1/unlinks/{to_path(member.key)}",
        "idempotency_key": member.key,
        "enterprise_manager": member.batch.enterprise_manager,
        "sender": member.batch.user_id,
        "outcome": member.outcome,
        "ended_at": member.ended_at,
        "job": None if document is None else document.job,
        "repository": None if document is None else document.repository,
    }


def managers(names: tuple[str, ...], overview: Overview, queues: Queues) -> list[ManagerItem]:
    """Each Enterprise Manager, as the workers that are alive report it."""
    pauses = {pause.enterprise_manager: pause for pause in overview.pauses}
    items = []
    for name in names:
        sights = [
            SightItem(worker=worker.name, up=state.up, since=state.since, problem=state.problem)
            for worker in overview.workers
            if worker.seconds_ago <= LOST_SECONDS and (state := worker.enterprise_managers.get(name)) is not None
        ]
        pause, under_way = pauses.get(name), overview.under_way.get(name)
        items.append(
            ManagerItem(
                name=name,
                up=any(sight.up for sight in sights) if sights else None,
                paused=None
                if pause is None
                else PauseItem(paused_by=pause.paused_by, reason=pause.reason, paused_at=pause.paused_at),
                under_way=0 if under_way is None else under_way.count,
                tasks=0 if under_way is None else under_way.tasks,
                oldest_received_at=None if under_way is None else under_way.oldest,
                waiting=queues.waiting.get(name),
                workers=sights,
            )
        )
    return items
