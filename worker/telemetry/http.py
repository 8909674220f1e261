"""The small HTTP server for probes and scrapes: `/livez`, `/readyz`, `/metrics`.

On threads of its own, since it must answer when the event loop is stuck.
"""

from __future__ import annotations

import errno
import json
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6, gaierror
from typing import TYPE_CHECKING, Any, Final, Self

import structlog
from prometheus_client.exposition import choose_encoder

from worker.settings import SettingsInvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from prometheus_client import CollectorRegistry

    from worker.settings import HttpSettings
    from worker.telemetry.health import Health, Report

#: How long a client may take to send its request or to read the answer, in seconds.
CLIENT_SECONDS: Final = 10.0

log = structlog.get_logger()

#: Status, content type and body.
Answer = tuple[HTTPStatus, str, bytes]


class TelemetryServer:
    """Serves from its making to `close`, or as a context manager.

    Args:
        settings: where; port 0 is any free port, which the log tells.

    Raises:
        SettingsInvalidError: it cannot listen there.
    """

    def __init__(self, settings: HttpSettings, health: Health, registry: CollectorRegistry) -> None:
        routes: dict[str, Callable[[str], Answer]] = {
            "/livez": lambda _accept: _report("live", health.live()),
            "/readyz": lambda _accept: _report("ready", health.ready()),
            "/metrics": lambda accept: _metrics(registry, accept),
        }
        self._server = _listen(settings, routes)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="telemetry", daemon=True).start()
        log.info("http.listening", host=settings.host, port=self.port)

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's concern; the rest is told without a stack trace on standard error."""
        del request
        log.debug("http.client_failed", client=str(client_address[0]), problem=repr(sys.exception()))


class _ServerOnIPv6(_Server):
    address_family = AF_INET6


def _listen(settings: HttpSettings, routes: Mapping[str, Callable[[str], Answer]]) -> _Server:
    kind = _ServerOnIPv6 if ":" in settings.host else _Server
    where = f"{settings.host}:{settings.port}"
    try:
        return kind((settings.host, settings.port), _handler(routes))
    except gaierror:
        raise SettingsInvalidError(f"UNLINK_HTTP__HOST: there is no such address as {settings.host}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            problem = f"UNLINK_HTTP__PORT: {where} is in use by another program; choose another port, or 0 for any"
        else:
            problem = f"UNLINK_HTTP__HOST, UNLINK_HTTP__PORT: cannot listen on {where} ({error.strerror})"
        raise SettingsInvalidError(problem) from None


def _handler(routes: Mapping[str, Callable[[str], Answer]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_SECONDS
        server_version = "unlink-worker"
        sys_version = ""

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            route = routes.get(self.path.partition("?")[0])
            status, content_type, body = (
                route(self.headers.get("Accept", ""))
                if route is not None
                else (HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "\n".join(routes).encode() + b"\n")
            )
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name it has there
            """Probes come every few seconds: not worth a line."""

    return Handler


def _report(what: str, report: Report) -> Answer:
    status = HTTPStatus.OK if report.good else HTTPStatus.SERVICE_UNAVAILABLE
    return status, "application/json", json.dumps({what: report.good, **report.parts}).encode() + b"\n"


def _metrics(registry: CollectorRegistry, accept: str) -> Answer:
    encode, content_type = choose_encoder(accept)
    return HTTPStatus.OK, content_type, encode(registry)
