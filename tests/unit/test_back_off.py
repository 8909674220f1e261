from __future__ import annotations

from worker.clock import SystemClock
from worker.unlinks.back_off import BackOff


class Clock(SystemClock):
    """A clock that a test sets."""

    time = 0.0

    def monotonic(self) -> float:
        """As set."""
        return self.time

    def jitter(self, seconds: float) -> float:
        """No jitter."""
        return seconds


def test_pauses_double_up_to_the_longest_until_a_try_succeeds() -> None:
    """Without the growth, an unavailable server is flooded; without the reset, later tries wait too long."""
    back_off = BackOff(Clock(), 1, 5)
    assert [back_off.pause() for _ in range(5)] == [1, 2, 4, 5, 5]
    back_off.reset()
    assert back_off.pause() == 1


def test_after_a_quiet_time_pauses_begin_anew() -> None:
    """A connection that held for days would be made again only after the longest pause."""
    clock = Clock()
    back_off = BackOff(clock, 1, 30, quiet=5)
    assert [back_off.pause(), back_off.pause()] == [1, 2]
    clock.time = 2 + 5
    assert back_off.pause() == 4
    clock.time += 4 + 5.1
    assert back_off.pause() == 1


def test_every_pause_is_jittered() -> None:
    """Workers that lost a server together would come back to it together."""
    assert BackOff(SystemClock(), 1, 30).pause() != BackOff(SystemClock(), 1, 30).pause()
    assert BackOff(Clock(), 1, 30, jitter=lambda pause: pause + 0.25).pause() == 1.25
