"""Down, probing, up again, in time that does not pass."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from worker.enterprise_manager.availability import Availability
from worker.unlinks.ports.enterprise_manager import Unavailable


class Probe:
    """Fails so many times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    async def __call__(self) -> None:
        """Probe once."""
        if self.failures > 0:
            self.failures -= 1
            raise Unavailable("still away")


async def test_nothing_waits_while_all_is_well(clock: Any) -> None:
    """Else every unlink would wait for probes that nobody needs."""
    availability = Availability("lab", clock, Probe(0))
    await asyncio.wait_for(availability.until_up(), 1)
    availability.require_up()
    assert clock.waited == []


async def test_down_is_reported_and_up_again_is_reported(clock: Any) -> None:
    """Else commands would be consumed for an Enterprise Manager that is away, or never again."""
    received: list[bool] = []
    availability = Availability("lab", clock, Probe(2))
    availability.on_change(received.append)
    availability.went_wrong("nothing listens", everywhere=True)
    assert [availability.up] == [False]
    with pytest.raises(Unavailable, match="nothing listens"):
        availability.require_up()
    await asyncio.wait_for(availability.until_up(), 5)
    assert availability.up
    assert received == [False, True]
    assert availability.last_problem == "still away"


async def test_pauses_between_probes_grow_to_a_minute(clock: Any) -> None:
    """Else an Enterprise Manager that is away for an hour would be asked thousands of times."""
    availability = Availability("lab", clock, Probe(9))
    availability.went_wrong("nothing listens", everywhere=True)
    await asyncio.wait_for(availability.until_up(), 5)
    assert clock.waited == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


async def test_going_down_again_and_again_does_not_start_from_a_short_pause(clock: Any) -> None:
    """Else one that answers probes and nothing else would be asked without rest."""
    availability = Availability("lab", clock, Probe(0))
    for _ in range(4):
        availability.went_wrong("status 503", everywhere=True)
        await asyncio.wait_for(availability.until_up(), 5)
    assert clock.waited == [1, 2, 4, 8]
    availability.went_right()
    availability.went_wrong("status 503", everywhere=True)
    await asyncio.wait_for(availability.until_up(), 5)
    assert clock.waited[4:] == [1]


async def test_one_bad_resource_holds_its_own_caller_back_and_nobody_else(clock: Any) -> None:
    """Else one job that Enterprise Manager chokes on would stop the unlinks of all the others."""
    received: list[bool] = []
    availability = Availability("lab", clock, Probe(0))
    availability.on_change(received.append)
    availability.went_wrong("status 500", everywhere=False)
    assert availability.up
    availability.require_up()
    await asyncio.wait_for(availability.until_up(), 5)
    assert clock.waited == [1]
    assert received == []


async def test_a_listener_that_fails_does_not_stop_the_probes(clock: Any) -> None:
    """Else an error elsewhere would leave an Enterprise Manager down for ever."""

    def broken(up: bool) -> None:
        raise RuntimeError(str(up))

    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context["exception"]))
    availability = Availability("lab", clock, Probe(1))
    availability.on_change(broken)
    availability.went_wrong("nothing listens", everywhere=True)
    await asyncio.wait_for(availability.until_up(), 5)
    await asyncio.sleep(0)
    assert [str(error) for error in unhandled] == ["False", "True"]


async def test_closing_ends_the_probes(clock: Any) -> None:
    """Else the worker would not end while an Enterprise Manager is away."""
    availability = Availability("lab", clock, Probe(1_000_000))
    availability.went_wrong("nothing listens", everywhere=True)
    await asyncio.wait_for(availability.close(), 5)
