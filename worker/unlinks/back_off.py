"""The pauses between retries."""

from __future__ import annotations

import math
from collections.abc import Callable

from worker.unlinks.ports.clock import Clock


class BackOff:
    """Exponential back-off with jitter: each pause is longer than the one before by a factor, up to the longest.

    Args:
        clock: measures the time between pauses, and gives the jitter.
        first: the first pause in seconds, before jitter.
        longest: the longest pause in seconds, before jitter.
        factor: each pause is this many times as long as the one before.
        quiet: if this many seconds have passed since the end of the last pause, the next one is `first` again.
        jitter: applied to each pause; by default `Clock.jitter`.
    """

    def __init__(
        self,
        clock: Clock,
        first: float,
        longest: float,
        *,
        factor: float = 2,
        quiet: float = math.inf,
        jitter: Callable[[float], float] | None = None,
    ) -> None:
        self._clock = clock
        self._first = first
        self._longest = longest
        self._factor = factor
        self._quiet = quiet
        self._jitter = jitter or clock.jitter
        self._next = first
        self._ended_at = clock.monotonic()

    def pause(self) -> float:
        """The seconds to wait now before the next try."""
        now = self._clock.monotonic()
        if now - self._ended_at > self._quiet:
            self.reset()
        seconds = self._jitter(self._next)
        self._next = min(self._factor * self._next, self._longest)
        self._ended_at = now + seconds
        return seconds

    def reset(self) -> None:
        """Start again with the first pause: the last try succeeded."""
        self._next = self._first
