"""The console as an ASGI application."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from worker.console import api, pages
from worker.console.access import LoopbackOnly
from worker.console.problems import Problem, as_json, title_of, wants_json
from worker.console.readings import Readings

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from worker.settings import ConsoleProgramSettings
    from worker.unlinks.ports.clock import Clock

log = structlog.get_logger()

#: No script or style but the console's own files; nothing of another site, no frame around it.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    b"content-security-policy": _POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}


def create_app(settings: ConsoleProgramSettings, clock: Clock) -> ASGIApp:
    """The application.

    Raises:
        SettingsInvalidError: the ledger's URL cannot be read.
    """
    app = FastAPI(
        title="Unlink worker",
        version=version("unlink-worker"),
        summary="Unlinks, Enterprise Managers and workers, as the ledger and the broker know of them.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.readings = Readings(settings.ledger, settings.broker, clock)
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=pages.FOLDER / "static"))
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_wrong_request)
    app.add_exception_handler(Exception, _on_fault)
    return SecureHeaders(LoopbackOnly(app))


class SecureHeaders:
    """An ASGI middleware that adds what keeps a page from being misused, whatever answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to its answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                added = [(name, value) for name, value in _HEADERS.items() if name not in present]
                if b"cache-control" not in present:
                    added.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _answer(request: Request, problem: Problem) -> Response:
    return as_json(problem) if wants_json(request) else pages.problem_page(problem)


async def _on_problem(request: Request, error: Exception) -> Response:
    return _answer(request, error if isinstance(error, Problem) else Problem(500, title_of(500)))


async def _on_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    return _answer(request, Problem(status, f"{title_of(status)}.", headers=headers))


async def _on_wrong_request(request: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    errors = [{"field": str(each["loc"][-1]), "message": str(each["msg"])} for each in found]
    said = "; ".join(f"{each['field']}: {each['message']}" for each in errors)
    return _answer(request, Problem(400, said or title_of(400), errors))


async def _on_fault(request: Request, error: Exception) -> Response:
    log.error("console.fault", path=request.url.path, exc_info=error)
    return _answer(request, Problem(500, "The console has a fault; its log says more."))
