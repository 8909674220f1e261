from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise

import pytest

from tests.simulated_enterprise_manager.client import Client
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_LINK_ID,
    Behaviour,
    SimulatedEnterpriseManager,
)
from worker.sandbox.simulated_enterprise_manager.model import Change, LinkedRepository, Session, Task
from worker.sandbox.simulated_enterprise_manager.state import State

LINKS = [LinkedRepository(f"link-{number}", f"repository-{number}") for number in range(3)]


class World:
    """A state whose clock a test puts forward."""

    def __init__(self) -> None:
        self.now = 0.0
        self.behaviour = Behaviour(edit_seconds=30, operation_finished_looks=0)
        self.state = State(self.behaviour, lambda: self.now)
        self.job = self.state.job(self.state.add_job("Three", links=LINKS))
        self.session: Session = self.state.log_on("somebody")

    def unlink(self, number: int) -> Task:
        """Begin to remove a link."""
        return self.state.edit(self.session, self.job, Change.REMOVE, LINKS[number], None)

    def at(self, instant: float) -> World:
        """Put the clock there."""
        self.now = instant
        self.state.now()
        return self

    @property
    def linked(self) -> list[LinkedRepository]:
        """What is truly linked."""
        return list(self.job.linked.repositories)


@pytest.fixture
def world() -> World:
    """Three links, an edit takes half a minute."""
    return World()


def test_an_edit_ends_when_its_time_is_up_though_nobody_looks(world: World) -> None:
    """A link stays for as long as nobody polls, and take-over after a crash decides on that."""
    task = world.unlink(0)

    assert world.at(29.9).linked == LINKS
    assert task.state_at(world.now) == "Running"
    assert world.at(30).linked == LINKS[1:]
    assert task.state_at(world.now) == "Finished"


def test_it_says_when_a_link_truly_went(world: World) -> None:
    """Whoever checks a claim that a link is gone could not tell whether it came too early."""
    world.unlink(0)
    world.at(10).state.relink(world.job.id, world.job.linked.without("link-2"))
    world.at(100)

    assert world.state.departures() == {"link-2": 10, "link-0": 30}


def test_edits_of_one_job_follow_each_other(world: World) -> None:
    """A queue of edits that takes the time of one makes the worker look faster than it is."""
    tasks = [world.unlink(number) for number in range(3)]

    world.at(1000)

    ends = [task.finished_at for task in tasks]
    assert ends == [30, 60, 90]
    assert world.linked == []


def test_edits_that_overlap_write_back_what_they_read(world: World) -> None:
    """The lost update is not the one that two console users would see."""
    world.behaviour.edits_of_one_job = "overlapping"
    world.unlink(0)
    world.at(10).unlink(1)

    assert world.at(35).linked == LINKS[1:]
    assert world.at(45).linked == [LINKS[0], LINKS[2]]


def test_held_edits_end_when_they_are_let_go(world: World) -> None:
    """A test that holds an edit to kill a worker in the middle of it finds the edit ended in the past."""
    world.behaviour.edits_held = True
    task = world.unlink(0)
    assert world.at(500).linked == LINKS

    world.behaviour.edits_held = False

    assert world.at(501).linked == LINKS[1:]
    assert task.finished_at == 500


def test_a_list_shows_what_was_true_so_long_ago(world: World) -> None:
    """A lagging list shows a state that never was."""
    world.behaviour.list_lag_seconds = 10
    world.unlink(0)
    world.unlink(1)

    shown = {instant: len(world.at(instant).state.listed(world.job).repositories) for instant in (39, 41, 69, 71)}

    assert shown == {39: 3, 41: 2, 69: 2, 71: 1}


def test_a_session_ends_after_fifteen_idle_minutes(world: World) -> None:
    """A session that lives longer, or dies in spite of use, is not the vendor's."""
    token = world.session.token

    assert world.at(899).state.session_of(token) is world.session
    assert world.at(899 + 900).state.session_of(token) is world.session
    assert world.at(899 + 900 + 901).state.session_of(token) is None
    assert world.state.live_sessions() == []


def test_a_finished_task_is_kept_for_its_time(world: World) -> None:
    """A task is forgotten before it has ended."""
    world.behaviour.finished_task_kept_seconds = 60
    task = world.unlink(0)

    assert world.at(90).state.task_of(world.session, "task-1") is task
    assert world.at(91).state.task_of(world.session, "task-1") is None


def test_a_task_is_never_seen_to_go_back(world: World) -> None:
    """A client that trusts Finished is contradicted by the next look."""
    world.behaviour.change(operation_finished_seconds=10, operation_finished_looks=2, unknown_state="Collecting")
    order = ["Running", "OperationFinished", "Collecting", "Finished"]
    task = world.unlink(0)

    states = [task.look(world.at(instant).now) for instant in range(0, 60, 3)]

    assert all(order.index(earlier) <= order.index(later) for earlier, later in pairwise(states))
    assert set(states) == set(order)


def test_many_clients_at_once_lose_nothing(em: SimulatedEnterpriseManager) -> None:
    """Under the load of a benchmark links are removed twice, not at all, or not counted."""
    jobs = [em.add_job(name=f"Job {number}", links=[VENDOR_LINK_ID, VENDOR_JOB_ID]) for number in range(100)]
    doomed = [(job, em.links(job)[0].object_in_job_id) for job in jobs]
    em.change_behaviour(edit_seconds=0)
    em.forget_requests()

    def unlink_all(mine: list[tuple[str, str]]) -> list[str]:
        with closing(Client(em, "xml")) as client:
            return [client.end_of(client.unlink(job, link))["result"]["success"] for job, link in mine]

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(unlink_all, [doomed[start::4] for start in range(4)]))

    assert [success for mine in results for success in mine] == ["true"] * 100
    assert all(len(em.links(job)) == 1 for job in jobs)
    assert em.count("DELETE", "/linkedBackupRepositories/") == 100
    assert {em.deletes_of(link) for _, link in doomed} == {1}
    assert len(em.links(VENDOR_JOB_ID)) == 1
