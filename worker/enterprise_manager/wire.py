"""The transport as the event loop sees it: so many exchanges at once, each on a thread, and a line in the log."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from worker.enterprise_manager.concurrency_limit import ConcurrencyLimit, ConcurrencyLimitClosedError
from worker.enterprise_manager.documents.reading import read_document
from worker.enterprise_manager.responses import SERVICE_UNAVAILABLE, TOO_MANY, retry_after
from worker.enterprise_manager.threads import beside_the_loop
from worker.enterprise_manager.transport import NotConnectedError, TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.enterprise_manager.documents.tree import Node
    from worker.enterprise_manager.transport import Answer, Request, Transport
    from worker.unlinks.ports.clock import Clock

#: From this size on, in bytes, reading a document takes long enough for others to notice.
_LONG_BODY = 64 * 1024

_ENDING = "the worker is about to end"

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
        """What goes along with a request, such as the trace that it belongs to. No secrets."""
        ...

    def exchanged(self, exchange: Exchange) -> None:
        """Told of each request when it is over. Must not raise."""
        ...


class Nobody:
    """Observes nothing."""

    def headers(self) -> Mapping[str, str]:
        """None."""
        return {}

    def exchanged(self, exchange: Exchange) -> None:
        """Looks away."""


class Wire:
    """At most `requests` exchanges at once; the others wait for their turn, and have not been sent.

    While the server asks for a pause (429 or 503 with `Retry-After`) nothing is sent at all, whoever asks.
    """

    def __init__(
        self, name: str, transport: Transport, clock: Clock, requests: int, observer: RequestObserver | None = None
    ) -> None:
        self.name = name
        self._observer = observer or Nobody()
        self._transport = transport
        self._clock = clock
        self._limit = ConcurrencyLimit(requests)
        self._not_before = float("-inf")
        self._closed = False

    async def exchange(
        self, request: Request, *, afresh: bool = False, attempt: int = 1, patient: bool = False
    ) -> Answer:
        """Send a request; `afresh` over a connection of its own, `patient` after all that are not.

        Raises:
            NotConnectedError: not a byte of it left.
            BrokenAnswerError: it may have left.
        """
        try:
            await self._limit.enter(patient=patient)
        except ConcurrencyLimitClosedError:
            raise NotConnectedError(_ENDING) from None
        try:
            await self._until_wanted()
        except BaseException:
            self._limit.leave()
            raise
        return await self._exchange(request, afresh=afresh, attempt=attempt)

    async def _until_wanted(self) -> None:
        while (left := self._not_before - self._clock.monotonic()) > 0 and not self._closed:
            await self._clock.sleep(left)
        if self._closed:
            raise NotConnectedError(_ENDING)

    async def _exchange(self, request: Request, *, afresh: bool, attempt: int) -> Answer:
        send = self._transport.exchange_afresh if afresh else self._transport.exchange
        request = replace(request, headers={**self._observer.headers(), **request.headers})
        under_way = beside_the_loop(partial(send, request), f"enterprise-manager-{self.name}")
        under_way.add_done_callback(lambda _: self._limit.leave())
        started = self._clock.monotonic()
        status: int | None = None
        problem: str | None = None
        try:
            # Shielded: the place is taken until the request is over, whether or not somebody still waits for it.
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
        """Send nothing for as long as the server asks, and less at once from then on."""
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
        """Read an answer's body, on a thread if it is long: the event loop has others to serve.

        Raises:
            UnreadableDocumentError: it is no document within the limits.
        """
        if len(answer.body) < _LONG_BODY:
            return read_document(answer.body)
        return await beside_the_loop(partial(read_document, answer.body), f"enterprise-manager-{self.name}")

    def close(self) -> None:
        """Let go of connections; an exchange that is under way ends by its own time-out, or with the process."""
        self._closed = True
        self._limit.close()
        self._transport.close()
