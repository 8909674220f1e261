"""Odd moments: no thread to be had, a date that does not exist. None of them may stop requests or probes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.enterprise_manager.ids import JOB, LINK
from tests.enterprise_manager.sending import at_any_time
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.availability import Availability
from worker.sandbox.simulated_enterprise_manager import Fault, SimulatedEnterpriseManager
from worker.unlinks.ports.enterprise_manager import Unavailable

#: Dates that Python cannot represent, or cannot convert to UTC.
IMPOSSIBLE_DATES = ["Fri, 31 Dec 9999 23:59:59 -2359", "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"]


def _refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("date", IMPOSSIBLE_DATES)
async def test_an_impossible_date_in_retry_after_does_not_end_the_probes(
    em: SimulatedEnterpriseManager, gateway: Gateway, date: str
) -> None:
    """Else one odd header would leave an Enterprise Manager down for ever."""
    em.inject(Fault("status", status=503, retry_after=date, times=8))
    with pytest.raises(Unavailable, match="503"):
        await gateway.links(JOB)
    await asyncio.wait_for(gateway.until_available(), 10)
    assert gateway.up
    assert len(await gateway.links(JOB)) == 2


async def test_an_unforeseen_error_in_a_probe_does_not_end_the_probes(clock: Any) -> None:
    """As above, whatever the error is."""
    errors = [OverflowError("date value out of range"), MemoryError(), KeyError("x")]

    async def probe() -> None:
        if errors:
            raise errors.pop()

    availability = Availability("lab", clock, probe)
    await availability.probe()
    assert [availability.up] == [False]
    await asyncio.wait_for(availability.until_up(), 5)
    assert availability.up
    assert errors == []


async def test_without_a_thread_nothing_is_sent_and_no_place_is_lost(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else after a few such moments every request would wait for ever for a place."""
    gateway = gateway_with(max_requests=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse)
        for _ in range(3):
            with pytest.raises(Unavailable, match="cannot start a thread"):
                await asyncio.wait_for(gateway.delete_link(JOB, LINK, at_any_time), 10)
            gateway._availability._down_since = None  # noqa: SLF001 - else the next call fails without a request
    await asyncio.wait_for(gateway.until_available(), 10)
    assert len(await asyncio.wait_for(gateway.links(JOB), 10)) == 2
    assert em.deletes_of(LINK) == 0


async def test_where_no_further_thread_can_be_started_requests_share_those_that_run(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a host short of threads would take an Enterprise Manager down that answers."""
    await gateway.links(JOB)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse)
        answers = await asyncio.wait_for(asyncio.gather(*(gateway.links(JOB) for _ in range(20))), 10)
    assert [len(links) for links in answers] == [2] * 20
    assert gateway.up


async def test_threads_are_bounded_and_end_with_the_gateway(gateway_with: Callable[..., Gateway]) -> None:
    """Else a worker under load, or one that is assembled again and again, would run out of threads."""

    def running() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "enterprise-manager-lab"]

    before = len(running())
    gateway = gateway_with(max_requests=3)
    await asyncio.gather(*(gateway.links(JOB) for _ in range(40)))
    begun = running()
    assert 1 <= len(begun) - before <= 4
    await gateway.close(log_off=False)
    for thread in begun[before:]:
        thread.join(10)
        assert not thread.is_alive()
