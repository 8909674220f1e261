"""Runs exchanges (a request and its response) on threads, for the event loop; limits their number, and logs each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import structlog

from worker.enterprise_manager.concurrency_limit import ConcurrencyLimit, ConcurrencyLimitClosedError
from worker.enterprise_manager.documents.reading import LONG_BODY, read_document
from worker.enterprise_manager.documents.tree import DocumentError, Node
from worker.enterprise_manager.permission import Permission
from worker.enterprise_manager.responses import SERVICE_UNAVAILABLE, TOO_MANY, retry_after
from worker.enterprise_manager.threads import Threads
from worker.enterprise_manager.transport import Answer, NotConnectedError, Request, Transport, TransportError
from worker.frames import without_frames
from worker.unlinks.ports.clock import Clock
from worker.unlinks.waiting import abandon

#: How many long documents are parsed at once: threads make it no faster, and one document may take 50 MB.
_PARSED_AT_ONCE = 2

_ENDING = "the worker is about to end"
_NO_THREAD = "this process cannot start a thread: is there a limit on its processes (ulimit -u, pids.max)?"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its response. `status` is None if there was no complete response."""

    method: str
    status: int | None
    seconds: float
    attempt: int


class RequestObserver(Protocol):
    """Notified of every request."""

    def headers(self) -> Mapping[str, str]:
        """Headers to add to a request, such as those of its trace. They contain no secrets."""
        ...

    def exchanged(self, exchange: Exchange) -> None:
        """Called after each exchange. Must not raise."""
        ...


class NoObserver:
    """Observes nothing."""

    def headers(self) -> Mapping[str, str]:
        """No headers."""
        return {}

    def exchanged(self, exchange: Exchange) -> None:
        """Does nothing."""


class Wire:
    """Runs at most `requests` concurrent exchanges; further requests wait until one has ended.

    An exchange whose body is long has not ended before the body is parsed, if it is read at once. The number of bodies
    in memory is therefore limited, too.

    While the server asks for a pause (429 or 503 with `Retry-After`), no request is sent.
    """

    def __init__(
        self, name: str, transport: Transport, clock: Clock, requests: int, observer: RequestObserver | None = None
    ) -> None:
        self.name = name
        self._observer = observer or NoObserver()
        self._transport = transport
        self._clock = clock
        self._limit = ConcurrencyLimit(requests)
        self._parsing = asyncio.Semaphore(_PARSED_AT_ONCE)
        # One thread more than requests: a document that is read later can be parsed while every request hangs.
        self._threads = Threads(f"enterprise-manager-{name}", requests + 1)
        self._not_before = float("-inf")
        self._closed = False

    async def exchange(
        self,
        request: Request,
        *,
        attempt: int = 1,
        low_priority: bool = False,
        may_send: Callable[[], Awaitable[float]] | None = None,
    ) -> Answer:
        """Send a request. With `low_priority`, it is sent after all waiting requests without it.

        With `may_send`, the request must not be repeated. `may_send` is awaited when place, thread and connection are
        ready. It returns the latest time, by `Clock.monotonic`, at which the request may be written. If it raises, the
        request is not written, and the exception is passed on. If this call is cancelled before `may_send` has
        returned, the request is not written either.

        Raises:
            NotConnectedError: no byte of the request was sent.
            NotWrittenError: no byte of the request was sent, because the latest time had passed.
            BrokenAnswerError: the request may have been sent.
        """
        try:
            await self._limit.enter(low_priority=low_priority)
        except ConcurrencyLimitClosedError:
            raise NotConnectedError(_ENDING) from None
        try:
            await self._until_wanted()
            permission = Permission(may_send, self._clock.monotonic) if may_send is not None else None
            under_way = self._start(request, permission)
        except BaseException:
            self._limit.leave()
            raise
        return await self._outcome(under_way, permission, request, attempt)

    async def _until_wanted(self) -> None:
        while (left := self._not_before - self._clock.monotonic()) > 0 and not self._closed:
            await self._clock.sleep(left)
        if self._closed:
            raise NotConnectedError(_ENDING)

    def _start(self, request: Request, permission: Permission | None) -> asyncio.Future[Answer]:
        headers = {**self._observer.headers(), **request.headers}
        request = replace(request, headers=headers)
        if permission is None:
            send = partial(self._transport.exchange, request)
        else:
            send = partial(self._transport.exchange_once, request, permission.require)
        try:
            # It keeps its place until it is over, even if the caller is cancelled. The caller runs before `leave`, and
            # may keep the place for the body.
            return self._threads.run(send, partial(asyncio.get_running_loop().call_soon, self._limit.leave))
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
            answer = await under_way
            status = answer.status
        except TransportError as error:
            problem = str(error)
            raise without_frames(error) from None
        else:
            self._heed(answer)
            return answer
        finally:
            abandon(under_way)  # nobody waits for it any more
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
        """Adapt to the response: after 429 or 503, pause for `Retry-After` and allow fewer concurrent requests."""
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
        """Read the body of a response, on a thread if it is long, so that the event loop is not blocked.

        Raises:
            UnreadableDocumentError: the body is no document, or exceeds a limit.
        """
        try:
            if len(answer.body) < LONG_BODY:
                return read_document(answer.body)
            return await self._read_long(answer.body)
        except DocumentError as error:
            raise without_frames(error) from None

    async def _read_long(self, body: bytes) -> Node:
        self._limit.keep()
        try:
            await self._parsing.acquire()
        except BaseException:
            self._limit.leave()
            raise
        try:
            # The parsing, too, keeps its place until it is over.
            parsing = self._threads.run(partial(read_document, body), self._parsed)
        except BaseException:
            self._parsed()
            raise
        return await parsing

    def _parsed(self) -> None:
        self._parsing.release()
        self._limit.leave()

    def close(self) -> None:
        """Close idle connections and threads. A running exchange ends by its own time-out, or with the process."""
        self._closed = True
        self._limit.close()
        self._transport.close()
        self._threads.close()
