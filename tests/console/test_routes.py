"""Every route of the application, with the role that it needs: a new one without an entry here fails the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from contracts.events import Outcome
from tests.console.conftest import Console, Estate, bearer
from tests.console.test_users import csrf_of, log_in
from worker.console.app import create_app
from worker.settings import ConsoleProgramSettings

ROLES: Final = ("read", "submit", "operate")

#: The key of an unlink that `submit-program` has ordered, and a dead letter that is not there.
KEY, DIGEST = "Q0hHMQ", "0" * 64

#: Paths by route, each with the least role that may use it; None: it needs no login.
ROUTES: Final[dict[str, list[tuple[str, str | None]]]] = {
    "GET /": [("/", "read")],
    "GET /unlinks": [("/unlinks", "read")],
    "GET /unlinks.csv": [("/unlinks.csv", "read")],
    "GET /unlinks/{key}": [(f"/unlinks/{KEY}", "read")],
    "POST /unlinks/{key}/{action}": [(f"/unlinks/{KEY}/{action}", "submit") for action in ("cancel", "retry", "x")],
    "GET /batches/{id}": [(f"/batches/{KEY}", "read")],
    "POST /batches/{id}/retry": [(f"/batches/{KEY}/retry", "submit")],
    "GET /dead-letters": [("/dead-letters", "read"), ("/dead-letters?read=true", "read")],
    "POST /dead-letters/{action}": [
        (f"/dead-letters/{action}?ids={DIGEST}", "operate") for action in ("replay", "discard")
    ],
    "GET /enterprise-managers": [("/enterprise-managers", "read")],
    "GET /enterprise-managers/{name}": [("/enterprise-managers/default", "submit")],
    "POST /enterprise-managers/{name}/{action}": [
        ("/enterprise-managers/default/plan", "submit"),
        ("/enterprise-managers/default/unlinks", "submit"),
        ("/enterprise-managers/default/offboardings", "submit"),
        ("/enterprise-managers/default/pause", "operate"),
        ("/enterprise-managers/default/resume", "operate"),
    ],
    "GET /api/v1/openapi.json": [("/api/v1/openapi.json", "read")],
    "GET /api/v1/unlinks": [("/api/v1/unlinks", "read")],
    "POST /api/v1/unlinks": [("/api/v1/unlinks", "submit")],
    "GET /api/v1/unlinks/{key}": [(f"/api/v1/unlinks/{KEY}", "read")],
    "POST /api/v1/unlinks/{key}/cancel": [(f"/api/v1/unlinks/{KEY}/cancel", "submit")],
    "POST /api/v1/unlinks/{key}/retry": [(f"/api/v1/unlinks/{KEY}/retry", "submit")],
    "GET /api/v1/batches/{id}": [(f"/api/v1/batches/{KEY}", "read")],
    "GET /api/v1/events": [("/api/v1/events", "read")],
    "POST /api/v1/offboardings": [("/api/v1/offboardings", "submit")],
    "GET /api/v1/enterprise-managers": [("/api/v1/enterprise-managers", "read")],
    "GET /api/v1/enterprise-managers/{name}/links": [("/api/v1/enterprise-managers/default/links", "read")],
    "POST /api/v1/enterprise-managers/{name}/pause": [("/api/v1/enterprise-managers/default/pause", "operate")],
    "POST /api/v1/enterprise-managers/{name}/resume": [("/api/v1/enterprise-managers/default/resume", "operate")],
    "GET /api/v1/dead-letters": [("/api/v1/dead-letters", "read")],
    "POST /api/v1/dead-letters/{id}/replay": [(f"/api/v1/dead-letters/{DIGEST}/replay", "operate")],
    "POST /api/v1/dead-letters/{id}/discard": [(f"/api/v1/dead-letters/{DIGEST}/discard", "operate")],
    "GET /login": [("/login", None)],
    "POST /login": [("/login", None)],
    "GET /login/oidc": [("/login/oidc", None)],
    "GET /login/callback": [("/login/callback", None)],
    "POST /logout": [("/logout", "read")],
    "GET /static": [("/static/console.css", None)],
    "GET /livez": [("/livez", None)],
    "GET /readyz": [("/readyz", None)],
}

ASKED: Final = [(route.partition(" ")[0], path, role) for route, paths in ROUTES.items() for path, role in paths]

#: The answer to one who has not signed in: refused, or sent to the form.
SENT_AWAY: Final = {401, 303}


def status(console: Console, method: str, path: str, **options: Any) -> int:
    """How it is answered. The body is not read: a stream has no end."""
    form = {"ids": DIGEST} if path.startswith("/dead-letters/") else None
    with console.client.stream(method, path, data=form, **options) as answer:
        return answer.status_code


def routes_of(estate: Estate) -> dict[str, Any]:
    """Each route, by its method and path."""
    app: Any = create_app(ConsoleProgramSettings(ledger=estate.settings, broker=None), estate.clock)
    while not hasattr(app, "routes"):
        app = app._app  # noqa: SLF001 - the application inside its middlewares
    # FastAPI keeps the routes of a router in the router.
    routes = [
        route
        for each in app.routes
        for route in (each.original_router.routes if hasattr(each, "original_router") else [each])
    ]
    return {
        f"{method} {route.path}": route
        for route in routes
        for method in (getattr(route, "methods", None) or {"GET"}) - {"HEAD"}
    }


def test_every_route_is_in_the_table(estate: Estate) -> None:
    """A new page, or a new button, would be open to everybody, and no test would say so."""
    assert routes_of(estate).keys() == ROUTES.keys()


#: Numbers, times and texts that a conversion may fail on.
EXTREMES: Final = (
    *("9" * 400, "9" * 5000, "-1", "1e400", "nan", "\u0663"),
    *("0001-01-01", "0001-01-01T00:00+23:59", "9999-12-31T23:59:59-23:59", "999999w"),
    *("[" * 900, "W1tb" * 249, "\0", "x" * 900),
)


def parameters_of(declared: Any) -> Iterator[str]:
    """The parameters of a query."""
    yield from (each.alias for each in declared.query_params)
    for inner in declared.dependencies:
        yield from parameters_of(inner)


def test_no_parameter_is_a_fault(guarded: Console, estate: Estate) -> None:
    """Whoever sends such a link fills the log with stack traces."""
    estate.end(estate.order("CHG1"), Outcome.FAILED)
    parameters = 0
    for name, route in routes_of(estate).items():
        method = name.partition(" ")[0]
        declared = getattr(route, "dependant", None)  # codespell:ignore - FastAPI's own word
        for given in parameters_of(declared) if declared else ():
            parameters += 1
            for value in EXTREMES:
                query = {"asked": "retry", "run": "1", "at": "1", given: value}
                answered = status(guarded, method, ROUTES[name][0][0], params=query, headers=bearer("operate"))
                assert answered < 500 or method == "POST", (name, given, value[:50], answered)  # POST: no broker
    assert parameters > 40


def test_each_route_serves_the_roles_that_it_should(guarded: Console, estate: Estate) -> None:
    """A reader would order, or an operator be refused; or somebody whom nobody knows come in."""
    estate.end(estate.order("CHG1", user_id="console:submit-program"), Outcome.FAILED)
    for method, path, least in ASKED:
        stranger = status(guarded, method, path)
        assert (stranger in SENT_AWAY) == (least is not None), (method, path, stranger)
        for role in () if least is None else ROLES:
            answered = status(guarded, method, path, headers=bearer(role))
            assert (answered == 403) == (ROLES.index(role) < ROLES.index(least or "")), (method, path, role, answered)
            assert answered not in {401, 405, 500}, (method, path, role, answered)


@pytest.mark.parametrize(
    ("headers", "let_through"),
    [
        ({}, True),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"X-CSRF-Token": "0" * 64}, False),
        ({"X-CSRF-Token": ""}, False),
    ],
)
def test_no_foreign_page_can_use_a_route(
    guarded: Console, estate: Estate, headers: dict[str, str], let_through: bool
) -> None:
    """Any web site could act in the name of who looks at it, by a route that was forgotten."""
    estate.order("CHG1")
    log_in(guarded, "operateer")
    own = {"Origin": guarded.url, "X-CSRF-Token": csrf_of(guarded)}
    for method, path, least in ASKED:
        if method != "GET" and least is not None and path != "/logout":
            answered = status(guarded, method, path, headers=own | headers)
            assert (answered not in {401, 403}) == let_through, (path, answered)


def test_a_site_is_given_no_answer_that_it_could_read(guarded: Console) -> None:
    """A foreign page could read what a browser with a session gets."""
    log_in(guarded, "reader")
    foreign = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for method in ("GET", "OPTIONS"):
        answer = guarded.client.request(method, "/api/v1/unlinks", headers=foreign)
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
