"""The HTTP server for probes and scrapes: `/livez`, `/readyz`, `/metrics`.

It runs on one thread with its own event loop, because it must answer while the worker's event loop is blocked, and
while no further thread can be started. A connection takes no thread, and the number of open connections is limited.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import threading
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from http.client import HTTPException, parse_headers
from io import BytesIO
from typing import TYPE_CHECKING, Final, Self

import structlog
from prometheus_client.exposition import choose_encoder

from worker.settings import HttpSettings, SettingsInvalidError
from worker.telemetry.health import Health, Report

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

#: How long a connection may take from its start to its end, in seconds.
CLIENT_SECONDS: Final = 10.0

#: The largest number of open connections. A further connection closes the oldest one, which is probably idle: a probe
#: sends its request at once.
MOST_CONNECTIONS: Final = 64

#: The longest line of a request, in bytes, and the largest number of lines.
_LONGEST_LINE = 8192
_MOST_LINES = 100

log = structlog.get_logger()

#: Status, content type and body.
Answer = tuple[HTTPStatus, str, bytes]


class TelemetryServer:
    """Serves from its creation to `close`, or as a context manager.

    Args:
        settings: where to listen. Port 0 means any free port; the port is logged.

    Raises:
        SettingsInvalidError: the server cannot listen on this address.
    """

    def __init__(self, settings: HttpSettings, health: Health, registry: CollectorRegistry) -> None:
        self._routes: Mapping[str, Callable[[str], Answer]] = {
            "/livez": lambda _accept: _report("live", health.live()),
            "/readyz": lambda _accept: _report("ready", health.ready()),
            "/metrics": lambda accept: _metrics(registry, accept),
        }
        self._listener = _listen(settings)
        self.port: int = self._listener.getsockname()[1]
        self._open: dict[asyncio.StreamWriter, None] = {}
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()
        log.info("http.listening", host=settings.host, port=self.port)

    def close(self) -> None:
        """Close the listening socket and all connections."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listener, limit=_LONGEST_LINE)
        await self._closing.wait()
        server.close()
        for connection in self._open:
            connection.transport.abort()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(self._open) >= MOST_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()  # its reads and writes end with an error
        self._open[writer] = None
        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, ValueError, HTTPException) as error:
            log.debug("http.client_failed", client=str(writer.get_extra_info("peername")), problem=repr(error))
        finally:
            writer.transport.abort()
            self._open.pop(writer, None)

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        method, path, accept = await _request(reader)
        headers = {}
        if method not in {"GET", "HEAD"}:
            status, content_type, body = HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b""
            headers["Allow"] = "GET, HEAD"
        elif (route := self._routes.get(path)) is not None:
            status, content_type, body = route(accept)
        else:
            status, content_type, body = HTTPStatus.NOT_FOUND, _TEXT, "\n".join(self._routes).encode() + b"\n"
        headers |= {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            "Date": formatdate(usegmt=True),
        }
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)


_TEXT = "text/plain; charset=utf-8"


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, str]:
    """The method, path and `Accept` header of a request.

    Raises:
        ValueError, HTTPException: it is no HTTP request, or it is too long.
    """
    lines = [await reader.readline()]
    while lines[-1].strip():
        if len(lines) == _MOST_LINES:
            raise ValueError("too many lines")
        lines.append(await reader.readline())
    method, target, _ = lines[0].decode("latin-1").split()
    return method, target.partition("?")[0], parse_headers(BytesIO(b"".join(lines[1:]))).get("Accept", "")


def _listen(settings: HttpSettings) -> socket.socket:
    ipv6 = ":" in settings.host
    where = f"{settings.host}:{settings.port}"
    try:
        return socket.create_server(
            (settings.host, settings.port),
            family=socket.AF_INET6 if ipv6 else socket.AF_INET,
            dualstack_ipv6=ipv6 and socket.has_dualstack_ipv6(),
        )
    except socket.gaierror:
        raise SettingsInvalidError(f"UNLINK_HTTP__HOST: there is no such address as {settings.host}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            problem = f"UNLINK_HTTP__PORT: {where} is in use by another program; choose another port, or 0 for any"
        else:
            # Remove the address, which `create_server` appends to the message.
            reason = (error.strerror or "").partition(" (while attempting")[0]
            problem = f"UNLINK_HTTP__HOST, UNLINK_HTTP__PORT: cannot listen on {where} ({reason})"
        raise SettingsInvalidError(problem) from None


def _report(what: str, report: Report) -> Answer:
    status = HTTPStatus.OK if report.good else HTTPStatus.SERVICE_UNAVAILABLE
    return status, "application/json", json.dumps({what: report.good, **report.parts}).encode() + b"\n"


def _metrics(registry: CollectorRegistry, accept: str) -> Answer:
    encode, content_type = choose_encoder(accept)
    return HTTPStatus.OK, content_type, encode(registry)
