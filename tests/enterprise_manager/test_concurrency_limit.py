"""Who sends next, and how much at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from requests.structures import CaseInsensitiveDict

from tests.enterprise_manager.ids import JOB
from tests.waiting import until
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.concurrency_limit import (
    GOOD_ANSWERS_FOR_A_PLACE,
    ConcurrencyLimit,
    ConcurrencyLimitClosedError,
)
from worker.enterprise_manager.responses import retry_after
from worker.enterprise_manager.transport import Answer, Request
from worker.sandbox.simulated_enterprise_manager import Fault, SimulatedEnterpriseManager


@asynccontextmanager
async def place(limit: ConcurrencyLimit, *, low_priority: bool = False) -> AsyncIterator[None]:
    """Hold a place."""
    await limit.enter(low_priority=low_priority)
    yield
    limit.leave()


async def enter(limit: ConcurrencyLimit, name: str, order: list[str], *, low_priority: bool = False) -> None:
    """Wait for a place, note it, and leave."""
    async with place(limit, low_priority=low_priority):
        order.append(name)
        await asyncio.sleep(0)


async def test_what_was_begun_goes_before_what_begins_and_else_the_first_comes_first() -> None:
    """Else of a thousand unlinks at once none would end before all have begun."""
    limit, order = ConcurrencyLimit(1), list[str]()
    async with asyncio.TaskGroup() as group, place(limit):
        for name, low_priority in (("p1", True), ("a", False), ("p2", True), ("b", False)):
            group.create_task(enter(limit, name, order, low_priority=low_priority))
        await asyncio.sleep(0)
        assert limit.waiting == 4
    assert order == ["a", "b", "p1", "p2"]


async def test_one_that_goes_away_takes_no_place_with_it() -> None:
    """Else each cancelled unlink would leave one request less for the others, until there is none."""
    limit, order = ConcurrencyLimit(1), list[str]()
    async with place(limit):
        going = [asyncio.create_task(enter(limit, "gone", order)) for _ in range(3)]
        staying = asyncio.create_task(enter(limit, "stays", order))
        await asyncio.sleep(0)
        going[1].cancel()
    going[0].cancel()  # in the very instant in which it is let in
    await asyncio.wait([*going, staying])
    await enter(limit, "later", order)
    assert order[-2:] == ["stays", "later"]


async def test_closing_turns_away_who_waits_and_who_comes() -> None:
    """Else a worker that is to end would wait for requests that nobody sends any more."""
    limit = ConcurrencyLimit(1)
    async with place(limit):
        waiting = asyncio.create_task(enter(limit, "waits", []))
        await asyncio.sleep(0)
        limit.close()
        with pytest.raises(ConcurrencyLimitClosedError):
            await waiting
    with pytest.raises(ConcurrencyLimitClosedError):
        await enter(limit, "comes", [])


async def test_an_overloaded_server_is_given_half_as_much_and_slowly_more_again() -> None:
    """Else a server with a limit of its own would turn requests away for as long as there is work."""
    limit = ConcurrencyLimit(16)
    for places in (8, 4, 2, 1, 1):
        limit.overloaded()
        assert limit.places == places
    for _ in range(GOOD_ANSWERS_FOR_A_PLACE * 20):
        limit.went_well()
    assert limit.places == 16


@pytest.mark.parametrize("status", [429, 503])
async def test_while_the_server_asks_for_a_pause_nobody_sends(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway], clock: Any, status: int
) -> None:
    """Else each of a thousand unlinks would have to be told by itself."""
    wire = gateway_with()._wire  # noqa: SLF001 - beneath the retries, which wait too
    em.inject(Fault("status", status=status, retry_after="9"))
    assert (await wire.exchange(Request("GET", "/api/"))).status == status
    assert clock.waited == []
    assert (await wire.exchange(Request("GET", "/api/"))).status == 200
    assert clock.waited == [pytest.approx(9, abs=1)]


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        ("7", 7),
        ("100000", 30),
        ("Mon, 23 Nov 2026 14:00:05 GMT", 5),
        ("Mon, 23 Nov 2026 13:59:00 GMT", 0),
        ("Mon, 23 Nov 2026 23:00:00 GMT", 30),
        ("soon", 0),
        ("", 0),
        ("-3", 0),
    ],
)
def test_a_pause_may_be_asked_for_in_seconds_or_by_date(after: str, seconds: float) -> None:
    """Else half of the servers that ask for a pause would be hammered."""
    headers = CaseInsensitiveDict({"Retry-After": after, "Date": "Mon, 23 Nov 2026 14:00:00 GMT"})
    assert retry_after(Answer(503, headers, b"")) == seconds


async def test_a_request_that_nobody_waits_for_any_more_keeps_its_place_until_it_is_over(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]
) -> None:
    """Else cancelled unlinks would send a server more requests at once than it is to have."""
    gateway = gateway_with(max_requests=1)
    await gateway.links(JOB)
    em.inject(Fault("latency", method="GET", seconds=0.5))
    going = asyncio.create_task(gateway.links(JOB))
    await until(lambda: not em.faults)
    going.cancel()
    staying = asyncio.create_task(gateway.links(JOB))
    await until(lambda: gateway._wire._limit.waiting == 1)  # noqa: SLF001 - what is waited for
    assert em.count("GET", "linkedBackup") == 2
    assert len(await staying) == 2
