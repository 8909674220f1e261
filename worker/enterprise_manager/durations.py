"""Learns how long tasks take from those that ended, and calculates when to read a running task."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import chain

#: The durations of this many tasks are remembered, the latest ones.
REMEMBERED = 32

#: The shortest pause between two reads of a task, as a multiple of the poll interval.
SHORTEST = 0.25

#: For a task that runs longer than all remembered ones: the pause as a share of the excess time, and the longest pause
#: as a multiple of the poll interval.
SHARE_OF_EXCESS = 0.5
LONGEST = 8


class Durations:
    """The durations of the latest tasks, each estimated from the reads of the task."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._ends: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        #: All values in `_ends`, sorted.
        self._known: list[float] = []

    def ended(self, after: float, by: float) -> None:
        """Record that a task ended between two ages, in seconds.

        The end is estimated at the middle of the range. In a wide range it is estimated near the upper end: the first
        read of a task is scheduled for when other tasks ended.

        Args:
            after: the task's age at the last read that showed it running.
            by: its age at the read that showed its end.
        """
        middle = max((after + by) / 2, by - SHORTEST * self._interval / 2)
        self._ends.append((middle, by))
        self._known = sorted(chain.from_iterable(self._ends))

    def pause(self, age: float) -> float:
        """The seconds until a task of that age, in seconds, is to be read: at the next longer remembered duration.

        A task older than all remembered durations is read after a share of the time by which it exceeds them.
        """
        shortest = SHORTEST * self._interval
        known = self._known
        later = bisect_right(known, age)
        if later < len(known):
            return max(known[later] - age, shortest if age else 0)
        excess = age - known[-1] if known else age
        return min(max(SHARE_OF_EXCESS * excess, shortest), LONGEST * self._interval)
