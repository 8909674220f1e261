"""The console as an ASGI application."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from contracts.commands import UnlinkCommand
from worker.console import (
    actions,
    api,
    catalogues,
    dead_letters,
    managers,
    offboardings,
    oidc,
    pages,
    probes,
    signing_in,
    streams,
)
from worker.console.access import LoopbackOnly, is_loopback
from worker.console.catalogues import Catalogues
from worker.console.dead_letters import DeadLetters
from worker.console.models import OffboardingOrder, ProblemDocument, StepEvent, Why, WhyAndRun
from worker.console.oidc import Oidc
from worker.console.orders import Orders
from worker.console.problems import MEDIA_TYPE, Problem, title_of
from worker.console.readings import Readings
from worker.console.rendering import DIGESTS, FOLDER, answer
from worker.console.sessions import Sessions
from worker.console.signed_in import SignedIn
from worker.console.signing_in import SignIn
from worker.console.streams import Streams
from worker.console.users import Users
from worker.policy_file import policy_in
from worker.settings import ConsoleProgramSettings, SettingsInvalidError
from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    import os

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger()

#: More than the orders, logins and readings of lists that are carried out at once, so that none waits for another kind.
_THREADS: Final = 64

#: Allows only the console's own scripts and styles, nothing from other sites, and no frame around a page.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    b"content-security-policy": _POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}


_PROBLEM: Final = {
    "description": "It was not done: a problem document (RFC 9457).",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
}


def create_app(settings: ConsoleProgramSettings, clock: Clock, ending: threading.Event | None = None) -> ASGIApp:
    """The application. `ending` is set when it is to stop: what waits, ends its wait.

    Raises:
        SettingsInvalidError: the ledger's URL, the policy or the users cannot be read.
    """
    app = FastAPI(
        title="Unlink worker",
        version=version("unlink-worker"),
        summary="Unlinks, Enterprise Managers and workers, as the ledger and the broker know of them.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=_until_closed,
    )
    readings = app.state.readings = Readings(settings.ledger, settings.broker, clock, settings.enterprise_managers)
    app.state.orders = Orders(settings.broker, policy_in(settings.policy_file), readings, ending or threading.Event())
    app.state.sign_in = app.state.oidc = None
    app.state.dead_letters = DeadLetters(settings, clock)
    app.state.streams = Streams(readings)
    app.state.overview_part = pages.OverviewPart()
    app.state.catalogues = Catalogues(settings.enterprise_managers, clock)
    for each in (
        api,
        actions,
        streams,
        catalogues,
        offboardings,
        managers,
        dead_letters,
        pages,
        signing_in,
        oidc,
        probes,
    ):
        app.include_router(each.router)
    app.mount("/static", _Static(directory=FOLDER / "static"))
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_wrong_request)
    app.add_exception_handler(Exception, _on_fault)
    app.openapi = partial(_described, app, app.openapi)  # type: ignore[method-assign] # FastAPI's documented way
    return SecureHeaders(_protected(app, settings, clock))


@asynccontextmanager
async def _until_closed(app: FastAPI) -> AsyncIterator[None]:
    """While the server runs; then the connections to the ledger are closed."""
    # asyncio's own pool has a few threads for each core: some orders that wait would leave none for the pages.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "console"))
    yield
    await asyncio.get_running_loop().shutdown_default_executor()  # the readings that have not ended
    app.state.readings.close()


def _protected(app: FastAPI, settings: ConsoleProgramSettings, clock: Clock) -> ASGIApp:
    console = settings.console
    if not console.has_users:
        return LoopbackOnly(app)
    public_url = console.public_url
    if public_url is None and (is_loopback(console.host) or console.host == "localhost"):
        host = f"[{console.host}]" if ":" in console.host else console.host
        public_url = f"http://{host}:{console.port}"
    if public_url is None:
        raise SettingsInvalidError("UNLINK_CONSOLE__PUBLIC_URL: is needed with users, and not set")
    users = Users(console.users_file)
    sessions = Sessions(settings, users, secure=public_url.startswith("https:"))
    app.state.sign_in = SignIn(users, sessions, clock)
    app.state.oidc = None if console.oidc is None else Oidc(console.oidc, users, public_url)
    return SignedIn(app, users, sessions, public_url, console.trusted_proxies)


def _described(app: FastAPI, made: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The OpenAPI document, with the contract's own model of a command, and the console's own errors.

    FastAPI describes an answer 422 of its own, which the console does not give.
    """
    if app.openapi_schema is None:
        document = made()
        _, models = models_json_schema(
            [
                (UnlinkCommand, "validation"),
                (StepEvent, "serialization"),
                (OffboardingOrder, "validation"),
                (Why, "validation"),
                (WhyAndRun, "validation"),
                (ProblemDocument, "serialization"),
            ],
            ref_template="#/components/schemas/{model}",
            title=None,
        )
        components = document["components"]
        components["schemas"] |= models["$defs"]
        for name in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(name, None)
        components["responses"] = {"Problem": _PROBLEM}
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}, {}]  # without users, none is needed
        for operation in (each for methods in document["paths"].values() for each in methods.values()):
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"$ref": "#/components/responses/Problem"}
        app.openapi_schema = document
    return app.openapi_schema


class _Static(StaticFiles):
    """The static files. Browsers keep one whose URL names its digest; they ask whether another one has changed."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """A file, or that it has not changed."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        digest = DIGESTS.get(Path(full_path).name)
        kept = digest is not None and scope["query_string"] == f"v={digest}".encode()
        response.headers["Cache-Control"] = "max-age=31536000, immutable" if kept else "no-cache"
        return response


class SecureHeaders:
    """An ASGI middleware that adds security headers to every answer, and answers HEAD as GET without the body.

    The server leaves the body out.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to its answer."""
        if scope["type"] == "http" and scope["method"] == "HEAD" and scope["path"] != "/api/v1/events":
            scope = {**scope, "method": "GET"}

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
    return answer(request.scope, problem)


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
