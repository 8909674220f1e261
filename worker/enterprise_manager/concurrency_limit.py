"""Who sends next, where only so many requests may be under way at once.

What an unlink has begun goes before what is only to begin: among a thousand unlinks at once each then comes to its end
soon after its beginning, instead of all of them late, and what was seen of a job is still fresh when its DELETE leaves.
Nobody starves, for an unlink needs few requests once it has begun; a look that comes back again and again waits in line
with the beginners.
"""

from __future__ import annotations

import asyncio
import heapq

#: After so many answers in a row that are not "too many requests", one more request at once is tried.
GOOD_ANSWERS_FOR_A_PLACE = 50


class ConcurrencyLimitClosedError(Exception):
    """Nobody is let in any more."""


class ConcurrencyLimit:
    """So many places; first come, first served, but the patient ones after all others.

    A server that is overloaded is given fewer requests at once, half as many each time that it says so, and then slowly
    more again: it may well have a limit of its own, which nobody has been told.
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
        """How many there are at present."""
        return self._places

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
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
                self.leave()  # the place came in the same instant as the cancellation: the next one has it
            raise

    def leave(self) -> None:
        """Give the place back, and hand on what is free."""
        self._taken -= 1
        while self._waiting and self._taken < self._places:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                self._taken += 1
                turn.set_result(None)

    def overloaded(self) -> None:
        """The server has turned a request away: there are half as many places from now on, and at least one."""
        self._places = max(self._places // 2, 1)
        self._good = 0

    def went_well(self) -> None:
        """The server has answered: after so many times there is one more place."""
        self._good += 1
        if self._places < self._most and self._good >= GOOD_ANSWERS_FOR_A_PLACE:
            self._places += 1
            self._good = 0

    def close(self) -> None:
        """Turn everybody away who waits, or comes later."""
        self._closed = True
        for _, _, turn in self._waiting:
            if not turn.done():
                turn.set_exception(ConcurrencyLimitClosedError())
        self._waiting.clear()
