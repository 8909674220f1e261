"""Signing in by OpenID Connect: the code flow with PKCE (OpenID Connect Core 1.0, section 3.1; RFC 7636).

The ID token comes directly from the token endpoint, over TLS that is verified. The specification accepts that in place
of the token's signature (section 3.1.3.7, point 6), so that no keys are fetched here. All other checks are made.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import requests
import structlog
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from worker.console.problems import Problem
from worker.console.rendering import render
from worker.console.signed_in import local_path
from worker.console.users import Role, Users
from worker.settings import OidcSettings

log = structlog.get_logger()

router = APIRouter(include_in_schema=False)

CALLBACK: Final = "/login/callback"

_TIMEOUT_SECONDS: Final = 10.0
_AT_ONCE: Final = 8
#: How long a person may take at the provider, and by how much its clock may differ, in seconds.
_LOGIN_SECONDS: Final = 600
_LEEWAY_SECONDS: Final = 60
_LARGEST: Final = 256 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9._@|:/+=-]{1,128}")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class _Provider:
    """What the provider's discovery document says."""

    authorization_endpoint: str
    token_endpoint: str
    secret_in_body: bool


@dataclass(frozen=True, slots=True)
class _Begun:
    """A login that was begun: what the browser keeps in a signed cookie meanwhile."""

    state: str
    nonce: str
    verifier: str
    after: str
    ends: int


class Oidc:
    """Signs people in by a provider.

    Raises:
        Problem: in every method: the provider does not answer (503), or the login is not valid (400, 403).
    """

    def __init__(self, settings: OidcSettings, users: Users, public_url: str) -> None:
        self._settings = settings
        self._users = users
        self._redirect_uri = public_url + CALLBACK
        self._secure = public_url.startswith("https:")
        # With this prefix, browsers accept it from this host alone. A sibling host could otherwise set the cookie of a
        # login of its own, and send people to the callback, where they would be signed in under its name.
        self.cookie = "__Host-unlink-oidc" if self._secure else "unlink-oidc"
        self._key = hmac.digest(settings.client_secret.get_secret_value().encode(), b"login", "sha256")
        self._provider: _Provider | None = None
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def begin(self, after: str) -> tuple[str, str]:
        """Where to send the browser, and the header `Set-Cookie`."""
        provider = await self._discovered()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        begun = _Begun(state, nonce, verifier, after, int(time.time()) + _LOGIN_SECONDS)
        challenge = _base64url(hashlib.sha256(begun.verifier.encode()).digest())
        query = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": "openid profile",
            "state": begun.state,
            "nonce": begun.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        join = "&" if "?" in provider.authorization_endpoint else "?"
        text = _base64url(json.dumps([begun.state, begun.nonce, begun.verifier, begun.after, begun.ends]).encode())
        return f"{provider.authorization_endpoint}{join}{urlencode(query)}", self._cookie(
            f"{text}.{self._sign(text)}", _LOGIN_SECONDS
        )

    async def end(self, query: Mapping[str, str], cookie: str | None) -> tuple[str, Role, str]:
        """The name and the role of who has signed in, and the page that they came for."""
        begun = self._begun(cookie)
        if not hmac.compare_digest(query.get("state", "").encode(), begun.state.encode()):
            raise Problem(400, "This login was not begun in this browser: sign in again.")
        if "code" not in query:
            raise Problem(403, f"The provider refused the login: {query.get('error', 'no code')[:100]}.")
        if query.get("iss", self._settings.issuer) != self._settings.issuer:
            raise Problem(400, "The answer came from another provider.")
        claims = await self._claims(query["code"], begun)
        name = claims.get(self._settings.name_claim)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Problem(403, f"The claim {self._settings.name_claim} holds no name that can be used here.")
        if self._users.named(name) is not None:
            raise Problem(403, f"The name {name} belongs to a user of UNLINK_CONSOLE__USERS_FILE.")
        return name, self._role(claims, name), begun.after

    @property
    def no_cookie(self) -> str:
        """The header `Set-Cookie` that removes the cookie of a login."""
        return self._cookie("", 0)

    def _role(self, claims: Mapping[str, Any], name: str) -> Role:
        given = claims.get(self._settings.roles_claim)
        values = given if isinstance(given, list) else [given]
        for role in (Role.OPERATE, Role.SUBMIT, Role.READ):
            if role.value in values:
                return role
        raise Problem(
            403, f"{name} has no access: the claim {self._settings.roles_claim} names no role of this console."
        )

    async def _claims(self, code: str, begun: _Begun) -> Mapping[str, Any]:
        provider = await self._discovered()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": begun.verifier,
        }
        secret = self._settings.client_secret.get_secret_value()
        account = None
        if provider.secret_in_body:
            form |= {"client_id": self._settings.client_id, "client_secret": secret}
        else:
            account = (self._settings.client_id, secret)
        answer = await self._ask("POST", provider.token_endpoint, data=form, auth=account)
        return self._verified(answer.get("id_token"), begun.nonce)

    def _verified(self, token: object, nonce: str) -> Mapping[str, Any]:
        claims = _claims_in(token)
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        mine = self._settings.client_id
        ends, now = claims.get("exp"), time.time()
        if (
            claims.get("iss") != self._settings.issuer
            or mine not in audiences
            or (len(audiences) > 1 and claims.get("azp") != mine)
            or claims.get("azp", mine) != mine
            or not isinstance(ends, int | float)
            or ends < now - _LEEWAY_SECONDS
            or not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode())
        ):
            raise Problem(400, "The provider's ID token is not for this login: sign in again.")
        return claims

    async def _discovered(self) -> _Provider:
        if self._provider is None:
            found = await self._ask("GET", f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration")
            endpoints = [found.get(name) for name in ("authorization_endpoint", "token_endpoint")]
            if found.get("issuer") != self._settings.issuer or not all(_is_safe(each) for each in endpoints):
                raise Problem(503, "The provider's discovery document is not that of UNLINK_CONSOLE__OIDC__ISSUER.")
            methods = found.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
            in_body = "client_secret_basic" not in methods
            self._provider = _Provider(str(endpoints[0]), str(endpoints[1]), in_body)
        return self._provider

    async def _ask(self, method: str, url: str, **options: Any) -> Mapping[str, Any]:
        async with self._at_once:
            try:
                return await asyncio.to_thread(_json_of, method, url, **options)
            except (requests.RequestException, ValueError) as error:
                log.warning("console.oidc_failed", url=url, problem=type(error).__name__)
                raise Problem(
                    503, "The provider of the logins does not answer as it should.", headers={"Retry-After": "5"}
                ) from error

    def _begun(self, cookie: str | None) -> _Begun:
        text, _, signature = (cookie or "").partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(text).encode()):
            raise Problem(400, "This login was not begun in this browser: sign in again.")
        begun = _Begun(*json.loads(_decoded(text)))
        if begun.ends < time.time():
            raise Problem(400, "The login took too long: sign in again.")
        return begun

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), "sha256").hexdigest()

    def _cookie(self, value: str, seconds: int) -> str:
        # Lax: the provider's page leads back here.
        secure = "; Secure" if self._secure else ""
        return f"{self.cookie}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"


def _json_of(method: str, url: str, **options: Any) -> Mapping[str, Any]:
    with requests.request(
        method, url, timeout=_TIMEOUT_SECONDS, allow_redirects=False, stream=True, **options
    ) as answer:
        answer.raise_for_status()
        body = answer.raw.read(_LARGEST, decode_content=True)
    content = json.loads(body)
    if not isinstance(content, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - as `json.loads` raises
    return content


def _claims_in(token: object) -> Mapping[str, Any]:
    try:
        claims = json.loads(_decoded(str(token).split(".")[1]))
    except (ValueError, IndexError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise Problem(400, "The provider sent no ID token: sign in again.")
    return claims


def _is_safe(url: object) -> bool:
    parts = urlsplit(url) if isinstance(url, str) else None
    return parts is not None and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK))


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _oidc_of(request: Request) -> Oidc:
    oidc: Oidc | None = request.app.state.oidc
    if oidc is None:
        raise Problem(404, "This console has no provider of logins.")
    return oidc


@router.get("/login/oidc")
async def begin(request: Request) -> RedirectResponse:
    """Send the browser to the provider."""
    address, cookie = await _oidc_of(request).begin(local_path(request.query_params.get("next", "/")[:2000]))
    return RedirectResponse(address, 303, {"Set-Cookie": cookie})


@router.get(CALLBACK, response_class=HTMLResponse)
async def end(request: Request) -> HTMLResponse:
    """The provider has sent the browser back.

    The answer is a page, not a redirect: browsers send a `SameSite=Strict` cookie only with requests that a page of
    this site has begun.
    """
    oidc = _oidc_of(request)
    try:
        name, role, after = await oidc.end(dict(request.query_params), request.cookies.get(oidc.cookie))
    except Problem as problem:
        log.warning("console.login_refused", user=None, address=request.state.address, problem=problem.detail)
        raise
    log.info("console.login", user=name, role=role.value, address=request.state.address)
    page = render(request.scope, "onward.html", page="", title="Signed in", after=after)
    page.headers.append("Set-Cookie", request.app.state.sign_in.sessions.begin_provided(name, role))
    page.headers.append("Set-Cookie", oidc.no_cookie)
    return page
