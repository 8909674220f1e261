"""Pages from templates."""

from __future__ import annotations

import hashlib
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastapi.responses import HTMLResponse
from jinja2 import ChainableUndefined, Environment, FileSystemLoader, select_autoescape
from markupsafe import Markup

from contracts.events import Outcome
from worker.console.audit import READING, log_refusal
from worker.console.keys import to_path
from worker.console.problems import Problem, as_json, title_of, wants_json
from worker.console.views import LOST_SECONDS
from worker.plain_text import visible

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import Scope

    from worker.console.users import Caller

FOLDER: Final = Path(__file__).parent

#: A digest of each static file. Its URL contains it, so that browsers keep the file until there is another one.
DIGESTS: Final = {
    each.name: hashlib.sha256(each.read_bytes()).hexdigest()[:16] for each in (FOLDER / "static").iterdir()
}

#: A shape for each state, so that no state is shown by colour alone.
SIGNS: Final = {
    Outcome.SUCCEEDED: "✓",
    Outcome.FAILED: "✕",
    Outcome.TIMED_OUT: "!",
    Outcome.CANCELLED: "⊘",
}


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=ChainableUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"path_of": to_path, "utc": _utc, "iso": _iso, "ago": duration}
    environment.globals |= {"signs": SIGNS, "lost_seconds": LOST_SECONDS, "static": _static}
    return environment


def _static(name: str) -> str:
    return f"/static/{name}?v={DIGESTS[name]}"


def _shown(value: object) -> object:
    """A text as people should see it. A field of a form keeps its value by the filter `e`, which comes before."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """A duration in its largest unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s" if seconds >= 10 else f"{max(seconds, 0.0):.1f} s"  # noqa: PLR2004 - a tenth says nothing


_TEMPLATES: Final = _environment()


def render(scope: Scope, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, or a part of one, for the caller."""
    caller: Caller | None = scope.get("state", {}).get("caller")
    return HTMLResponse(_TEMPLATES.get_template(template).render(caller=caller, **values), status)


def render_part(template: str, **values: Any) -> Markup:
    """A part of a page that is the same for every caller."""
    return Markup(_TEMPLATES.get_template(template).render(**values))  # noqa: S704 - its values are escaped


def answer(scope: Scope, problem: Problem) -> Response:
    """The problem as a document for programs, or as a page for people that says what to do."""
    log_refusal(scope, problem)
    if wants_json(scope):
        return as_json(problem)
    page = render(
        scope,
        "problem.html",
        problem.status,
        problem=problem,
        title=title_of(problem.status),
        page="",
        away=problem.status == HTTPStatus.SERVICE_UNAVAILABLE,
        # A request that is repeated by itself may neither do something twice nor use up a code of a login.
        again=scope["method"] in READING and not scope["path"].startswith("/login"),
    )
    page.headers.update(problem.headers or {})
    return page
