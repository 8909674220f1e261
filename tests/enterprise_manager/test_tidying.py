"""Finished tasks are deleted from a long session if that is asked for, and only those."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.enterprise_manager.sending import at_any_time
from tests.waiting import until
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.documents.records import TaskPage, read_tasks
from worker.enterprise_manager.documents.tree import Node
from worker.enterprise_manager.tidying import Tidying
from worker.sandbox.simulated_enterprise_manager import Behaviour, Fault, SimulatedEnterpriseManager
from worker.unlinks.ports.enterprise_manager import TaskTicket

if TYPE_CHECKING:
    from worker.enterprise_manager.calls import Calls
    from worker.enterprise_manager.logon import LogonSession

KEEP = 100


@pytest.fixture
def em() -> Any:
    """A simulated Enterprise Manager whose tasks end at once."""
    with SimulatedEnterpriseManager.start(behaviour=Behaviour(edit_seconds=0, operation_finished_looks=0)) as simulated:
        yield simulated


@pytest.fixture
def unlink(em: SimulatedEnterpriseManager, finish: Any) -> Callable[..., Any]:
    """Unlinks so many repositories of a job, and follows each task to its end."""

    async def unlinked(gateway: Gateway, count: int) -> list[TaskTicket]:
        job = em.add_job(name="Job", links=["88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"] * count)
        tickets = []
        for link in em.links(job):
            ticket = (await gateway.delete_link(job, link.object_in_job_id, at_any_time)).ticket
            assert (await finish(gateway, ticket)).success
            tickets.append(ticket)
        return tickets

    return unlinked


def deleted(em: SimulatedEnterpriseManager) -> list[str]:
    """The tasks that were deleted, in the order of their requests."""
    return [request.path.rpartition("/")[2] for request in em.requests if _is_delete_of_task(request)]


def _is_delete_of_task(request: Any) -> bool:
    return request.method == "DELETE" and "/tasks/" in request.path and request.status == 204


async def test_the_oldest_finished_tasks_are_deleted_and_nothing_else(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway], unlink: Callable[..., Any]
) -> None:
    """Else a session of weeks would collect tasks without end, or lose one that is still needed."""
    gateway = gateway_with(keep_finished_tasks=KEEP)
    tickets = await unlink(gateway, KEEP + 3)
    await until(lambda: len(deleted(em)) == 3)
    assert deleted(em) == ["task-1", "task-2", "task-3"]
    assert (await gateway.task(tickets[3])).finished

    em.inject(Fault("status", "DELETE", "/tasks/", status=500))
    await unlink(gateway, 1)
    await until(lambda: em.faults == [])
    assert gateway.up
    await unlink(gateway, 1)
    await until(lambda: len(deleted(em)) == 5)

    em.expire_sessions()
    em.forget_requests()
    await unlink(gateway, 2)
    await gateway.close(log_off=False)
    assert deleted(em) == [], "task-6 of the new session is another task"


async def test_a_task_that_finishes_in_the_moment_in_which_deleting_ends_is_not_left() -> None:
    """Else a worker that has nothing more to do would keep a task more than it was told to."""
    session = cast("LogonSession", object())
    gone: list[str] = []

    async def delete_once(_session: object, path: str) -> bool:
        if not gone:
            asyncio.get_running_loop().call_soon(tidying.finished, session, "task-3")  # after this turn of the task
        gone.append(path)
        return True

    calls = SimpleNamespace(low_priority=SimpleNamespace(delete_once=delete_once))
    tidying = Tidying("lab", cast("Calls", calls), keep=1)
    tidying.finished(session, "task-1")
    tidying.finished(session, "task-2")
    await until(lambda: gone == ["task-1", "task-2"])
    await tidying.close()


async def test_by_default_no_task_is_deleted(
    em: SimulatedEnterpriseManager, gateway: Gateway, unlink: Callable[..., Any]
) -> None:
    """Else the default would rely on what the vendor documents in two ways."""
    await unlink(gateway, KEEP + 2)
    await gateway.close(log_off=False)
    assert deleted(em) == []


async def test_finished_tasks_make_no_query_dearer(
    em: SimulatedEnterpriseManager, gateway: Gateway, unlink: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker would read ten thousand finished tasks in each round, after some days."""
    listed: list[int] = []

    def count(document: Node, clean: Callable[[str], str]) -> TaskPage:
        page = read_tasks(document, clean)
        listed.append(len(page.tasks))
        return page

    monkeypatch.setattr("worker.enterprise_manager.tasks.read_tasks", count)
    await unlink(gateway, 3)
    requests, tasks = len(em.requests), sum(listed)
    with em._state.lock:  # noqa: SLF001 - as many requests would take a quarter of a minute
        (session,) = em._state.live_sessions()  # noqa: SLF001
        for _ in range(10_000):
            em._state.done(session, "Sync job")  # noqa: SLF001
    em.forget_requests()
    listed.clear()
    await unlink(gateway, 3)
    assert len(em.requests) < requests  # without the logon
    assert sum(listed) <= tasks
