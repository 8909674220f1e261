"""The transport for the event loop: a limited number of exchanges, each on a thread, each with a log line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from worker.enterprise_manager.concurrency_limit import ConcurrencyLimit, ConcurrencyLimitClosedError
from worker.enterprise_manager.documents.reading import read_document
from worker.enterprise_manager.documents.tree import Node
from worker.enterprise_manager.permission import Permission
from worker.enterprise_manager.responses import SERVICE_UNAVAILABLE, TOO_MANY, retry_after
from worker.enterprise_manager.threads import Threads
from worker.enterprise_manager.transport import Answer, NotConnectedError, Request, Transport, TransportError
from worker.unlinks.ports.clock import Clock

#: From this size on, in bytes, reading a document blocks the event loop noticeably.
_LONG_BODY = 64 * 1024

_ENDING = "the worker is about to end"
_NO_THREAD = "this process cannot start a thread: is there a limit on its processes (ulimit -u, pids.max)?"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request. `status` is None if no complete answer came."""

    method: str
    status: int | None
    seconds: float
    attempt: int


class RequestObserver(Protocol):
    """Notified of every request."""

    def headers(self) -> Mapping[str, str]:
        """Headers for a request, such as the trace that it belongs to. No secrets."""
        ...

    def exchanged(self, exchange: Exchange) -> None:
        """Receives each request when it is over. Must not raise."""
        ...


class NoObserver:
    """Observes nothing."""

    def headers(self) -> Mapping[str, str]:
        """None."""
        return {}

    def exchanged(self, exchange: Exchange) -> None:
        """Looks away."""


class Wire:
    """At most `requests` exchanges at once; the others wait for their turn, and have not been sent.

    While the server asks for a pause (429 or 503 with `Retry-After`) nothing is sent at all.
    """

    def __init__(
        self, name: str, transport: Transport, clock: Clock, requests: int, observer: RequestObserver | None = None
    ) -> None:
        self.name = name
        self._observer = observer or NoObserver()
        self._transport = transport
        self._clock = clock
        self._limit = ConcurrencyLimit(requests)
        # One more than requests: a document is read even while every request hangs.
        self._threads = Threads(f"enterprise-manager-{name}", requests + 1)
        self._not_before = float("-inf")
        self._closed = False

    async def exchange(
        self,
        request: Request,
        *,
        attempt: int = 1,
        patient: bool = False,
        may_send: Callable[[], Awaitable[float]] | None = None,
    ) -> Answer:
        """Send a request, `patient` after all that are not.

        With `may_send`, the request must not be repeated. When slot, thread and connection are ready, `may_send` is
        awaited. It returns the last moment, by `Clock.monotonic`, at which the request may be written, and what it
        raises is raised here: then the request was not written. If this call is cancelled before `may_send` has
        returned, the request is not written either.

        Raises:
            NotConnectedError: not a byte of it left.
            NotWrittenError: not a byte of it left, for the last moment had passed.
            BrokenAnswerError: it may have left.
        """
        try:
            await self._limit.enter(patient=patient)
        except ConcurrencyLimitClosedError:
            raise NotConnectedError(_ENDING) from None
        try:
            await self._until_wanted()
            permission = Permission(may_send, self._clock.monotonic) if may_send is not None else None
            under_way = self._start(request, permission)
        except BaseException:
            self._limit.leave()
            raise
        under_way.add_done_callback(self._ended)
        return await self._outcome(under_way, permission, request, attempt)

    def _ended(self, request: asyncio.Future[Answer]) -> None:
        self._limit.leave()
        if not request.cancelled():
            request.exception()  # retrieved, also where no caller waits for it any more

    async def _until_wanted(self) -> None:
        while (left := self._not_before - self._clock.monotonic()) > 0 and not self._closed:
            await self._clock.sleep(left)
        if self._closed:
            raise NotConnectedError(_ENDING)

    def _start(self, request: Request, permission: Permission | None) -> asyncio.Future[Answer]:
        headers = {**self._observer.headers(), **request.headers}
        request = Request(request.method, request.path, request.query, headers, request.timeout)
        if permission is None:
            send = partial(self._transport.exchange, request)
        else:
            send = partial(self._transport.exchange_once, request, permission.require)
        try:
            return self._threads.run(send)
        except RuntimeError:
            raise NotConnectedError(_NO_THREAD) from None

    async def _outcome(
        self, under_way: asyncio.Future[Answer], permission: Permission | None, request: Request, attempt: int
    ) -> Answer:
        started = self._clock.monotonic()
        status: int | None = None
        problem: str | None = None
        try:
            if permission is not None:
                await permission.give(under_way)
            # Shielded: the slot is taken until the request is over, whether or not a caller still waits for it.
            answer = await asyncio.shield(under_way)
            status = answer.status
        except TransportError as error:
            problem = str(error)
            raise
        else:
            self._heed(answer)
            return answer
        finally:
            seconds = self._clock.monotonic() - started
            self._observer.exchanged(Exchange(request.method, status, seconds, attempt))
            log.debug(
                "enterprise_manager.request",
                enterprise_manager=self.name,
                method=request.method,
                path=request.path,
                status=status,
                problem=problem,
                milliseconds=round(seconds * 1000),
                attempt=attempt,
            )

    def _heed(self, answer: Answer) -> None:
        """Pause for as long as the server asks, and send fewer requests at once from then on."""
        if answer.status not in {TOO_MANY, SERVICE_UNAVAILABLE}:
            self._limit.went_well()
            return
        self._limit.overloaded()
        seconds = retry_after(answer)
        self._not_before = max(self._not_before, self._clock.monotonic() + seconds)
        log.warning(
            "enterprise_manager.overloaded",
            enterprise_manager=self.name,
            status=answer.status,
            retry_after_seconds=seconds,
            requests_at_once=self._limit.places,
        )

    async def read(self, answer: Answer) -> Node:
        """Read an answer's body, on a thread if it is long, so that the event loop is not blocked.

        Raises:
            UnreadableDocumentError: it is no document within the limits.
        """
        if len(answer.body) < _LONG_BODY:
            return read_document(answer.body)
        return await self._threads.run(partial(read_document, answer.body))

    def close(self) -> None:
        """Close idle connections and threads. An exchange under way ends by its own time-out, or with the process."""
        self._closed = True
        self._limit.close()
        self._transport.close()
        self._threads.close()
