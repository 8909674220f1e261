"""The HTTPS server: receives requests, applies faults, sends responses, and records all requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from worker.sandbox.processes.free_ports import LOOPBACK, free_port
from worker.sandbox.simulated_enterprise_manager.documents import error
from worker.sandbox.simulated_enterprise_manager.exchange import SESSION_HEADER, Account, Answer, Request
from worker.sandbox.simulated_enterprise_manager.faults import Fault, Faults
from worker.sandbox.simulated_enterprise_manager.rendering import to_json, to_xml
from worker.sandbox.simulated_enterprise_manager.replay import Replay
from worker.sandbox.simulated_enterprise_manager.routes import Routes
from worker.sandbox.simulated_enterprise_manager.state import State

if TYPE_CHECKING:
    import ssl

_API = "/api"

#: The listen backlog: how many connections may wait to be accepted.
_BACKLOG = 1024

#: How many requests are recorded.
_RECORDED = 1_000_000

#: Statuses with the non-standard reason phrases that were seen. Clients must not depend on them.
_REASONS = {400: "BadRequest", 404: "NotFound"}

_HTML_PAGE = (
    "<!DOCTYPE html><html><head><title>{status}</title></head>"
    "<body><h1>{status} Error</h1><p>The proxy could not reach the server.<br>nginx</p></body></html>"
)


@dataclass(slots=True)
class RecordedRequest:
    """One request as the server received it. The status is set when the response is sent."""

    method: str
    #: The path with the query, percent-encoded as it was sent.
    path: str
    #: Whether it had a session token, in the header or in a cookie.
    has_session: bool
    #: None if there was no response, or not yet.
    status: int | None
    #: The time of its arrival, in seconds since the server was created.
    time: float


class _ConnectionDropped(Exception):  # noqa: N818 - what happens next, no error
    """The connection is to be reset without an answer."""


class Server:
    """The server. It keeps its address and port for its whole life.

    Call `requests` and `forget_requests` from any thread, and everything else on the event loop that opened the server.
    """

    def __init__(
        self,
        state: State,
        account: Account,
        faults: Faults,
        context: ssl.SSLContext,
        host: str = LOOPBACK,
        replay: Replay | None = None,
    ) -> None:
        self._replay = replay
        self._state = state
        self._host = host
        self._routes = Routes(state, account)
        self._faults = faults
        self._context = context
        self._server = web.Server(self._answer, access_log=None)
        self._listener: socket.socket | None = None
        self._handshakes: dict[asyncio.Task[None], socket.socket] = {}
        self._closing = asyncio.Event()
        self._recorded: deque[RecordedRequest] = deque(maxlen=_RECORDED)
        self._recording = threading.Lock()
        self._started_at = time.monotonic()
        self._at_once = 0
        self.port = 0

    # --- the listener ---

    async def open(self, port: int = 0) -> None:
        """Listen on `port`, or on the same port as in the previous call. Does nothing if the server already listens."""
        if self._listener is None:
            self._closing.clear()
            self.port = self.port or port or free_port()
            self._listener = socket.create_server((self._host, self.port), backlog=_BACKLOG)
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    async def close(self) -> None:
        """Stop listening, and reset every connection, including those in their TLS handshake."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        self._closing.set()
        for connection in self._handshakes.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        await asyncio.gather(*self._handshakes)
        for handler in self._server.connections:
            if handler.transport is not None:
                handler.transport.abort()
        await self._server.shutdown(timeout=1)

    # Connections are accepted here and not by an asyncio.Server. When that is closed, it does not close a connection
    # that it accepted in the same iteration of the loop: the socket stays open until the garbage collector runs (seen
    # with Python 3.11.7).

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_BACKLOG):
            try:
                connection, _address = listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            handshake = asyncio.get_running_loop().create_task(self._shake_hands(connection))
            self._handshakes[handshake] = connection
            handshake.add_done_callback(self._handshakes.pop)

    async def _shake_hands(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(self._server, connection, ssl=self._context)

    # --- what was seen ---

    def requests(self) -> list[RecordedRequest]:
        """All recorded requests, in the order of their arrival. From any thread."""
        with self._recording:
            return list(self._recorded)

    def forget_requests(self) -> None:
        """Remove all recorded requests. From any thread."""
        with self._recording:
            self._recorded.clear()

    def _record(self, request: web.BaseRequest) -> RecordedRequest:
        has_session = SESSION_HEADER in request.headers or SESSION_HEADER in request.headers.get("Cookie", "")
        came_at = time.monotonic() - self._started_at
        recorded = RecordedRequest(request.method, request.raw_path, has_session, None, came_at)
        with self._recording:
            self._recorded.append(recorded)
        return recorded

    # --- one request ---

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        recorded = self._record(request)
        self._at_once += 1
        try:
            response = await self._answer_or_drop(request)
        except _ConnectionDropped:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        finally:
            self._at_once -= 1
        recorded.status = response.status
        return response

    async def _answer_or_drop(self, request: web.BaseRequest) -> web.StreamResponse:
        behaviour = self._state.behaviour
        body = await request.read()
        if behaviour.requests_at_once is not None and self._at_once > behaviour.requests_at_once:
            return self._rendered(request, _failure(behaviour.overload_status, "Too many requests."))
        if behaviour.latency_seconds:
            await self._pause(behaviour.latency_seconds)
        fault = self._faults.take(request.method, request.raw_path)
        if self._replay is not None and fault is None:
            return self._replayed(request, self._replay)
        if fault is None:
            return self._rendered(request, self._act(request, body, None))
        return await self._go_wrong(request, body, fault)

    def _replayed(self, request: web.BaseRequest, replay: Replay) -> web.StreamResponse:
        netloc = request.headers.get("Host", f"localhost:{self.port}")
        answer = replay.answer(request.method, request.path, dict(request.query), request.headers, netloc)
        if answer.lost == "no answer":
            raise _ConnectionDropped
        response = web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        if answer.lost == "compressed":
            response.enable_compression(web.ContentCoding.gzip)
        return response

    async def _go_wrong(self, request: web.BaseRequest, body: bytes, fault: Fault) -> web.StreamResponse:
        match fault.kind:
            case "status":
                return self._failed(request, fault)
            case "never_answers":
                await self._hold(request)
            case "drops_connection":
                raise _ConnectionDropped
        answer = self._act(request, body, fault)
        match fault.kind:
            case "acts_and_never_answers":
                await self._hold(request)
            case "acts_and_drops_connection":
                raise _ConnectionDropped
            case "latency":
                await self._pause(fault.seconds)
            case "wrong_content":
                headers = {"Content-Type": fault.content_type}
                return web.Response(
                    status=fault.status or answer.status, body=fault.body.encode(errors="replace"), headers=headers
                )
        response = self._rendered(request, answer)
        if fault.kind in {"truncated", "cut_off"}:
            return await self._cut(request, response, framed=fault.kind == "truncated")
        return response

    def _act(self, request: web.BaseRequest, body: bytes, fault: Fault | None) -> Answer:
        path = request.path.rstrip("/")
        if path.lower() != _API and not path.lower().startswith(_API + "/"):
            return _failure(404, f"There is no resource {path}.")
        cookie = request.cookies.get(SESSION_HEADER) if "Cookie" in request.headers else None
        return self._routes.answer(
            Request(
                method=request.method,
                path=path[len(_API) :].strip("/").lower(),
                query={name.lower(): value for name, value in request.query.items()},
                authorization=request.headers.get("Authorization"),
                cookie_token=cookie,
                header_token=request.headers.get(SESSION_HEADER),
                body=body,
                api=f"https://{request.headers.get('Host', f'localhost:{self.port}')}{_API}",
                fault=fault,
            )
        )

    # --- answers ---

    def _rendered(self, request: web.BaseRequest, answer: Answer) -> web.Response:
        headers = dict(answer.headers)
        body = b""
        if answer.document is not None:
            if _wants_json(request):
                headers["Content-Type"] = "application/json; charset=utf-8"
                body = to_json(answer.document, self._state.behaviour)
            else:
                headers["Content-Type"] = "application/xml; charset=utf-8"
                body = to_xml(answer.document)
        retry_after = self._state.behaviour.retry_after
        if answer.status in {429, 503} and retry_after is not None:
            headers.setdefault("Retry-After", retry_after)
        response = web.Response(status=answer.status, reason=_REASONS.get(answer.status), body=body, headers=headers)
        if self._state.behaviour.compression:
            response.enable_compression()
        return response

    def _failed(self, request: web.BaseRequest, fault: Fault) -> web.Response:
        status = fault.status or 500
        headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
        if fault.answer == "error":
            return self._rendered(request, Answer(status, error(status, fault.message), headers))
        if fault.answer == "html":
            page = _HTML_PAGE.format(status=status).encode()
            return web.Response(status=status, body=page, headers=headers | {"Content-Type": "text/html"})
        return web.Response(status=status, headers=headers)

    async def _cut(self, request: web.BaseRequest, whole: web.Response, *, framed: bool) -> web.StreamResponse:
        body = whole.body if isinstance(whole.body, bytes) else b""
        half = body[: len(body) // 2]
        if framed:
            return web.Response(status=whole.status, body=half, headers={"Content-Type": whole.headers["Content-Type"]})
        headers = {"Content-Type": whole.headers["Content-Type"], "Content-Length": str(len(body))}
        response = web.StreamResponse(status=whole.status, headers=headers)
        await response.prepare(request)
        await response.write(half)
        raise _ConnectionDropped

    async def _hold(self, request: web.BaseRequest) -> None:
        """Keep the connection open without a response until the client or the listener closes it."""
        while request.transport is not None and not request.transport.is_closing() and not self._closing.is_set():
            await self._pause(0.2)
        raise _ConnectionDropped

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)


def _wants_json(request: web.BaseRequest) -> bool:
    accepted: Iterable[str] = request.headers.get("Accept", "*/*").lower().split(",")
    kinds = [kind.partition(";")[0].strip() for kind in accepted]
    return "application/json" in kinds and "application/xml" not in kinds


def _failure(status: int, message: str) -> Answer:
    return Answer(status, error(status, message))
