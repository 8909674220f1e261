"""The DELETE: sent once, unless it is certain that it was not carried out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.enterprise_manager.ids import JOB, LINK, OTHER_LINK
from tests.enterprise_manager.sending import at_any_time
from tests.waiting import until
from worker.enterprise_manager import Gateway
from worker.sandbox.simulated_enterprise_manager import (
    Fault,
    SimulatedEnterpriseManager,
)
from worker.unlinks.ports.enterprise_manager import AnswerLost, Unavailable

TASK = b"<Task><TaskId>task-1</TaskId><State>Running</State></Task>"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=500),
        Fault("status", status=502, answer="html"),
        Fault("status", status=503),
        Fault("status", status=503, retry_after="1"),
        Fault("status", status=504, answer="empty"),
        Fault("status", status=404, answer="html"),
        Fault("wrong_content", status=404, body="no such upstream", content_type="text/plain"),
        Fault("wrong_content", status=404, body='{"message": "no Route matched"}', content_type="application/json"),
        Fault("status", status=408),
        Fault("status", status=302, answer="empty"),
        Fault("drops_connection"),
        Fault("acts_and_drops_connection"),
        Fault("acts_and_never_answers"),
        Fault("truncated"),
        Fault("cut_off"),
        Fault("wrong_content"),
        Fault("wrong_content", body="{}", content_type="application/json"),
        Fault("wrong_content", body="<Other/>", content_type="application/xml"),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status or ''} {fault.answer}",
)
async def test_a_delete_whose_answer_is_lost_is_sent_once(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway], fault: Fault
) -> None:
    """Else a DELETE that was carried out could be sent again, and remove what somebody had put back."""
    gateway = gateway_with(request_timeout_seconds=0.5)
    em.inject(Fault(**{name: getattr(fault, name) for name in Fault.__slots__} | {"method": "DELETE", "times": 3}))
    with pytest.raises(AnswerLost):
        await gateway.delete_link(JOB, LINK, at_any_time)
    assert em.deletes_of(LINK) == 1
    assert gateway.up


async def test_a_delete_that_cannot_leave_was_not_sent(
    em: SimulatedEnterpriseManager, gateway: Gateway, clock: Any
) -> None:
    """Else an outage would make every unlink wait for a task that never started."""
    await gateway.links(JOB)
    em.refuse_connections()
    with pytest.raises(Unavailable, match="nothing listens there"):
        await gateway.delete_link(JOB, LINK, at_any_time)
    assert not gateway.up
    assert clock.waited[:2] == [0.5, 1.0]
    em.accept_connections()
    await asyncio.wait_for(gateway.until_available(), 10)
    assert (await gateway.delete_link(JOB, LINK, at_any_time)).ticket.task_id == "task-1"
    assert em.deletes_of(LINK) == 1


async def test_too_many_requests_are_not_carried_out_and_the_wait_is_honoured(
    em: SimulatedEnterpriseManager, gateway: Gateway, clock: Any
) -> None:
    """Else a server that protects itself would be pressed further, or the unlink given up."""
    em.inject(Fault("status", method="DELETE", status=429, retry_after="7", times=2))
    assert (await gateway.delete_link(JOB, LINK, at_any_time)).ticket.task_id == "task-1"
    assert clock.waited == [7, 7]
    em.inject(Fault("status", method="DELETE", status=429, retry_after="86400", times=3))
    with pytest.raises(Unavailable, match="asks for fewer requests"):
        await gateway.delete_link(JOB, OTHER_LINK, at_any_time)
    assert clock.waited[2:4] == [30, 30]
    assert em.deletes_of(OTHER_LINK) == 3


async def test_a_delete_in_an_expired_session_is_repeated_in_a_new_one(
    em: SimulatedEnterpriseManager, gateway: Gateway, finish: Any
) -> None:
    """Else the first unlink after a quiet quarter of an hour would fail."""
    await gateway.links(JOB)
    em.expire_sessions()
    task = await gateway.delete_link(JOB, LINK, at_any_time)
    assert (await finish(gateway, task.ticket)).success is True
    assert em.count("POST", "/sessionMngr") == 2
    assert em.deletes_of(LINK) == 2


async def test_sessions_that_are_refused_again_and_again_are_an_outage(
    em: SimulatedEnterpriseManager, gateway: Gateway
) -> None:
    """Else the worker would log on without end."""
    em.inject(Fault("status", method="DELETE", status=401, times=2))
    with pytest.raises(Unavailable, match="keeps refusing its own logon sessions"):
        await gateway.delete_link(JOB, LINK, at_any_time)
    em.inject(Fault("status", method="GET", path="linkedBackup", status=401, times=2))
    await asyncio.wait_for(gateway.until_available(), 10)
    with pytest.raises(Unavailable, match="keeps refusing its own logon sessions"):
        await gateway.links(JOB)


@pytest.mark.parametrize(
    ("warm_seconds", "closes", "connections"),
    [(60.0, False, [1, 1, 1, 1, 1]), (0.0, False, [1, 1, 2, 2, 3]), (60.0, True, [1, 2, 3, 4, 5])],
    ids=["a moment ago", "has idled", "closed by the server"],
)
async def test_a_delete_is_sent_over_a_connection_that_answered_a_moment_ago_or_over_a_new_one(
    serve: Any,
    settings_for: Any,
    clock: Any,
    monkeypatch: pytest.MonkeyPatch,
    *,
    warm_seconds: float,
    closes: bool,
    connections: list[int],
) -> None:
    """A kept connection that died unnoticed would leave open whether the DELETE arrived."""
    monkeypatch.setattr("worker.enterprise_manager.connections.WARM_SECONDS", warm_seconds)
    seen: list[tuple[int, bytes]] = []

    def script(connection: Any) -> None:
        number = server.connections
        connection.secure()
        while request := connection.request():
            method = request.split(b" ", 1)[0]
            seen.append((number, method))
            body = b"<LinkedBackupRepositoryResourceObjects/>" if method == b"GET" else TASK
            head = b"HTTP/1.1 202 Accepted\r\nX-RestSvcSessionId: token\r\nContent-Length: %d\r\n\r\n" % len(body)
            connection.send(head + body)
            if closes:
                return

    server = serve(script)
    gateway = Gateway("lab", settings_for(server.port), clock)
    await gateway.links(JOB)
    await gateway.delete_link(JOB, LINK, at_any_time)
    await gateway.links(JOB)
    await gateway.delete_link(JOB, OTHER_LINK, at_any_time)
    await gateway.close(log_off=False)
    assert [method for _, method in seen] == [b"POST", b"GET", b"DELETE", b"GET", b"DELETE"]
    assert [number for number, _ in seen] == connections


async def test_a_client_that_is_closed_closes_its_idle_connections(serve: Any, settings_for: Any, clock: Any) -> None:
    """Else each would keep a connection of Enterprise Manager's until the worker's process ends."""
    closed = threading.Event()

    def script(connection: Any) -> None:
        connection.secure()
        while connection.request():
            connection.send(
                b"HTTP/1.1 202 Accepted\r\nX-RestSvcSessionId: token\r\nContent-Length: %d\r\n\r\n" % len(TASK)
            )
            connection.send(TASK)
        closed.set()

    gateway = Gateway("lab", settings_for(serve(script).port), clock)
    await gateway.delete_link(JOB, LINK, at_any_time)
    await gateway.close(log_off=False)
    await until(closed.is_set, "the end of the connection")


async def test_a_connection_that_is_closed_while_the_permission_is_waited_for_carries_no_delete(
    serve: Any, settings_for: Any, clock: Any
) -> None:
    """Else the DELETE would count as perhaps carried out, and the unlink wait for minutes, where nothing had left."""
    close, closed = threading.Event(), threading.Event()
    seen: list[tuple[int, bytes]] = []

    def answer(connection: Any) -> None:
        request = connection.request()
        method = request.split(b" ", 1)[0]
        seen.append((server.connections, method))
        body = b"<LinkedBackupRepositoryResourceObjects/>" if method == b"GET" else TASK
        head = b"HTTP/1.1 202 Accepted\r\nX-RestSvcSessionId: token\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.send(head + body)

    def first(connection: Any) -> None:
        connection.secure()
        answer(connection)
        answer(connection)
        close.wait(10)
        connection.close()
        closed.set()

    def second(connection: Any) -> None:
        connection.secure()
        answer(connection)

    server = serve(first, second)
    gateway = Gateway("lab", settings_for(server.port), clock)
    permissions = 0

    async def may_send() -> float:
        nonlocal permissions
        permissions += 1
        close.set()
        await asyncio.to_thread(closed.wait, 10)
        return float(clock.monotonic() + 60)

    await gateway.links(JOB)
    await gateway.delete_link(JOB, LINK, may_send)
    await gateway.close(log_off=False)
    assert seen == [(1, b"POST"), (1, b"GET"), (2, b"DELETE")]
    assert permissions == 2
