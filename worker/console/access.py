"""Access without users: only requests from this host, addressed to this host, not through a proxy.

Any web site can make a browser on this host send requests. A site whose name points to 127.0.0.1 (DNS rebinding) is
refused by the Host header, which then holds that name.

All clients of a proxy on this host seem to be local. A request is refused if the proxy adds a header, or if the browser
behind it names another site as its page. That does not detect every proxy: nginx adds no header by default, puts its
own target in the Host header, and speaks HTTP/1.1 since 1.29.7; a client that is no browser names no page. A proxy in
front of a console without users therefore publishes it, which the documentation forbids.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from worker.console.audit import READING, log_refusal
from worker.console.problems import Problem, as_json
from worker.console.users import Caller, Role

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: Headers of proxies, and prefixes of such headers.
_FORWARDING: Final = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"true-client-ip",
        b"fastly-client-ip",
    }
)
_FORWARDED: Final = (b"x-forwarded", b"x-original-", b"x-envoy-", b"x-amzn-", b"x-arr-", b"cf-")
#: Headers in which a browser names the page or the origin that a request comes from.
_PAGES: Final = frozenset({b"referer", b"origin", b"hx-current-url"})
#: What browsers say of requests that pages of this console make, or that people type.
_OWN_SITE: Final = frozenset({b"same-origin", b"none"})


class LoopbackOnly:
    """An ASGI middleware that serves only this host, and only reading requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, or refuse."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        problem = _problem(scope)
        if problem is None:
            scope.setdefault("state", {})["caller"] = Caller(None, Role.READ, scope["client"][0])
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            log_refusal(scope, problem)
            await as_json(problem)(scope, receive, send)


def _problem(scope: Scope) -> Problem | None:
    if scope["type"] != "http":
        return Problem(403, "Only HTTP is served.")
    client = scope.get("client")
    if client is None or not is_loopback(client[0]):
        return Problem(403, "Without users, the console serves its own host alone.")
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1 or not is_loopback_host(hosts[0].decode("latin-1")):
        return Problem(403, "Without users, the console answers to localhost, 127.0.0.1 and [::1] alone.")
    if (said := _passed_on(scope)) is not None:
        return Problem(403, said)
    if scope["method"] not in READING:
        return Problem(403, "Without users, the console is read-only.", headers={"Allow": "GET, HEAD"})
    return None


def _passed_on(scope: Scope) -> str | None:
    """What shows that the request came through a proxy, or from the page of another site."""
    # nginx before 1.29.7 speaks HTTP/1.0 by default.
    named = any(name in _FORWARDING or name.startswith(_FORWARDED) for name, _ in scope["headers"])
    if named or scope.get("http_version") == "1.0":
        return "Without users, the console serves no request that came through a proxy."
    if any(_is_foreign(name, value) for name, value in scope["headers"]):
        return "Without users, the console serves no page of another site: type its address instead."
    return None


def _is_foreign(name: bytes, value: bytes) -> bool:
    """Whether a header shows that the page in the browser is not one of this host's."""
    if name == b"sec-fetch-site":
        return value not in _OWN_SITE
    if name not in _PAGES:
        return False
    try:
        host = urlsplit(value.decode("latin-1")).hostname or ""
    except ValueError:
        return True
    return not is_loopback_host(f"[{host}]" if ":" in host else host)


def is_loopback(address: str) -> bool:
    """Whether an IP address is of this host's loopback interface."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def is_loopback_host(host: str) -> bool:
    """Whether a Host header, with or without a port, names this host's loopback interface."""
    name, port = _split(host)
    if port is not None and not (port.isascii() and port.isdigit()):
        return False
    return name.lower() == "localhost" or is_loopback(name)


def _split(host: str) -> tuple[str, str | None]:
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return "", None
        return name, rest[1:] if rest else None
    name, colon, port = host.partition(":")
    return name, port if colon else None
