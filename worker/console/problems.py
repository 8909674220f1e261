"""Errors of requests: problem details for programs (RFC 9457), a page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import Scope

MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Again:
    """A form of this console's own page that was sent and not carried out. Fields of the form, without its token."""

    path: str
    fields: tuple[tuple[str, str], ...]


class Problem(Exception):  # noqa: N818 - it reads as what it becomes
    """Ends a request. `detail` is one sentence for a person; `errors` name each wrong field.

    `logged`: whether an audit line names it already. `again`: the form that was sent, to be sent again.
    """

    logged = False
    again: Again | None = None

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers


def title_of(status: int) -> str:
    """The phrase of the HTTP status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def as_json(problem: Problem) -> Response:
    """The problem document."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": title_of(problem.status),
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.errors:
        content["errors"] = [dict(error) for error in problem.errors]
    return JSONResponse(content, problem.status, media_type=MEDIA_TYPE, headers=dict(problem.headers or {}))


def wants_json(scope: Scope) -> bool:
    """Whether the path belongs to the API for programs."""
    return str(scope["path"]).startswith("/api/")
