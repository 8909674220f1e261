"""What grows is seen: a soak that calls everything flat proves nothing."""

from __future__ import annotations

import pytest

from tests.chaos.gauges import Reading, courses


def readings(memory: float = 0.0, bytes_a_key: float = 0.0) -> list[Reading]:
    """Forty readings, in which these grow from one to the next; at one of them the ledger is away."""
    ledger = [{"keys": 10.0 * n, "bytes": 8e6 + 1000.0 * n + bytes_a_key * n * n} for n in range(40)]
    ledger[20] = {}
    return [{"MB of memory": 100 + memory * n, "threads": 20.0, **each} for n, each in enumerate(ledger)]


def test_what_stays_as_it_is_or_takes_its_share_of_each_key_is_flat() -> None:
    """A ledger that keeps keys for 90 days grows with them, as it should."""
    assert [course.flat for course in courses(readings()).values()] == [True, True, True]


@pytest.mark.parametrize("growing", [{"memory": 1.0}, {"bytes_a_key": 10.0}])
def test_what_grows_is_not_flat(growing: dict[str, float]) -> None:
    """A leak would be found after weeks, in production."""
    assert [course.flat for course in courses(readings(**growing)).values()].count(False) == 1


def test_too_few_readings_say_nothing() -> None:
    """A soak of some seconds would fail for what it cannot know."""
    assert courses(readings()[:3]) == {}
