"""The order in which requests are sent, where the number of concurrent requests is limited.

Requests of an unlink under way precede those of unlinks that have not begun. A thousand concurrent unlinks then end one
after the other instead of all late, and what was read of a job is recent when its DELETE is sent. No request starves:
an unlink under way needs few requests, and repeated polls queue with the requests of new unlinks.
"""

from __future__ import annotations

import asyncio
import heapq

#: After this many answers in a row other than "too many requests", the limit is raised by one.
GOOD_ANSWERS_FOR_A_PLACE = 50


class ConcurrencyLimitClosedError(Exception):
    """The limit is closed: no place is given any more."""


class ConcurrencyLimit:
    """A number of places, given in the order of arrival, to patient callers after all others.

    Each answer "too many requests" halves the number, and good answers raise it again one by one: the server may have a
    limit of its own, which is not documented.
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
        """The present number of places."""
        return self._places

    @property
    def waiting(self) -> int:
        """The number of callers that wait for a place."""
        return sum(not turn.done() for _, _, turn in self._waiting)

    async def enter(self, *, patient: bool) -> None:
        """Take a place, after waiting for one; it is taken until `leave`.

        Raises:
            ConcurrencyLimitClosedError: it was closed before a place was free.
        """
        if self._closed:
            raise ConcurrencyLimitClosedError
        if self._taken < self._places:
            self._taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        heapq.heappush(self._waiting, (patient, self._arrivals, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()  # the place was given in the instant of the cancellation: pass it on
            raise

    def leave(self) -> None:
        """Give the place back, and give free places to those that wait."""
        self._taken -= 1
        while self._waiting and self._taken < self._places:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                self._taken += 1
                turn.set_result(None)

    def overloaded(self) -> None:
        """The server has refused a request as one too many: halve the number of places, to at least one."""
        self._places = max(self._places // 2, 1)
        self._good = 0

    def went_well(self) -> None:
        """The server has answered. After `GOOD_ANSWERS_FOR_A_PLACE` answers there is one more place."""
        self._good += 1
        if self._places < self._most and self._good >= GOOD_ANSWERS_FOR_A_PLACE:
            self._places += 1
            self._good = 0

    def close(self) -> None:
        """Refuse all callers, waiting or new."""
        self._closed = True
        for _, _, turn in self._waiting:
            if not turn.done():
                turn.set_exception(ConcurrencyLimitClosedError())
        self._waiting.clear()
