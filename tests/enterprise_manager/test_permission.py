"""A DELETE leaves only while it may: what is ready before the check, and what becomes of one that may not leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.enterprise_manager.conftest import QuickClock
from tests.enterprise_manager.ids import JOB, LINK
from tests.enterprise_manager.sending import at_any_time
from tests.waiting import until
from worker.enterprise_manager import Gateway
from worker.sandbox.simulated_enterprise_manager import Fault, SimulatedEnterpriseManager
from worker.unlinks.ports.enterprise_manager import NotSent, Unavailable

SESSION = b"<LogonSession><SessionId>96cff3b1</SessionId></LogonSession>"
TASK = b"<Task><TaskId>task-1</TaskId><State>Running</State></Task>"
HEAD = b"HTTP/1.1 202 Accepted\r\nX-RestSvcSessionId: token\r\nContent-Length: %d\r\n\r\n"


class ForbiddenError(Exception):
    """What a check raised."""


async def test_everything_is_ready_before_the_check(
    serve: Any, settings_for: Any, clock: QuickClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a DELETE would leave seconds after its check: past `not_after`, or after the lease was lost."""
    monkeypatch.setattr("worker.enterprise_manager.connections.WARM_SECONDS", 0.0)
    handshakes: list[int] = []

    def script(connection: Any) -> None:
        connection.secure()
        handshakes.append(len(handshakes))
        while request := connection.request():
            body = SESSION if request.startswith(b"POST") else TASK
            connection.send(HEAD % len(body) + body)

    server = serve(script)
    gateway = Gateway("lab", settings_for(server.port), clock)
    seen: list[tuple[int, list[bytes]]] = []

    async def may_send() -> float:
        await until(lambda: len(handshakes) == 2)
        seen.append((len(handshakes), [request.split(b" ", 1)[0] for request in server.requests]))
        return clock.monotonic() + 1

    await gateway.delete_link(JOB, LINK, may_send)
    assert seen == [(2, [b"POST"])]
    assert server.requests[-1].startswith(b"DELETE")
    await gateway.close(log_off=False)


async def test_a_delete_whose_moment_has_passed_is_not_written(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway], clock: QuickClock
) -> None:
    """Else a DELETE could leave after the lease was lost; and the core must learn that it did not."""
    gateway = gateway_with(max_requests=1)

    async def too_late() -> float:
        return clock.monotonic() - 0.001

    for _ in range(3):
        with pytest.raises(NotSent, match="DELETE was not sent"):
            await asyncio.wait_for(gateway.delete_link(JOB, LINK, too_late), 10)
    assert gateway.up
    await gateway.delete_link(JOB, LINK, at_any_time)
    assert em.deletes_of(LINK) == 1


async def test_what_the_check_raises_is_raised_and_nothing_is_written(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]
) -> None:
    """Else a cancelled unlink, or one that another worker has taken over, would be sent all the same."""
    gateway = gateway_with(max_requests=1)

    async def forbid() -> float:
        raise ForbiddenError

    for _ in range(3):
        with pytest.raises(ForbiddenError):
            await asyncio.wait_for(gateway.delete_link(JOB, LINK, forbid), 10)
    assert gateway.up
    assert len(await gateway.links(JOB)) == 2
    assert em.deletes_of(LINK) == 0


async def test_a_call_that_is_cancelled_during_the_check_writes_nothing_and_takes_no_slot_with_it(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]
) -> None:
    """Else the end of a hold or a drain could not end the wait for a slow check."""
    gateway = gateway_with(max_requests=1)
    checking = asyncio.Event()

    async def slow() -> float:
        checking.set()
        await asyncio.Event().wait()
        raise AssertionError

    for _ in range(3):
        checking.clear()
        sending = asyncio.create_task(gateway.delete_link(JOB, LINK, slow))
        await asyncio.wait_for(checking.wait(), 10)
        sending.cancel()
        await asyncio.wait([sending])
        assert sending.cancelled()
    assert len(await asyncio.wait_for(gateway.links(JOB), 10)) == 2
    assert em.deletes_of(LINK) == 0


async def test_a_check_comes_after_the_wait_for_a_slot(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]
) -> None:
    """Else the check would be as old as the longest request before it in the line."""
    gateway = gateway_with(max_requests=1)
    await gateway.links(JOB)
    em.inject(Fault("latency", method="GET", seconds=0.5))
    busy = asyncio.create_task(gateway.links(JOB))
    await until(lambda: not em.faults)
    before: list[bool] = []

    async def may_send() -> float:
        before.append(busy.done() or not em.requests[-1].status)
        assert em.requests[-1].status == 200
        return await at_any_time()

    await gateway.delete_link(JOB, LINK, may_send)
    assert len(before) == 1
    await busy


async def test_each_attempt_is_checked_anew(
    em: SimulatedEnterpriseManager, gateway: Gateway, clock: QuickClock
) -> None:
    """Else a DELETE that is repeated after a pause, or in a new session, would rest on an old check."""
    await gateway.links(JOB)
    em.expire_sessions()
    em.inject(Fault("status", method="DELETE", status=429, retry_after="7", after=1))
    checks: list[float] = []

    async def may_send() -> float:
        checks.append(sum(clock.waited))
        return clock.monotonic() + 1

    await gateway.delete_link(JOB, LINK, may_send)
    assert checks == [0, 0, 7]
    assert em.deletes_of(LINK) == 3


async def test_nothing_is_checked_where_nothing_could_be_sent(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else an Enterprise Manager that is down would make the worker query the ledger without need."""
    await gateway.links(JOB)
    em.refuse_connections()

    async def may_send() -> float:
        raise AssertionError("checked")

    with pytest.raises(Unavailable):
        await gateway.delete_link(JOB, LINK, may_send)
    em.accept_connections()
    await asyncio.wait_for(gateway.until_available(), 10)


@pytest.mark.parametrize("why", ["too many requests", "an expired session"])
async def test_who_permits_a_delete_learns_that_it_was_not_carried_out_before_it_is_repeated(
    em: SimulatedEnterpriseManager, gateway: Gateway, clock: QuickClock, why: str
) -> None:
    """Else the wait for the next attempt, of half a minute, would have to be taken for the DELETE's own exchange."""
    await gateway.links(JOB)
    if why == "an expired session":
        em.expire_sessions()
    else:
        em.inject(Fault("status", method="DELETE", status=429, retry_after="7"))
    log: list[str] = []

    async def may_send() -> float:
        log.append("permitted")
        return clock.monotonic() + 1

    def unsent() -> None:
        assert not clock.waited
        log.append("unsent")

    await gateway.delete_link(JOB, LINK, may_send, unsent)
    assert log == ["permitted", "unsent", "permitted"]


async def test_a_delete_is_not_repeated_if_the_one_who_permits_it_does_not_want_it(
    em: SimulatedEnterpriseManager, gateway: Gateway
) -> None:
    """Else a cancel would wait for what the server asked to wait, and for a request slot."""
    em.inject(Fault("status", method="DELETE", status=429, retry_after="7"))

    def forbid() -> None:
        raise ForbiddenError

    with pytest.raises(ForbiddenError):
        await gateway.delete_link(JOB, LINK, at_any_time, forbid)
    assert em.deletes_of(LINK) == 1
