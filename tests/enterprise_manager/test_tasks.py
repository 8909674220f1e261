"""Many tasks followed with few requests, and none of them misjudged for it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from tests.enterprise_manager.sending import at_any_time
from tests.waiting import until
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.tasks import FEW
from worker.sandbox.simulated_enterprise_manager import Behaviour, Fault, SimulatedEnterpriseManager
from worker.unlinks.ports.enterprise_manager import Task, TaskNotFound, TaskTicket

REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"
MANY = 60

SPELLINGS = {
    "xml": ("xml", {}),
    "json": ("json", {}),
    "json of 13.0": ("json", {"json_keys": "camel", "json_byte_order_mark": True, "json_query_lists": "flat"}),
}


@pytest.fixture
def em(spelling: tuple[str, dict[str, Any]]) -> Any:
    """A simulated Enterprise Manager whose tasks run until they are let go."""
    with SimulatedEnterpriseManager.start(behaviour=Behaviour(edits_held=True, **spelling[1])) as simulated:
        yield simulated


class Server:
    """The simulated Enterprise Manager `em`, and gateways to it."""

    def __init__(self, em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]) -> None:
        self.em = em
        self._gateway_with = gateway_with

    async def begin(self, gateway: Gateway, count: int = 20) -> list[TaskTicket]:
        """Send so many DELETEs, of a job each; their tickets."""
        tickets = []
        for number in range(count):
            job = self.em.add_job(name=f"Job {number}", links=[REPOSITORY])
            link = self.em.links(job)[0].object_in_job_id
            tickets.append((await gateway.delete_link(job, link, at_any_time)).ticket)
        self.em.forget_requests()
        return tickets

    async def following(self, count: int = 20, interval: float = 0.01) -> tuple[Gateway, list[TaskTicket]]:
        """A gateway that follows so many tasks, with a query each `interval` seconds; and their tickets."""
        gateway = self._gateway_with(poll_interval_seconds=interval)
        return gateway, await self.begin(gateway, count)


@pytest.fixture
def server(em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]) -> Server:
    """The simulated Enterprise Manager, and gateways to it."""
    return Server(em, gateway_with)


async def look(gateway: Gateway, tickets: list[TaskTicket]) -> list[Task]:
    """A look at each, all at once."""
    return list(await asyncio.gather(*(gateway.task(ticket) for ticket in tickets)))


async def until_finished(gateway: Gateway, tickets: list[TaskTicket]) -> list[Task]:
    """Looks, as the core does, until all are finished."""
    ends: dict[TaskTicket, Task] = {}
    async with asyncio.timeout(20):
        while left := [ticket for ticket in tickets if ticket not in ends]:
            ends.update((task.ticket, task) for task in await look(gateway, left) if task.finished)
            await asyncio.sleep(0.01)
    return [ends[ticket] for ticket in tickets]


async def test_a_few_are_looked_at_one_by_one(server: Server) -> None:
    """Else a worker with little to do would depend on queries that a server may not answer."""
    gateway, tickets = await server.following(FEW, interval=2)
    assert not any(task.finished for task in await look(gateway, tickets))
    assert (server.em.count("GET", "/tasks/"), server.em.count("GET", "/query")) == (FEW, 0)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
async def test_many_are_named_in_few_queries(server: Server) -> None:
    """Else a thousand unlinks would be a thousand requests every other second."""
    gateway, tickets = await server.following(MANY, interval=30)
    tasks = await look(gateway, tickets)
    assert [task.ticket for task in tasks] == tickets
    assert not any(task.finished for task in tasks)
    await look(gateway, tickets)
    assert (server.em.count("GET", "/tasks/"), server.em.count("GET", "/query")) == (0, 4)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
async def test_those_that_left_are_looked_at_a_page_at_a_time(server: Server) -> None:
    """Else their ends would be missed, or cost a request each."""
    gateway, tickets = await server.following(MANY, interval=0.05)
    server.em.behaviour.edits_held = False
    ends = await until_finished(gateway, tickets)
    assert {(task.success, task.message) for task in ends} == {(True, "Ok")}
    assert server.em.count("GET", "TaskId") > 0
    assert server.em.count("GET") < MANY


async def test_tasks_whose_ends_were_read_together_are_followed_no_more(server: Server) -> None:
    """Else a worker that had much to do would never log off."""
    gateway, tickets = await server.following(MANY, interval=0.05)
    assert not any(task.finished for task in await look(gateway, tickets))
    server.em.behaviour.edits_held = False
    await until_finished(gateway, tickets)
    await gateway.close(log_off=True)
    assert server.em.sessions == []


@pytest.mark.parametrize("page_size", [1, 7, 100])
async def test_pages_that_shift_while_they_are_read_lose_nothing(server: Server, page_size: int) -> None:
    """Else a task that moved to a page already read would pass for one that is over."""
    server.em.behaviour.page_size = page_size
    server.em.behaviour.unknown_state = "Collecting"
    server.em.behaviour.unknown_state_looks = 2
    gateway, tickets = await server.following(interval=0.02)
    server.em.inject(Fault("latency", path="page=2", seconds=0.05))
    server.em.behaviour.edits_held = False
    ends = await until_finished(gateway, tickets)
    assert all(task.success for task in ends)


async def test_one_page_that_fails_does_not_end_the_queries(server: Server) -> None:
    """Else one lost answer would be taken for a server without queries, and a thousand unlinks be read one by one."""
    server.em.behaviour.page_size = 40
    gateway, tickets = await server.following(MANY, interval=0.001)
    server.em.inject(Fault("status", path="TaskId", status=400, times=None))
    server.em.inject(Fault("status", path="page=2", status=400))
    assert not any(task.finished for task in await look(gateway, tickets))
    assert server.em.count("GET", "/tasks/") == MANY - 40
    asked = server.em.count("GET", "page=2")
    await look(gateway, tickets)
    assert server.em.count("GET", "page=2") == asked + 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", path="/query", status=400, times=None),
        Fault("status", path="/query", status=403, times=None),
        Fault("status", path="/query", status=404, times=None),
        Fault("status", path="/query", status=500, times=None),
        Fault("status", path="/query", status=501, times=None),
        Fault("truncated", path="/query", times=None),
        Fault("wrong_content", path="/query", body="<Jobs/>", content_type="application/xml", times=None),
        Fault("wrong_content", path="/query", body='{"Refs": []}', content_type="application/json", times=None),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status or fault.body[:8]}",
)
async def test_a_server_that_does_not_answer_the_query_is_asked_task_by_task(server: Server, fault: Fault) -> None:
    """Else its unlinks would never end, or it would count as down."""
    gateway, tickets = await server.following()
    server.em.inject(fault)
    assert not any(task.finished for task in await look(gateway, tickets))
    assert server.em.count("GET", "/tasks/") == 20
    asked = server.em.count("GET", "/query")
    server.em.behaviour.edits_held = False
    assert all(task.success for task in await until_finished(gateway, tickets))
    assert server.em.count("GET", "/query") == asked
    assert gateway.up


async def test_an_answer_that_leaves_everything_out_ends_nothing(server: Server) -> None:
    """Else a server that answers queries in a way of its own would have running unlinks reported as done."""
    body = '<QueryResult><Resources><Tasks/></Resources><PagingInfo PageNum="1" PagesCount="1"/></QueryResult>'
    gateway, tickets = await server.following()
    server.em.inject(Fault("wrong_content", path="/query", body=body, content_type="application/xml", times=None))
    assert not any(task.finished for task in await look(gateway, tickets))
    assert server.em.count("GET", "/tasks/") == 20


async def test_a_query_that_refuses_ids_leaves_a_look_at_each_that_left(server: Server) -> None:
    """Else a server that filters by state alone would never tell of an end."""
    gateway, tickets = await server.following()
    server.em.inject(Fault("status", path="TaskId", status=400, times=None))
    server.em.behaviour.edits_held = False
    assert all(task.success for task in await until_finished(gateway, tickets))


async def test_a_server_that_ignores_the_filter_is_not_asked_again(server: Server) -> None:
    """Else each interval would read every task of the session, more of them every day."""
    tasks = "".join(
        f'<Task><TaskId>task-{n}</TaskId><State>Finished</State><Result Success="true"/></Task>' for n in range(50)
    )
    body = f'<QueryResult><Resources><Tasks>{tasks}</Tasks></Resources><PagingInfo PagesCount="40"/></QueryResult>'
    gateway, tickets = await server.following()
    server.em.inject(Fault("wrong_content", path="/query", body=body, content_type="application/xml", times=None))
    assert not any(task.finished for task in await look(gateway, tickets))
    assert not any(task.finished for task in await look(gateway, tickets))
    assert server.em.count("GET", "/query") == 2


async def test_what_an_old_session_answered_says_nothing_of_a_new_one(server: Server) -> None:
    """Else `task-1` of a new session would be judged by another task of that name."""
    gateway, old = await server.following(interval=30)
    await look(gateway, old)
    server.em.expire_sessions()
    new = await server.begin(gateway)
    assert [ticket.task_id for ticket in old] == [ticket.task_id for ticket in new]
    outcomes = await asyncio.gather(*(gateway.task(ticket) for ticket in old), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {TaskNotFound}
    assert server.em.count() == 0
    assert not any(task.finished for task in await look(gateway, new))
    assert server.em.count("GET", "/query") == 1


async def test_a_session_that_ends_under_the_query_ends_the_following(server: Server) -> None:
    """Else unlinks would wait for tasks that nobody can see any more, instead of looking at the links."""
    gateway, tickets = await server.following()
    server.em.expire_sessions()
    outcomes = await asyncio.gather(*(gateway.task(ticket) for ticket in tickets), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {TaskNotFound}


async def test_one_that_goes_away_does_not_take_the_query_with_it(server: Server) -> None:
    """Else one cancelled unlink would fail all that wait for the same answer."""
    gateway, tickets = await server.following(interval=2)
    server.em.inject(Fault("latency", path="/query", seconds=0.3))
    first, *others = [asyncio.create_task(gateway.task(ticket)) for ticket in tickets]
    await until(lambda: server.em.count("GET", "/query") == 1)
    first.cancel()
    assert not any(task.finished for task in await asyncio.gather(*others))
    assert server.em.count("GET", "/query") == 1


async def test_a_query_that_fails_when_nobody_waits_for_it_any_more_is_not_reported(server: Server) -> None:
    """Else a log tells of an error that has no consequence, with a stack trace, if a worker drains meanwhile."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    gateway, tickets = await server.following(interval=0.01)
    server.em.expire_sessions()
    looks = [asyncio.create_task(gateway.task(ticket)) for ticket in tickets]
    await asyncio.sleep(0)
    query = next(task for task in asyncio.all_tasks() if task.get_name().startswith("read the tasks"))
    for each in looks:
        each.cancel()
    await asyncio.wait([*looks, query])
    assert "exception=Unauthorized" in repr(query)
    del query, looks, each
    gc.collect()
    assert reported == []
