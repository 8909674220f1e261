"""The pages for people."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, StreamingResponse
from jinja2 import ChainableUndefined, Environment, FileSystemLoader, select_autoescape

from contracts.events import Outcome, ReasonCode
from worker.console.api import PAGE, Known, Searched
from worker.console.charts import stacked_bars
from worker.console.keys import from_cursor, from_path, query_of, to_cursor, to_path
from worker.console.problems import Problem, title_of
from worker.console.searching import ENDED
from worker.console.views import LOST_SECONDS, managers
from worker.ledger import AUDIT_COLUMNS, Document
from worker.ledger.overview import HOURS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from worker.console.readings import Readings
    from worker.ledger import Criteria, Record, RecordedStep

FOLDER: Final = Path(__file__).parent

#: A shape for each state, so that none is told by colour alone.
SIGNS: Final = {
    Outcome.SUCCEEDED: "✓",
    Outcome.FAILED: "✕",
    Outcome.TIMED_OUT: "!",
    Outcome.CANCELLED: "⊘",
}

router = APIRouter(include_in_schema=False)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"path_of": to_path, "utc": _utc, "iso": _iso, "ago": _ago}
    environment.globals |= {"signs": SIGNS, "lost_seconds": LOST_SECONDS}
    return environment


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ago(seconds: float) -> str:
    """A duration in its largest unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s" if seconds >= 10 else f"{max(seconds, 0.0):.1f} s"  # noqa: PLR2004 - a tenth says nothing


_TEMPLATES: Final = _environment()


def render(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, or a part of one."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(**values), status)


def problem_page(problem: Problem) -> HTMLResponse:
    """What is wrong, and what to do."""
    return render("problem.html", problem.status, problem=problem, title=title_of(problem.status), page="")


@router.get("/", response_class=HTMLResponse)
async def overview(readings: Known, *, part: bool = False) -> HTMLResponse:
    """The state of the whole."""
    state = await readings.overview()
    queues = await readings.queues()
    totals = {outcome: sum(hours) for outcome, hours in state.ended.items()}
    return render(
        "overview_part.html" if part else "overview.html",
        page="overview",
        title="Overview",
        state=state,
        queues=queues,
        managers=managers(readings.enterprise_managers, state, queues),
        under_way=sum(each.count for each in state.under_way.values()),
        totals={outcome: totals.get(outcome, 0) for outcome in ENDED},
        chart=stacked_bars(state.ended, HOURS),
        hours=HOURS,
    )


@router.get("/unlinks", response_class=HTMLResponse)
async def unlinks(
    readings: Known, search: Searched, cursor: Annotated[str | None, Query(max_length=1000)] = None
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
        outcomes=ENDED,
        reasons=sorted(ReasonCode),
    )


@router.get("/unlinks.csv")
async def audit_export(readings: Known, search: Searched) -> StreamingResponse:
    """The audit export of a search, as the command line has it."""
    criteria = search.criteria()
    await readings.find(criteria, None, 1)  # a ledger that is away is a page, not half a file
    headers = {"Content-Disposition": 'attachment; filename="unlinks.csv"'}
    return StreamingResponse(_csv(readings, criteria), media_type="text/csv; charset=utf-8", headers=headers)


def _csv(readings: Readings, criteria: Criteria) -> Iterator[str]:
    yield _line(AUDIT_COLUMNS)
    for page in readings.pages(criteria):
        yield "".join(_line(Document(record).audit_line()) for record in page.records)


def _line(cells: Any) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


@router.get("/unlinks/{key}", response_class=HTMLResponse)
async def unlink(readings: Known, key: str, *, part: bool = False) -> HTMLResponse:
    """One unlink, with its time line."""
    name = from_path(key)
    history = await readings.history(name)
    if history is None:
        raise Problem(404, f"No worker has seen the key {name[:200]}, or it was pruned.")
    document = None if history.record is None else Document(history.record)
    return render(
        "unlink_part.html" if part else "unlink.html",
        page="unlinks",
        title=name,
        key=name,
        history=history,
        document=document,
        steps=_time_line(history.steps),
        event_text=_indented(history.record),
    )


def _indented(record: Record | None) -> str:
    if record is None or record.event is None:
        return ""
    return json.dumps(json.loads(record.event), indent=2, ensure_ascii=False)


def _time_line(steps: tuple[RecordedStep, ...]) -> list[tuple[RecordedStep, str]]:
    """Each step with the time that had passed since the one before."""
    told = []
    before: datetime | None = None
    for step in steps:
        waited = "" if before is None else f"+{_ago((step.at - before).total_seconds())}"
        told.append((step, waited))
        before = step.at
    return told
