"""Access without users: only requests from this host, addressed to this host, not through a proxy.

Any web site can make a browser on this host send requests. A site whose name points to 127.0.0.1 (DNS rebinding) is
refused by the Host header, which then holds that name. A proxy on this host, whose clients all seem to be local, is
refused by the headers that it adds.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

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
        b"cf-connecting-ip",
        b"fastly-client-ip",
        b"x-original-host",
        b"x-original-url",
    }
)
_FORWARDED: Final = b"x-forwarded"


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
    # nginx speaks HTTP/1.0 by default, and then adds no header.
    named = any(name in _FORWARDING or name.startswith(_FORWARDED) for name, _ in scope["headers"])
    if named or scope.get("http_version") == "1.0":
        return Problem(403, "Without users, the console serves no request that came through a proxy.")
    if scope["method"] not in READING:
        return Problem(403, "Without users, the console is read-only.", headers={"Allow": "GET, HEAD"})
    return None


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
