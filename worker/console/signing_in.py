"""Signing in and out."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from worker.console.problems import Problem
from worker.console.rendering import render
from worker.console.sessions import KNOWN, Sessions
from worker.console.signed_in import form_of, local_path
from worker.console.throttle import Throttle
from worker.console.users import Users
from worker.unlinks.ports.clock import Clock

log = structlog.get_logger()

router = APIRouter(include_in_schema=False)

#: How many passwords are compared at once; each takes 64 MiB and a core.
_AT_ONCE: Final = 2
#: The longest password that is compared, in characters.
_LONGEST: Final = 1000


class SignIn:
    """Compares passwords, a limited number at once."""

    def __init__(self, users: Users, sessions: Sessions, clock: Clock) -> None:
        self.sessions = sessions
        self._users = users
        self._throttle = Throttle(clock)
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    @property
    def has_passwords(self) -> bool:
        """Whether anybody has a password here."""
        return self._users.from_file

    async def cookies_for(self, name: str, password: str, address: str, mark: str | None) -> list[str]:
        """The cookies of a new session; none if name or password is wrong. `mark`: that of a known browser.

        Raises:
            Problem: too many were wrong; 429.
        """
        known = self.sessions.known(mark, name)
        if (seconds := self._throttle.seconds_to_wait(name, address, known)) > 0:
            log.warning("console.login_throttled", user=name, address=address)
            wait = {"Retry-After": str(int(seconds) + 1)}
            problem = Problem(429, f"Too many logins failed. Wait {int(seconds) + 1} s, then try again.", headers=wait)
            problem.logged = True
            raise problem
        self._throttle.failed(name, address, known)
        async with self._at_once:
            user = await asyncio.to_thread(self._users.with_password, name, password)
        if user is None:
            log.warning("console.login_refused", user=name, address=address)
            return []
        self._throttle.succeeded(name, address, known)
        log.info("console.login", user=user.name, role=user.role.value, address=address)
        return [self.sessions.begin(user), *([] if known else [self.sessions.know(user)])]


def sign_in_of(request: Request) -> SignIn:
    """The login of this application.

    Raises:
        Problem: there are no users; 404.
    """
    sign_in: SignIn | None = request.app.state.sign_in
    if sign_in is None:
        raise Problem(404, "This console has no users.")
    return sign_in


@router.get("/login", response_class=HTMLResponse)
async def login_page(request: Request, after: Annotated[str, Query(alias="next", max_length=2000)] = "/") -> Response:
    """The form, for those who are not signed in."""
    sign_in_of(request)
    if request.state.caller is not None:  # in another tab
        return RedirectResponse(local_path(after), 303)
    return render(
        request.scope,
        "login.html",
        page="",
        title="Sign in",
        after=local_path(after),
        wrong=False,
        name="",
        **_ways(request),
    )


@router.post("/login", response_class=HTMLResponse)
async def login(request: Request) -> Response:
    """Sign in with name and password."""
    form = form_of(await request.body())
    name, password = form.get("name", [""])[-1].strip()[:64], form.get("password", [""])[-1][:_LONGEST]
    after = local_path(form.get("next", ["/"])[-1])
    mark = request.cookies.get(KNOWN)
    cookies = await sign_in_of(request).cookies_for(name, password, request.state.address, mark)
    if not cookies:
        return render(
            request.scope,
            "login.html",
            401,
            page="",
            title="Sign in",
            after=after,
            wrong=True,
            name=name,
            **_ways(request),
        )
    answer = RedirectResponse(after, 303)
    for cookie in cookies:
        answer.headers.append("Set-Cookie", cookie)
    return answer


def _ways(request: Request) -> dict[str, bool]:
    """The ways of signing in that there are."""
    return {"by_password": sign_in_of(request).has_passwords, "by_provider": request.app.state.oidc is not None}


@router.post("/logout")
async def logout(request: Request) -> RedirectResponse:
    """Sign out."""
    log.info("console.logout", user=request.state.caller.name, address=request.state.address)
    return RedirectResponse("/login", 303, {"Set-Cookie": sign_in_of(request).sessions.end()})
