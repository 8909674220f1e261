"""How long tasks take at this Enterprise Manager, learned from those that ended; and when to read one that runs."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

#: So many of the latest ends are remembered.
REMEMBERED = 32

#: The shortest pause between two reads of a task, in poll intervals.
SHORTEST = 0.25

#: A task that runs longer than those before it is read again after this share of what it takes longer, at most after
#: so many poll intervals.
SHARE_OF_EXCESS = 0.5
LONGEST = 8


class Durations:
    """The durations of the latest tasks, each known as far as the reads of the task tell."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._ends: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        #: All of their moments, in order.
        self._known: list[float] = []

    def ended(self, after: float, by: float) -> None:
        """Learn that a task ended at some age between that of the last read that showed it running, and this one.

        The end is assumed in the middle; but where the range is wide, near its upper end: the task was read first when
        it was due, and others ended then.
        """
        middle = max((after + by) / 2, by - SHORTEST * self._interval / 2)
        self._ends.append((middle, by))
        self._known = sorted(moment for end in self._ends for moment in end)

    def pause(self, age: float) -> float:
        """The seconds until a task of that age is to be read: when the next of the known ends would be past."""
        shortest = SHORTEST * self._interval
        known = self._known
        later = bisect_right(known, age)
        if later < len(known):
            return max(known[later] - age, shortest if age else 0)
        excess = age - known[-1] if known else age
        return min(max(SHARE_OF_EXCESS * excess, shortest), LONGEST * self._interval)
