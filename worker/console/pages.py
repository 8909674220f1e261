"""The web pages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from markupsafe import Markup

from contracts.events import RECORDED, RETRIED, ReasonCode
from worker.console.actions import Asking
from worker.console.api import PAGE, Known, Searched
from worker.console.charts import stacked_bars
from worker.console.keys import (
    from_cursor,
    from_member_cursor,
    from_path,
    query_of,
    to_cursor,
    to_member_cursor,
    to_path,
)
from worker.console.problems import Problem
from worker.console.readings import Queues, Readings
from worker.console.rendering import duration, render, render_part
from worker.console.views import managers
from worker.ledger import AUDIT_COLUMNS, Criteria, Document, KeyHistory, Record, RecordedStep
from worker.ledger.overview import HOURS, Overview
from worker.ledger.search_terms import whole_of
from worker.spreadsheet import line_of

router = APIRouter(include_in_schema=False)

#: How long a page says that what was asked is on its queue, in seconds; after that, something may hold it up.
_TAKEN_UP_SECONDS: Final = 60

#: In a link to a page: the run and the time, in seconds since 1970, of what was asked. 0: it is not known.
_Run = Annotated[int, Query(ge=0, le=1_000_000)]
_At = Annotated[int, Query(ge=0, le=10**10)]


class OverviewPart:
    """The part of the overview that updates by itself: the same for all callers, so that each reading is rendered once.

    A thousand open pages would otherwise render it two hundred times a second.
    """

    def __init__(self) -> None:
        self._of: tuple[Overview, Queues] | None = None
        self._html = Markup()

    async def html(self, readings: Readings) -> Markup:
        """It, as HTML.

        Raises:
            Problem: the ledger cannot be read now.
        """
        state, queues = await readings.overview(), await readings.queues()
        if self._of is None or self._of[0] is not state or self._of[1] is not queues:
            self._html = _overview_part(readings, state, queues)
            self._of = state, queues
        return self._html


def _overview_part(readings: Readings, state: Overview, queues: Queues) -> Markup:
    totals = {outcome: sum(hours) for outcome, hours in state.ended.items()}
    return render_part(
        "overview_part.html",
        state=state,
        queues=queues,
        managers=managers(readings.enterprise_managers, state, queues),
        under_way=sum(each.count for each in state.under_way.values()),
        totals={outcome: totals.get(outcome, 0) for outcome in RECORDED},
        chart=stacked_bars(state.ended, HOURS),
        hours=HOURS,
    )


@router.get("/", response_class=HTMLResponse)
async def overview(request: Request, readings: Known, *, part: bool = False) -> HTMLResponse:
    """The overview."""
    overview_part: OverviewPart = request.app.state.overview_part
    try:
        html = await overview_part.html(readings)
    except Problem as problem:
        if part:  # the open page keeps what it shows, and says that it is old
            raise
        return await _overview_without_ledger(request, readings, problem)
    if part:
        return HTMLResponse(html)
    return render(request.scope, "overview.html", page="overview", title="Overview", part=html)


async def _overview_without_ledger(request: Request, readings: Readings, problem: Problem) -> HTMLResponse:
    """What the broker knows."""
    values = {"page": "overview", "title": "Overview", "problem": problem, "queues": await readings.queues()}
    page = render(request.scope, "overview_away.html", problem.status, **values)
    page.headers.update(problem.headers or {})
    return page


@router.get("/unlinks", response_class=HTMLResponse)
async def unlinks(
    request: Request,
    readings: Known,
    search: Searched,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
) -> HTMLResponse:
    """The search."""
    problem: Problem | None = None
    page = None
    try:
        page = await readings.find(search.criteria(), from_cursor(cursor) if cursor else None, PAGE)
    except Problem as error:
        if error.status != 400:  # noqa: PLR2004 - the search is wrong: it is shown, to be corrected
            raise
        problem = error
    older = None
    if page is not None and page.next is not None:
        older = "/unlinks?" + query_of({**search.fields, "cursor": to_cursor(page.next)})
    return render(
        request.scope,
        "unlinks.html",
        400 if problem else 200,
        page="unlinks",
        title="Unlinks",
        search=search,
        found=page,
        documents=[] if page is None else [Document(record) for record in page.records],
        problem=problem,
        wrong={error["field"]: error["message"] for error in problem.errors} if problem else {},
        older=older,
        newest="/unlinks?" + query_of(search.fields) if cursor else None,
        csv="/unlinks.csv?" + query_of(search.fields),
        outcomes=RECORDED,
        reasons=sorted(ReasonCode),
    )


@router.get("/unlinks.csv")
async def audit_export(readings: Known, search: Searched) -> StreamingResponse:
    """The audit export of a search, as the command line writes it.

    While keys from before an upgrade are being made searchable, the file's name and a header say that some may be
    missing: a note inside the file would break it.
    """
    criteria = search.criteria()
    # If the ledger is away, answer with an error page, not with half a file.
    complete = (await readings.find(criteria, None, 1)).complete
    headers = {
        "Content-Disposition": f'attachment; filename="unlinks{"" if complete else "-incomplete"}.csv"',
        "Unlinks-Complete": str(complete).lower(),
    }
    return StreamingResponse(_csv(readings, criteria), media_type="text/csv; charset=utf-8", headers=headers)


def _csv(readings: Readings, criteria: Criteria) -> Iterator[str]:
    yield line_of(AUDIT_COLUMNS)
    for page in readings.pages(criteria):
        yield "".join(line_of(Document(record).audit_line()) for record in page.records)


@router.get("/unlinks/{key}", response_class=HTMLResponse)
async def unlink(
    request: Request,
    readings: Known,
    caller: Asking,
    key: str,
    *,
    part: bool = False,
    asked: Literal["cancel", "retry", "order", ""] = "",
    run: _Run = 0,
    at: _At = 0,
) -> HTMLResponse:
    """One unlink, with its time line. A button that was pressed adds what was `asked`, of which `run`, and when."""
    name = from_path(key)
    history = await (readings.recent_history(name) if part else readings.history(name))
    if history is None and asked == "order" and at:
        history = KeyHistory(None, ())
    if history is None:
        raise Problem(404, f"No worker has seen the key {name[:200]}, or it was pruned.")
    record = history.record
    document = None if record is None else Document(record)
    mine = record is not None and caller.may_change(record.user_id)
    outcome = None if record is None else record.outcome
    cancelling = record is not None and outcome is None and record.cancellation is not None
    waits = _waits(asked, run, record)
    return render(
        request.scope,
        "unlink_part.html" if part else "unlink.html",
        page="unlinks",
        title=name,
        key=name,
        history=history,
        document=document,
        steps=_timeline_of(history.steps),
        event_text=_indented(record),
        asked=asked,
        cancelling=cancelling,
        pending=waits and _is_recent(at),
        overdue=waits and not _is_recent(at),
        follows=outcome is None or waits,
        here=f"/unlinks/{to_path(name)}?"
        + query_of({"part": True, **({"asked": asked, "run": run, "at": at} if waits else {})}),
        may_cancel=mine and outcome is None and not cancelling,
        may_retry=mine and outcome in RETRIED,
    )


def _waits(asked: str, run: int, record: Record | None) -> bool:
    """Whether no worker has taken up what was asked of this run."""
    if record is None:
        return asked == "order"
    if record.outcome is None:
        return asked == "cancel" and record.entry.run == run and record.cancellation is None
    return asked == "retry" and record.entry.run <= run


@router.get("/batches/{id}", response_class=HTMLResponse)
async def batch(
    request: Request,
    readings: Known,
    caller: Asking,
    batch_id: Annotated[str, Path(alias="id")],
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
    *,
    part: bool = False,
    asked: Literal["order", "retry", ""] = "",
    at: _At = 0,
) -> HTMLResponse:
    """The batches of an ID, and their commands. A button that was pressed adds what was `asked`, and when."""
    name = from_path(batch_id)
    ordered = asked == "order" and at > 0
    found = await readings.batches(name, from_member_cursor(cursor) if cursor else None, PAGE, expected=ordered)
    here = f"/batches/{to_path(name)}"
    under_way = not found.batches or any(not each.has_ended for each in found.batches)
    pending = asked == "retry" and not under_way and _is_recent(at)
    kept = pending or ordered
    mine = [each for each in found.batches if caller.may_change(each.user_id)]
    return render(
        request.scope,
        "batch_part.html" if part else "batch.html",
        page="unlinks",
        title=f"Batch {name}",
        name=name,
        found=found,
        members=[(each, None if each.record is None else Document(each.record)) for each in found.members],
        under_way=under_way or pending,
        pending=pending,
        overdue=not _is_recent(at),
        may_retry=0 if pending else sum(each.ended[outcome] for each in mine for outcome in RETRIED),
        here=f"{here}?"
        + query_of({"part": True, "cursor": cursor, "asked": asked if kept else "", "at": at if kept else None}),
        first=here if cursor else None,
        following=None if found.next is None else f"{here}?cursor={to_member_cursor(found.next)}",
    )


def _is_recent(at: int) -> bool:
    """Whether a worker may still have to take up what was asked at this time, in seconds since 1970."""
    return abs(time.time() - at) < _TAKEN_UP_SECONDS


def _indented(record: Record | None) -> str:
    if record is None or record.event is None:
        return ""
    return json.dumps(whole_of(record.event), indent=2, ensure_ascii=False)


def _timeline_of(steps: tuple[RecordedStep, ...]) -> list[tuple[RecordedStep, str]]:
    """Each step with the time since the previous step."""
    line = []
    before: datetime | None = None
    for step in steps:
        waited = "" if before is None else f"+{duration((step.at - before).total_seconds())}"
        line.append((step, waited))
        before = step.at
    return line
