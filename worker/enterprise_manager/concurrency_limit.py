"""Limits the number of concurrent requests, and orders the requests that wait.

Requests of an unlink under way precede those of unlinks that have not begun. A thousand concurrent unlinks then finish
one after the other instead of all at the end, and the job was read shortly before its DELETE is sent. No request
starves: an unlink under way needs few requests, and the polls of single tasks queue with the requests of new unlinks.
"""

from __future__ import annotations

import asyncio
import heapq

#: The limit is raised by one after this many consecutive responses with other statuses than 429 and 503.
GOOD_ANSWERS_FOR_A_PLACE = 50


class ConcurrencyLimitClosedError(Exception):
    """The limit is closed and grants no more places."""


class ConcurrencyLimit:
    """Grants a limited number of places in the order of arrival; callers with low priority come after all others.

    Each response with status 429 or 503 halves the number of places, and `GOOD_ANSWERS_FOR_A_PLACE` other responses
    raise it by one: the server may have a limit of its own, which is not documented.
    """

    def __init__(self, places: int) -> None:
        self._most = places
        self._places = places
        self._taken = 0
        self._good = 0
        self._arrivals = 0
        self._waiting: list[tuple[bool, int, asyncio.Future[None]]] = []
        self._closed = False

    @property
    def places(self) -> int:
        """The current number of places."""
        return self._places

    @property
    def waiting(self) -> int:
        """The number of callers that wait for a place."""
        return sum(not place.done() for _, _, place in self._waiting)

    async def enter(self, *, low_priority: bool) -> None:
        """Wait for a free place and take it. The caller holds it until `leave`.

        Raises:
            ConcurrencyLimitClosedError: the limit was closed before a place was free.
        """
        if self._closed:
            raise ConcurrencyLimitClosedError
        if self._taken < self._places:
            self._taken += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        heapq.heappush(self._waiting, (low_priority, self._arrivals, place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave()  # the place was granted at the moment of the cancellation: release it
            raise

    def keep(self) -> None:
        """Take a place, whether there is a free one or not. The caller holds it until `leave`.

        For a caller that holds a place, and must not wait for it again.
        """
        self._taken += 1

    def leave(self) -> None:
        """Release the place, and grant free places to waiting callers."""
        self._taken -= 1
        while self._waiting and self._taken < self._places:
            place = heapq.heappop(self._waiting)[2]
            if not place.done():
                self._taken += 1
                place.set_result(None)

    def overloaded(self) -> None:
        """Halve the number of places, to at least one, because the server answered with 429 or 503."""
        self._places = max(self._places // 2, 1)
        self._good = 0

    def went_well(self) -> None:
        """Count a response with another status than 429 and 503. `GOOD_ANSWERS_FOR_A_PLACE` of them add one place."""
        self._good += 1
        if self._places < self._most and self._good >= GOOD_ANSWERS_FOR_A_PLACE:
            self._places += 1
            self._good = 0

    def close(self) -> None:
        """Close the limit: waiting and new callers get `ConcurrencyLimitClosedError`."""
        self._closed = True
        for _, _, place in self._waiting:
            if not place.done():
                place.set_exception(ConcurrencyLimitClosedError())
        self._waiting.clear()
