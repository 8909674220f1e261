"""Access with users: only signed-in callers, at the console's own address, from its own pages."""

from __future__ import annotations

import asyncio
import hmac
import re
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, quote, urlsplit

from starlette.responses import RedirectResponse

from worker.console.addresses import is_in, networks_of, without_port
from worker.console.audit import READING
from worker.console.problems import Again, Problem
from worker.console.rendering import answer, render
from worker.console.sessions import Sessions
from worker.console.users import Caller, Role, Users

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Paths that need no login.
_OPEN: Final = ("/login", "/static/")
#: Paths of probes: they use the pod's address, and their answers contain no data.
_PROBES: Final = frozenset({"/livez", "/readyz"})

#: The largest body, in bytes (a message of 64 KiB, encoded as a form), and how long it may take, in seconds.
MOST_BYTES: Final = 80 * 1024
BODY_SECONDS: Final = 10.0

_WRONG_TOKEN: Final = {"WWW-Authenticate": 'Bearer error="invalid_token"'}

_LOCAL: Final = re.compile(r"/(?![/\\])[^\\\x00-\x20]*")

FORM: Final = "application/x-www-form-urlencoded"


class SignedIn:
    """An ASGI middleware that identifies the caller, and refuses what the caller may not do or a foreign page has sent.

    Args:
        app: the application that is protected.
        users: all users.
        sessions: their sessions.
        public_url: the only address that is served, as `https://host`.
        trusted_proxies: addresses and networks, separated by commas, whose X-Forwarded-For is trusted.
    """

    def __init__(self, app: ASGIApp, users: Users, sessions: Sessions, public_url: str, trusted_proxies: str) -> None:
        self._app = app
        self._users = users
        self._sessions = sessions
        self._origin = public_url
        self._host = _without_port(public_url)
        self._proxies = networks_of(trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, or refuse."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        if scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        try:
            received = await self._let_in(scope, receive)
        except Problem as problem:
            await answer(scope, problem)(scope, receive, send)
            return
        if received is None:
            await _to_login(scope)(scope, receive, send)
        else:
            await self._app(scope, received, send)

    async def _let_in(self, scope: Scope, receive: Receive) -> Receive | None:
        """Check a request. Return the function that receives its body, or None if the caller has to sign in first."""
        headers = _headers(scope)
        if len(headers.get("host", [])) != 1 or _without_port(f"{self._scheme}://{headers['host'][0]}") != self._host:
            raise Problem(421, f"This console answers at {self._origin} alone (UNLINK_CONSOLE__PUBLIC_URL).")
        state = scope.setdefault("state", {})
        state["address"] = address = self._address(scope, headers)
        state["caller"] = caller = self._caller(headers, address)
        reading, path = scope["method"] in READING, scope["path"]
        if caller is None and not path.startswith(_OPEN):
            if "hx-request" in headers:  # a part of an open page: the page is loaded again, and leads to the login
                raise Problem(401, "Sign in again.", headers={"HX-Refresh": "true"})
            if reading and not path.startswith("/api/"):
                return None
            problem = Problem(401, "Sign in, or send a token.", headers={"WWW-Authenticate": "Bearer"})
            if self._is_own_page(headers) and _is_form(headers) and not path.startswith(("/logout", "/api/")):
                problem.again = _again(path, await _body(headers, receive))
                problem.detail = "You are not signed in any more, and so nothing was done."
            raise problem
        if reading:
            return receive
        body = await _body(headers, receive)
        if path == "/login":
            self._require_own_page(scope, headers, body, None)  # its page may be older than the session
            return _replayed(body, receive)
        if caller is None or caller.csrf is not None:
            self._require_own_page(scope, headers, body, caller)
        if caller is not None and caller.role is Role.READ and path != "/logout":
            raise Problem(403, "The role `read` may look at everything, and change nothing.")
        return _replayed(body, receive)

    @property
    def _scheme(self) -> str:
        return urlsplit(self._origin).scheme

    def _caller(self, headers: dict[str, list[str]], address: str) -> Caller | None:
        if "authorization" in headers:
            kind, _, token = headers["authorization"][0].partition(" ")
            user = self._users.with_token(token.strip()) if kind.lower() == "bearer" else None
            if user is None or len(headers["authorization"]) > 1:
                raise Problem(401, "The token is of no user.", headers=_WRONG_TOKEN)
            return Caller(user.name, user.role, address)
        try:
            jar = SimpleCookie("; ".join(headers.get("cookie", [])))
        except CookieError:
            return None
        morsel = jar.get(self._sessions.cookie)
        session = None if morsel is None else self._sessions.read(morsel.value)
        return None if session is None else Caller(session.name, session.role, address, session.csrf)

    def _is_own_page(self, headers: dict[str, list[str]]) -> bool:
        """Whether the browser names a page of this console as the origin."""
        origins = headers.get("origin", [])
        site = headers.get("sec-fetch-site", [])
        return origins == [self._origin] or (not origins and site == ["same-origin"])

    def _require_own_page(
        self, scope: Scope, headers: dict[str, list[str]], body: bytes, caller: Caller | None
    ) -> None:
        """Require that a page of this console sent the request: foreign pages can send requests with our cookie.

        The browser names the origin of the page, and a page of a signed-in user contains the session's token.
        """
        if not self._is_own_page(headers):
            raise Problem(403, "This was not sent by a page of this console.")
        if caller is None:
            return
        sent = headers.get("x-csrf-token", [])
        if not sent and _is_form(headers):
            sent = form_of(body).get("csrf", [])
        if len(sent) != 1 or not hmac.compare_digest(sent[0].encode(), (caller.csrf or "").encode()):
            problem = Problem(403, "The page is too old: load it again, and repeat what you did.")
            if _is_form(headers):
                problem.again = _again(scope["path"], body)
                problem.detail = "The page is older than your session. Nothing was done yet."
            raise problem

    def _address(self, scope: Scope, headers: dict[str, list[str]]) -> str:
        """The client's address: the last one in the chain that is not a trusted proxy's."""
        address = str((scope.get("client") or ("unknown",))[0])
        hops = [each.strip() for each in ",".join(headers.get("x-forwarded-for", [])).split(",") if each.strip()]
        while hops and is_in(address, self._proxies):
            address = without_port(hops.pop())
        return address[:64]


def _to_login(scope: Scope) -> Response:
    """Send the browser to the login.

    A page of another site, such as a ticket, may have led here: then the browser has sent no `SameSite=Strict` cookie.
    It is given a page that leads to the same address, and sends the cookie with that request.
    """
    query = scope["query_string"].decode("latin-1")
    here = quote(scope["path"]) + (f"?{query}" if query else "")
    if _headers(scope).get("sec-fetch-site") == ["cross-site"]:
        return render(scope, "onward.html", page="", title="Unlink worker", after=local_path(here))
    return RedirectResponse(f"/login?next={quote(here)}", 303)


def local_path(path: str) -> str:
    """The path if it is one of this console, else `/`: nobody is sent elsewhere."""
    return path if _LOCAL.fullmatch(path) else "/"


def form_of(body: bytes) -> dict[str, list[str]]:
    """The fields of a form.

    Raises:
        Problem: it is none; 400.
    """
    try:
        return parse_qs(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=50)
    except ValueError:
        raise Problem(400, "This is no form as a browser sends it.") from None


def _is_form(headers: dict[str, list[str]]) -> bool:
    return headers.get("content-type", [""])[0].partition(";")[0].strip().lower() == FORM


def _again(path: str, body: bytes) -> Again:
    """The form, to be sent again after the login, with the token of the new session and after a look at it."""
    fields = ((name, value) for name, values in form_of(body).items() for value in values if name != "csrf")
    return Again(local_path(quote(path)), tuple(fields))


async def _body(headers: dict[str, list[str]], receive: Receive) -> bytes:
    try:
        length = int(headers.get("content-length", ["0"])[0])
    except ValueError:
        length = 0
    if length > MOST_BYTES:
        raise Problem(413, f"At most {MOST_BYTES} bytes are read.", headers={"Connection": "close"})
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Problem(400, "The request ended early.")
                body += bytes(message.get("body", b""))
                if len(body) > MOST_BYTES:
                    raise Problem(413, f"At most {MOST_BYTES} bytes are read.", headers={"Connection": "close"})
                if not message.get("more_body", False):
                    return body
    except TimeoutError:
        raise Problem(408, "The request took too long.", headers={"Connection": "close"}) from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def once() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _headers(scope: Scope) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return headers


def _without_port(url: str) -> tuple[str, int] | None:
    """Host and port, by default the scheme's port; None if there is no host."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return None
    if parts.path or parts.query or parts.fragment or parts.username is not None or parts.hostname is None:
        return None
    return parts.hostname.lower(), port
