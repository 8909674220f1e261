"""One logon session for everybody, and tasks that mean something in theirs only."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from tests.enterprise_manager.ids import JOB, LINK, OTHER_LINK
from tests.enterprise_manager.sending import at_any_time
from tests.waiting import until
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.logon import RENEWED_AFTER_SECONDS
from worker.enterprise_manager.tasks import ABANDONED_SECONDS
from worker.sandbox.simulated_enterprise_manager import (
    Fault,
    SimulatedEnterpriseManager,
)
from worker.unlinks.following import SLOWEST
from worker.unlinks.ports.enterprise_manager import TaskNotFound, TaskTicket, Unavailable


async def test_a_task_of_another_session_is_not_asked_for(
    em: SimulatedEnterpriseManager, gateway: Gateway, finish: Any
) -> None:
    """Else `task-1` of a new session, which is another task, would decide an old unlink."""
    old = (await gateway.delete_link(JOB, LINK, at_any_time)).ticket
    await finish(gateway, old)
    em.expire_sessions()
    await gateway.links(JOB)
    new = (await gateway.delete_link(JOB, OTHER_LINK, at_any_time)).ticket
    assert (old.task_id, new.task_id) == ("task-1", "task-1")
    assert old.session != new.session
    em.forget_requests()
    for call in (gateway.task(old), gateway.stop_task(old), gateway.task(TaskTicket("task-1", uuid.uuid4().hex))):
        with pytest.raises(TaskNotFound):
            await call
    assert em.count() == 0


async def test_a_task_whose_session_expired_is_not_found(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else an unlink would wait for a task that nobody can see any more."""
    ticket = (await gateway.delete_link(JOB, LINK, at_any_time)).ticket
    em.expire_sessions()
    with pytest.raises(TaskNotFound):
        await gateway.task(ticket)
    assert [link.object_in_job_id for link in await gateway.links(JOB)]
    assert em.count("POST", "/sessionMngr") == 2


async def test_a_task_that_the_server_forgot_is_not_found(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """As above."""
    em.behaviour.finished_task_kept_seconds = 0
    ticket = (await gateway.delete_link(JOB, LINK, at_any_time)).ticket

    async def until_gone() -> None:
        while True:
            await gateway.task(ticket)
            await asyncio.sleep(0.01)

    with pytest.raises(TaskNotFound):
        await asyncio.wait_for(until_gone(), 10)


async def test_a_running_task_can_be_stopped(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else an unlink that takes too long, or is cancelled, would go on."""
    em.behaviour.edits_held = True
    ticket = (await gateway.delete_link(JOB, LINK, at_any_time)).ticket
    await gateway.stop_task(ticket)
    assert em.count("DELETE", f"/tasks/{ticket.task_id}") == 1
    with pytest.raises(TaskNotFound):
        await gateway.stop_task(ticket)
    em.behaviour.edits_held = False
    assert LINK in [link.object_in_job_id for link in await gateway.links(JOB)]


async def test_many_calls_at_once_share_one_logon(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else a worker that starts, or whose session expired, would leave dozens of sessions behind."""
    await asyncio.gather(*(gateway.links(JOB) for _ in range(40)))
    assert em.count("POST", "/sessionMngr") == 1
    em.expire_sessions()
    await asyncio.gather(*(gateway.links(JOB) for _ in range(40)))
    assert em.count("POST", "/sessionMngr") == 2


async def test_a_refused_password_is_not_tried_again_before_its_wait_is_over(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]
) -> None:
    """Else jitter would make the tries more frequent than is meant, and a directory lock the account."""
    gateway = gateway_with(password=SecretStr("wrong"))
    with capture_logs() as logs:
        await gateway.probe()
        await until(lambda: em.count("POST", "/sessionMngr") >= 4)
    waits = [entry["next_try_seconds"] for entry in logs if entry["event"] == "enterprise_manager.logon_refused"]
    assert waits[:3] == [75, 150, 300]


async def test_a_caller_that_goes_away_does_not_take_the_logon_with_it(
    em: SimulatedEnterpriseManager, gateway: Gateway
) -> None:
    """Else one cancelled unlink would fail all that wait for the same logon."""
    em.inject(Fault("latency", method="POST", seconds=0.3))
    first = asyncio.create_task(gateway.links(JOB))
    second = asyncio.create_task(gateway.links(JOB))
    await until(lambda: not em.faults)
    first.cancel()
    assert len(await second) == 2
    assert em.count("POST", "/sessionMngr") == 1


async def test_a_session_that_idled_is_replaced_before_it_is_used(
    em: SimulatedEnterpriseManager, gateway: Gateway, clock: Any
) -> None:
    """Else the first request after each quiet quarter of an hour would be sent in vain."""
    await gateway.links(JOB)
    clock.waited.append(RENEWED_AFTER_SECONDS - 5)
    await gateway.links(JOB)
    assert em.count("POST", "/sessionMngr") == 1
    clock.waited.append(RENEWED_AFTER_SECONDS - 5)
    await gateway.links(JOB)
    assert em.count("POST", "/sessionMngr") == 1
    clock.waited.append(RENEWED_AFTER_SECONDS + 5)
    await gateway.links(JOB)
    assert em.count("POST", "/sessionMngr") == 2
    assert 401 not in {request.status for request in em.requests}


def test_looks_at_a_task_are_never_so_far_apart_that_its_session_dies(settings_for: Any) -> None:
    """Else a task that runs for an hour would be lost to the session that it belongs to."""
    longest = settings_for(9398, poll_interval_seconds=60).poll_interval_seconds * SLOWEST * 1.5
    assert longest < RENEWED_AFTER_SECONDS
    with pytest.raises(ValidationError):
        settings_for(9398, poll_interval_seconds=61)


async def test_a_session_with_a_task_that_runs_is_not_logged_off(
    em: SimulatedEnterpriseManager, gateway: Gateway
) -> None:
    """Else logging off might end the edit that somebody still waits for."""
    em.behaviour.edits_held = True
    ticket = (await gateway.delete_link(JOB, LINK, at_any_time)).ticket
    assert not (await gateway.task(ticket)).finished
    await gateway.close(log_off=True)
    assert len(em.sessions) == 1


@pytest.mark.parametrize(
    "way",
    [
        "finished",
        "stopped",
        "forgotten by the server",
        "forgotten by the server before it is stopped",
        "of a session that is gone",
        "asked about when its session is gone",
        "abandoned",
    ],
)
async def test_a_session_is_logged_off_once_none_of_its_tasks_is_followed(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway], clock: Any, finish: Any, way: str
) -> None:
    """Else each worker that ends would leave a session behind, and there may be a limit on them."""
    gateway = gateway_with()
    em.behaviour.edits_held = True
    ticket = (await gateway.delete_link(JOB, LINK, at_any_time)).ticket
    assert not (await gateway.task(ticket)).finished
    match way:
        case "finished":
            em.behaviour.edits_held = False
            await finish(gateway, ticket)
        case "stopped":
            await gateway.stop_task(ticket)
        case "forgotten by the server":
            em.inject(Fault("status", method="GET", path="/tasks/", status=404))
            with pytest.raises(TaskNotFound):
                await gateway.task(ticket)
        case "forgotten by the server before it is stopped":
            em.inject(Fault("status", method="DELETE", path="/tasks/", status=404))
            with pytest.raises(TaskNotFound):
                await gateway.stop_task(ticket)
        case "of a session that is gone":
            em.expire_sessions()
            await gateway.links(JOB)
        case "asked about when its session is gone":
            em.expire_sessions()
            await gateway.links(JOB)
            with pytest.raises(TaskNotFound):
                await gateway.task(ticket)
        case "abandoned":
            for _ in range(3):
                clock.waited.append(ABANDONED_SECONDS / 3 + 1)
                await gateway.links(JOB)
    assert len(em.sessions) == 1
    await gateway.close(log_off=True)
    assert em.sessions == []


async def test_closing_without_log_off_leaves_the_session(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else tasks that still run would lose their session with the worker."""
    await gateway.links(JOB)
    await gateway.close(log_off=False)
    assert len(em.sessions) == 1
    with pytest.raises(Unavailable, match="about to end"):
        await gateway.links(JOB)


@pytest.mark.parametrize("kind", ["never_answers", "drops_connection"])
async def test_closing_never_fails(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway], kind: Any
) -> None:
    """Else the worker would not end while an Enterprise Manager is in trouble."""
    gateway = gateway_with(request_timeout_seconds=0.5)
    await gateway.links(JOB)
    em.inject(Fault(kind, method="DELETE", path="logonSessions"))
    async with asyncio.timeout(8):
        await gateway.close(log_off=True)


async def test_closing_fails_the_calls_that_still_wait_for_their_turn(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]
) -> None:
    """Else an unlink would take the end of its gateway for its own cancellation."""
    gateway = gateway_with(max_requests=1, request_timeout_seconds=1)
    await gateway.links(JOB)
    em.inject(Fault("never_answers", method="GET", times=None))
    first = asyncio.create_task(gateway.links(JOB))
    second = asyncio.create_task(gateway.links(JOB))
    await until(lambda: not first.done() and gateway._wire._limit.waiting == 1)  # noqa: SLF001 - the wait
    await gateway.close(log_off=False)
    for call in (first, second):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(call, 10)
