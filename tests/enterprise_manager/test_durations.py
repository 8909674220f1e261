"""When a task is read: what is learned from the tasks before it."""

from __future__ import annotations

import pytest

from worker.enterprise_manager.durations import LONGEST, Durations

INTERVAL = 1.0


def follow(durations: Durations, seconds: float) -> tuple[float, int]:
    """Read a task of that duration whenever it is due: how late its end was seen, and by how many reads."""
    age, before, reads = 0.0, 0.0, 0
    while age < seconds:
        before, age = age, age + durations.pause(age)
        reads += 1
        assert reads < 1000
    durations.ended(before if reads > 1 else 0.0, age)
    return age - seconds, reads


def settled(lengths: list[float]) -> tuple[list[float], float]:
    """How late ends are seen once the durations are known, sorted, and the reads of each task."""
    durations = Durations(INTERVAL)
    seen = [follow(durations, seconds) for seconds in lengths]
    late = sorted(lateness for lateness, _ in seen[len(seen) // 4 :])
    return late, sum(reads for _, reads in seen) / len(seen)


@pytest.mark.parametrize("seconds", [0.05, 0.4, 3.0, 20.0, 300.0])
def test_the_end_of_a_task_as_long_as_others_is_seen_soon_and_by_few_reads(seconds: float) -> None:
    """Else a requester would wait for a poll that comes late, or Enterprise Manager answer many that come early."""
    late, reads = settled([seconds] * 200)
    assert late[len(late) // 2] <= 0.3 * INTERVAL
    assert late[-1] <= INTERVAL
    assert reads <= 4


def test_durations_that_differ_are_followed_in_steps() -> None:
    """Else the ends of tasks that take longer than others would be seen late."""
    late, reads = settled([2 + 2 * (number * 37 % 100) / 100 for number in range(400)])
    assert late[len(late) // 2] <= 0.3 * INTERVAL
    assert late[round(len(late) * 0.99)] <= INTERVAL
    assert reads <= 8


def test_a_task_that_takes_longer_than_all_others_is_read_at_growing_intervals() -> None:
    """Else one that hangs would be read four times an interval, for ever."""
    durations = Durations(INTERVAL)
    for _ in range(50):
        follow(durations, 1.0)
    assert durations.pause(1000.0) == LONGEST * INTERVAL
    assert follow(durations, 600.0)[1] < 120
