"""What is not known of Enterprise Manager, shown both ways: what the whole worker then reports, in XML and in JSON.

Each switch of the simulated Enterprise Manager is a question that the vendor's documentation leaves open. In none of
the positions may the worker claim what is not so.

More than 400 lines: one table of all switches, which a test at its end compares with the simulated Enterprise Manager.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.in_process import InProcessWorker, worker_for
from tests.waiting import until
from worker.sandbox.simulated_enterprise_manager import (
    JSON_LINKS_NAMES,
    VENDOR_JOB_ID,
    VENDOR_JOB_NAME,
    VENDOR_LINK_ID,
    VENDOR_REPOSITORY_NAME,
    VENDOR_REPOSITORY_UID,
    Behaviour,
    LinkedRepository,
    SimulatedEnterpriseManager,
)
from worker.unlinks.rules import Pace

REPOSITORIES = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(1, 4)]
BACKUP = "3b1f2d4c-0c55-4a0e-8a52-1d0f9fd3f7a4"
LEGACY = "BackupCopy"

#: Whatever waits for minutes in production waits for a second here.
HURRIED = Pace(poll_interval=0.05, verify=1.0, settling=1.0)


@pytest.fixture(params=["xml", pytest.param("json", marks=pytest.mark.slow)])
def spoken(request: pytest.FixtureRequest) -> str:
    """The format that the worker asks for; in JSON the matrix is as large again, and slow."""
    return str(request.param)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them keep one certificate: making it takes longer than most unlinks."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
def em(certificates: Path) -> Iterator[SimulatedEnterpriseManager]:
    """A simulated Enterprise Manager with the vendor's example."""
    with SimulatedEnterpriseManager.start(folder=certificates) as simulated:
        yield simulated


class Case:
    """The worker, and the Enterprise Manager that it works on."""

    def __init__(self, em: SimulatedEnterpriseManager, spoken: str) -> None:
        self.em = em
        self._spoken = spoken

    @asynccontextmanager
    async def worker(self, pace: Pace = HURRIED, **settings: Any) -> AsyncIterator[InProcessWorker]:
        """A worker."""
        given: dict[str, Any] = {"format": self._spoken, "poll_interval_seconds": pace.poll_interval} | settings
        async with worker_for(self.em, pace=pace, **given) as worker:
            yield worker

    async def end(self, **others: Any) -> dict[str, Any]:
        """How an unlink of the vendor's example ends."""
        async with self.worker() as worker:
            return await worker.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID, **others)

    @property
    def gone(self) -> bool:
        """Whether the vendor's link is truly gone."""
        return VENDOR_LINK_ID not in [link.object_in_job_id for link in self.em.links(VENDOR_JOB_ID)]


@pytest.fixture
def case(em: SimulatedEnterpriseManager, spoken: str) -> Case:
    """The worker, and the Enterprise Manager that it works on."""
    return Case(em, spoken)


def said(data: dict[str, Any]) -> tuple[Any, ...]:
    """The outcome in short: outcome, changed, evidence, verified, reason."""
    reason = data["reason"]["code"] if data["reason"] else None
    return data["outcome"], data["changed"], data["evidence"], data["verified"], reason


DONE = ("succeeded", True, "task", True, None)
SEEN_GONE = ("succeeded", True, "links", True, None)


# --- what a task looks like -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"link_goes_at": "finished", "operation_finished_seconds": 0.3},
        {"operation_finished_seconds": 0.3, "operation_finished_looks": 3},
        {"unknown_state": "Collecting", "unknown_state_looks": 3},
        {"running_result": "null"},
        {"finished_result": "without_message"},
        {"finished_result": "empty_message"},
        {"finished_result": "null_message"},
        {"success_messages": ("OK",)},
        {"success_messages": ("The job was updated, and may take a while to show it.",)},
        {"location_header": "always"},
        {"location_header": "never"},
        {"links_host": None},
        {"list_lag_seconds": 0.4},
        {"running_job": "accepted"},
        {"query": "400"},
        {"query": "501"},
        {"query_tasks": "501"},
        {"page_size": 1},
        {"page_size": 1, "pages_of_collections": True},
        {"links_in_job_entity": "left_out"},
        {"compression": True},
        {"absent_resource": "500"},
    ],
    ids=str,
)
async def test_a_link_that_goes_is_reported_as_gone(case: Case, changes: dict[str, Any]) -> None:
    """Else a peculiarity of the server would fail an unlink that was done."""
    case.em.change_behaviour(**changes)
    assert said(await case.end()) == DONE
    assert case.gone
    assert case.em.deletes_of(VENDOR_LINK_ID) == 1


@pytest.mark.parametrize(
    "changes",
    [
        *({"json_links_name": name} for name in JSON_LINKS_NAMES),
        {"json_keys": "camel", "json_byte_order_mark": True},
        {"json_empty_list": "null"},
        {"json_query_lists": "flat"},
        {"json_linked_backups_name": "Items"},
    ],
    ids=str,
)
async def test_every_spelling_of_json_is_understood(em: SimulatedEnterpriseManager, changes: dict[str, Any]) -> None:
    """Else the links of a job would be missed, and a link that is there be called absent."""
    em.change_behaviour(**changes)
    case = Case(em, "json")
    assert said(await case.end()) == DONE
    assert case.gone


@pytest.mark.parametrize(("in_entity", "lists_read"), [("listed", 1), ("left_out", 2)])
@pytest.mark.parametrize(
    "repository", [{"link_id": VENDOR_LINK_ID}, {"uid": VENDOR_REPOSITORY_UID}], ids=["link", "uid"]
)
async def test_a_job_entity_that_holds_the_links_answers_the_whole_look(
    case: Case, repository: dict[str, str], in_entity: str, lists_read: int
) -> None:
    """Else each unlink would cost a request that tells nothing new; where it does not, the list is read."""
    case.em.change_behaviour(links_in_job_entity=in_entity)
    assert said(await case.end(repository=repository)) == DONE
    assert case.em.count("GET", "/linkedBackupRepositories") == lists_read
    assert case.em.count("GET", "format=Entity") == 1


async def test_a_link_that_the_job_entity_lacks_is_looked_for_in_the_list(case: Case) -> None:
    """Else a link that is there would be called absent where the entity holds no such list."""
    case.em.change_behaviour(links_in_job_entity="left_out")
    planned = await case.end(dry_run=True)
    assert (planned["outcome"], planned["evidence"]) == ("planned", None)
    assert planned["repository"]["link_id"] == VENDOR_LINK_ID


@pytest.mark.parametrize("result", ["absent", "null"])
async def test_a_task_that_finishes_without_a_result_is_decided_by_the_links(case: Case, result: str) -> None:
    """Else an unlink would be claimed, or denied, on no ground."""
    case.em.change_behaviour(finished_result=result)
    assert said(await case.end()) == SEEN_GONE
    assert case.gone


@pytest.mark.parametrize("result", ["absent", "null"])
async def test_a_task_that_finishes_without_a_result_and_without_effect_has_failed(case: Case, result: str) -> None:
    """Else silence would pass for success."""
    case.em.change_behaviour(finished_result=result, only_link="task_fails")
    assert said(await case.end()) == ("failed", None, None, None, "enterprise_manager_error")
    assert not case.gone


@pytest.mark.parametrize("asks", ["nothing", "confirmation", "credentials"])
@pytest.mark.parametrize("seems_successful", [True, False])
async def test_a_task_that_fails_is_failed_with_the_servers_words(
    case: Case, asks: str, seems_successful: bool
) -> None:
    """Else what looks like success on the way, or asks for something, would be reported as done."""
    case.em.change_behaviour(
        only_link="task_fails", failed_result_asks=asks, failing_task_seems_successful=seems_successful
    )
    data = await case.end()
    assert said(data) == ("failed", False, None, None, "task_failed")
    assert data["reason"]["message"].startswith("Unable to remove the last source")
    assert not case.gone


@pytest.mark.parametrize("kept", [0, 0.2, None])
async def test_a_task_that_was_forgotten_is_decided_by_the_links(case: Case, kept: float | None) -> None:
    """Else a 404 would be taken for an end, of one kind or the other."""
    case.em.change_behaviour(finished_task_kept_seconds=kept, operation_finished_looks=0)
    data = await case.end()
    assert (data["outcome"], data["changed"], data["verified"]) == ("succeeded", True, True)
    assert case.gone
    assert case.em.deletes_of(VENDOR_LINK_ID) == 1


@pytest.mark.parametrize(("body", "expected"), [("task", DONE), ("empty", SEEN_GONE)])
async def test_a_delete_accepted_with_or_without_a_task(case: Case, body: str, expected: tuple[Any, ...]) -> None:
    """Else an unlink that nobody can follow would be sent again, or given up."""
    case.em.change_behaviour(accepted_body=body)
    assert said(await case.end()) == expected
    assert case.em.deletes_of(VENDOR_LINK_ID) == 1


async def test_a_list_that_lags_for_long_is_reported_as_not_verified(case: Case) -> None:
    """Else the server's word would be told as if it had been seen."""
    case.em.change_behaviour(list_lag_seconds=3600)
    assert said(await case.end()) == ("succeeded", True, "task", False, None)


# --- what becomes of a DELETE -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "catches_up", "expected"),
    [
        # The list shows a link that is gone already, and stops to once the DELETE was answered, or never does.
        ("404", True, SEEN_GONE),
        ("404", False, ("failed", None, None, None, "enterprise_manager_error")),
        ("task_fails", False, ("failed", False, None, None, "task_failed")),
        ("task_succeeds", True, DONE),
        ("task_succeeds", False, ("succeeded", True, "task", False, None)),
    ],
)
async def test_a_delete_of_a_link_that_has_just_gone(
    case: Case, answer: str, catches_up: bool, expected: tuple[Any, ...]
) -> None:
    """Else somebody else's unlink would be told as an outage, or as a failure of which the link knows nothing."""
    case.em.change_behaviour(absent_link=answer, list_lag_seconds=3600)
    case.em.remove_link(VENDOR_JOB_ID, VENDOR_LINK_ID)
    ending = asyncio.create_task(case.end())
    if catches_up:
        await until(lambda: case.em.deletes_of(VENDOR_LINK_ID) == 1)
        case.em.change_behaviour(list_lag_seconds=0)
    assert said(await ending) == expected


@pytest.mark.parametrize("if_absent", ["succeed", "fail"])
async def test_a_link_that_was_absent_before(case: Case, if_absent: str) -> None:
    """Else a link that is not there would be sent a DELETE, or be counted as removed."""
    case.em.remove_link(VENDOR_JOB_ID, VENDOR_LINK_ID)
    absent = ("succeeded", False, "absent", True, None)
    refused = ("failed", False, None, None, "link_absent")
    assert said(await case.end(if_absent=if_absent)) == (absent if if_absent == "succeed" else refused)
    assert case.em.count("DELETE") == case.em.count("DELETE", "/logonSessions/")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("deleted", DONE),
        ("400", ("failed", False, None, None, "enterprise_manager_error")),
        ("task_fails", ("failed", False, None, None, "task_failed")),
    ],
)
async def test_a_jobs_only_link(case: Case, answer: str, expected: tuple[Any, ...]) -> None:
    """Else a server that keeps the last link would be reported to have removed it, or not say why it did not."""
    case.em.change_behaviour(only_link=answer)
    data = await case.end()
    assert said(data) == expected
    assert case.gone is (answer == "deleted")
    if answer != "deleted":
        assert "Unable to remove the last source" in data["reason"]["message"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("accepted", DONE),
        ("400", ("failed", False, None, None, "enterprise_manager_error")),
        ("task_fails", ("failed", False, None, None, "task_failed")),
    ],
)
async def test_a_job_that_is_running(case: Case, answer: str, expected: tuple[Any, ...]) -> None:
    """Else a busy job would be taken for an outage, or its refusal for an end."""
    case.em.change_behaviour(running_job=answer)
    case.em.set_running(VENDOR_JOB_ID)
    data = await case.end()
    assert said(data) == expected
    assert case.gone is (answer == "accepted")
    if answer != "accepted":
        assert "is running" in data["reason"]["message"]


async def test_a_job_that_runs_and_makes_the_edit_wait(case: Case) -> None:
    """Else an unlink would give up on a task that waits for its job."""
    case.em.change_behaviour(running_job="waits")
    case.em.set_running(VENDOR_JOB_ID)
    async with case.worker() as worker:
        ending = asyncio.create_task(worker.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID))
        await worker.until_submitted()
        case.em.set_running(VENDOR_JOB_ID, running=False)
        assert said(await ending) == DONE
    assert case.gone


@pytest.mark.parametrize("edits", ["serialised", "overlapping", "second_fails"])
async def test_two_unlinks_of_one_job_do_not_undo_each_other(case: Case, edits: str) -> None:
    """Else of two edits at once the last would write the other's link back."""
    case.em.change_behaviour(edits_of_one_job=edits, edit_seconds=0.1)
    job = case.em.add_job(name="Three", links=REPOSITORIES)
    first, second, third = (link.object_in_job_id for link in case.em.links(job))
    async with case.worker() as worker:
        ends = await asyncio.gather(
            worker.unlink(job, first, idempotency_key="A"), worker.unlink(job, second, idempotency_key="B")
        )
    assert [said(data) for data in ends] == [DONE, DONE]
    assert [link.object_in_job_id for link in case.em.links(job)] == [third]


@pytest.mark.parametrize("drops", [True, False])
async def test_linked_backups_are_guarded_whether_or_not_an_edit_drops_them(case: Case, drops: bool) -> None:
    """Else backups would be dropped that nobody consented to lose."""
    case.em.change_behaviour(edit_drops_linked_backups=drops)
    job = case.em.add_job(name="Guarded", links=REPOSITORIES[:1], linked_backups=[BACKUP])
    link = case.em.links(job)[0].object_in_job_id
    async with case.worker() as worker:
        refused = await worker.unlink(job, link, idempotency_key="no")
        assert said(refused) == ("failed", False, None, None, "linked_backups_at_risk")
        assert BACKUP in refused["reason"]["message"]
        consented = {"idempotency_key": "yes", "allow_linked_backups_removal": True}
        done = await worker.unlink(job, link, **consented)
    assert said(done) == DONE
    assert [backup["uid"] for backup in done["linked_backups_removed"]] == [BACKUP]


# --- jobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["VMware", "Hyperv", "vCloud"])
@pytest.mark.parametrize("job_type", ["ImmediateBackupCopy", LEGACY])
async def test_both_kinds_of_copy_job_on_every_platform(case: Case, job_type: str, platform: str) -> None:
    """Else jobs made in another version, or on another platform, would not be served."""
    job = case.em.add_job(name="Copy", links=REPOSITORIES[:2], job_type=job_type, platform=platform)
    async with case.worker() as worker:
        for link in case.em.links(job):
            data = await worker.unlink(job, link.object_in_job_id, idempotency_key=link.object_in_job_id)
            assert said(data) == DONE
    assert case.em.links(job) == []


@pytest.mark.parametrize("shown", ["empty", "400"])
@pytest.mark.parametrize("if_absent", ["succeed", "fail"])
@pytest.mark.parametrize("by", ["link_id", "uid"])
async def test_a_legacy_job_whose_links_are_not_listed_is_not_called_empty(
    case: Case, shown: str, if_absent: str, by: str
) -> None:
    """Else `absent` would be told of a link that is there, only not listed for a job of 11a or earlier."""
    case.em.change_behaviour(links_of_legacy_copy_jobs=shown)
    job = case.em.add_job(name="Legacy", links=REPOSITORIES[:1], job_type=LEGACY)
    (link,) = case.em.links(job)
    named = link.object_in_job_id if by == "link_id" else link.repository_uid
    async with case.worker() as worker:
        data = await worker.unlink(job, "", repository={by: named}, if_absent=if_absent)
        plan = await worker.unlink(job, "", repository={by: named}, dry_run=True, idempotency_key="plan")
    assert said(data) == ("failed", False, None, None, "enterprise_manager_error")
    assert plan["outcome"] == "planned"
    assert plan["reason"]["code"] == "enterprise_manager_error"
    if shown == "empty":
        assert "made in version 11a or earlier" in data["reason"]["message"]
    assert len(case.em.links(job)) == 1


@pytest.mark.parametrize("shown", ["400", "404", "500", "empty"])
@pytest.mark.parametrize("job_type", ["Backup", "Replica"])
async def test_a_job_of_another_type_is_refused_by_its_type(case: Case, shown: str, job_type: str) -> None:
    """Else what the server says of its links, which is not known, would decide."""
    case.em.change_behaviour(links_of_other_jobs=shown)
    job = case.em.add_job(name="Nightly", job_type=job_type)
    async with case.worker() as worker:
        data = await worker.unlink(job, VENDOR_LINK_ID)
    assert said(data) == ("failed", False, None, None, "not_a_copy_job")
    assert job_type in data["reason"]["message"]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["supported", "400", "501"])
@pytest.mark.parametrize("by_case", [True, False])
@pytest.mark.parametrize("lists", ["nested", "flat"])
async def test_names_are_found_with_and_without_queries(case: Case, query: str, by_case: bool, lists: str) -> None:
    """Else a server without queries could be used by ID alone, or one that ignores case would find the wrong job."""
    case.em.change_behaviour(query=query, names_by_case=by_case, json_query_lists=lists, page_size=2)
    case.em.add_job(name=VENDOR_JOB_NAME.upper(), links=REPOSITORIES)
    names = {"job": {"name": VENDOR_JOB_NAME}, "repository": {"name": VENDOR_REPOSITORY_NAME}}
    async with case.worker() as worker:
        assert said(await worker.unlink("", "", **names)) == DONE
    assert case.gone


@pytest.mark.parametrize("inside", ["impossible", "backslash", "doubled"])
async def test_a_name_means_itself_however_the_server_reads_filters(case: Case, inside: str) -> None:
    """Else a name could widen the query, and another job be edited."""
    case.em.change_behaviour(quote_inside_value=inside)
    async with case.worker() as worker:
        for name in ('The "big" one', "a;b,c", "Name==x", "50% & more", "O'Neil \\ Söhne", "(x)"):
            job = case.em.add_job(name=name, links=[LinkedRepository(VENDOR_LINK_ID, VENDOR_REPOSITORY_UID)])
            data = await worker.unlink("", VENDOR_LINK_ID, job={"name": name}, idempotency_key=job)
            assert said(data) == DONE
            assert data["job"] == {"id": job, "name": name}
    assert not case.gone  # that of the other job, under the same link ID


# --- sessions and roles -----------------------------------------------------------------------------------------------


async def test_a_session_that_ends_under_an_unlink_leaves_it_to_the_links(case: Case) -> None:
    """Else `task-1` of the next session would decide, or the unlink wait for ever."""
    case.em.change_behaviour(edits_held=True)
    async with case.worker() as worker:
        ending = asyncio.create_task(worker.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID))
        await worker.until_submitted()
        case.em.expire_sessions()
        case.em.change_behaviour(edits_held=False)
        assert said(await ending) == SEEN_GONE
    assert case.em.deletes_of(VENDOR_LINK_ID) == 1


@pytest.mark.parametrize("answer", ["403", "503", "oldest_ends"])
async def test_a_cap_on_sessions_fails_nothing(case: Case, answer: str) -> None:
    """Else a second worker would fail commands for want of a session, or take the first one's for good."""
    case.em.change_behaviour(session_cap=1, beyond_session_cap=answer)
    async with case.worker() as first:
        assert await first.gateway.links(VENDOR_JOB_ID)
        async with case.worker() as second:
            ending = asyncio.create_task(second.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID))
            if answer != "oldest_ends":
                await until(lambda: not second.gateway.up)
                assert second.received.events == []
                return  # it waits, and has said why
            assert said(await ending)[:2] == ("succeeded", True)
    assert case.gone


@pytest.mark.parametrize("role", ["Portal User", "Restore Operator"])
async def test_a_role_that_may_not_edit_is_said(case: Case, role: str) -> None:
    """Else the missing right would look like an outage."""
    case.em.change_behaviour(role=role)
    data = await case.end()
    assert said(data) == ("failed", False, None, None, "access_denied")
    assert "Portal Administrator" in data["reason"]["message"]
    assert not case.gone


# --- overload ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after", [None, "1", "Fri, 31 Dec 1999 23:59:59 GMT"])
async def test_an_overloaded_server_loses_no_unlink(case: Case, status: int, retry_after: str | None) -> None:
    """Else a limit on requests, which is not documented, would fail commands or have them sent twice."""
    case.em.change_behaviour(requests_at_once=2, overload_status=status, retry_after=retry_after, latency_seconds=0.01)
    jobs = [case.em.add_job(name=f"Job {number}", links=REPOSITORIES[:1]) for number in range(6)]
    links = [case.em.links(job)[0].object_in_job_id for job in jobs]
    async with case.worker(max_requests=4) as worker:
        ends = await asyncio.gather(
            *(worker.unlink(job, link, idempotency_key=link) for job, link in zip(jobs, links, strict=True))
        )
    assert {(data["outcome"], data["changed"]) for data in ends} == {("succeeded", True)}
    assert all(case.em.links(job) == [] for job in jobs)


# --- cancel -----------------------------------------------------------------------------------------------------------


def cancel(key: str = "CHG1") -> dict[str, Any]:
    """A command to cancel."""
    return {"command": "cancel.v1", "idempotency_key": key}


@pytest.mark.parametrize(("deletion", "changed"), [("stops_and_forgets", None), ("stops_and_fails", False)])
async def test_a_task_that_is_stopped_is_cancelled(case: Case, deletion: str, changed: bool | None) -> None:
    """Else who cancels would not hear that the link stays; or would hear it of a task that nobody saw stop."""
    case.em.change_behaviour(task_delete=deletion, edits_held=True)
    async with case.worker() as worker:
        worker.send({"job": {"id": VENDOR_JOB_ID}, "repository": {"link_id": VENDOR_LINK_ID}})
        await worker.until_submitted()
        worker.send(cancel())
        await until(lambda: case.em.count("DELETE", "/tasks/") == 1)
        data = await worker.end_of()
    assert said(data)[:2] == ("cancelled", changed)
    case.em.change_behaviour(edits_held=False)
    assert not case.gone


async def test_a_task_that_goes_on_after_its_delete_is_reported_by_what_the_links_show(case: Case) -> None:
    """Else a server that only forgets the task would have a link reported as kept that goes a moment later."""
    case.em.change_behaviour(task_delete="only_forgets", edits_held=True)
    async with case.worker() as worker:
        worker.send({"job": {"id": VENDOR_JOB_ID}, "repository": {"link_id": VENDOR_LINK_ID}})
        await worker.until_submitted()
        worker.send(cancel())
        await until(lambda: case.em.count("DELETE", "/tasks/") == 1)
        case.em.change_behaviour(edits_held=False)
        data = await worker.end_of()
    assert said(data) == SEEN_GONE
    assert case.gone


@pytest.mark.parametrize("deletion", ["stops_and_forgets", "stops_and_fails", "only_forgets"])
async def test_a_cancel_that_comes_too_late_changes_nothing(case: Case, deletion: str) -> None:
    """Else a link that is gone would be reported as kept."""
    case.em.change_behaviour(task_delete=deletion, link_goes_at="operation_finished", operation_finished_seconds=1)
    async with case.worker() as worker:
        worker.send({"job": {"id": VENDOR_JOB_ID}, "repository": {"link_id": VENDOR_LINK_ID}})
        await until(lambda: case.gone)
        worker.send(cancel())
        data = await worker.end_of()
    assert (data["outcome"], data["changed"]) == ("succeeded", True)


@pytest.mark.parametrize("deletion", ["stops_and_forgets", "stops_and_fails", "only_forgets"])
async def test_a_cancel_that_comes_first_sends_nothing(case: Case, deletion: str) -> None:
    """Else a cancel that overtakes its unlink would be lost."""
    case.em.change_behaviour(task_delete=deletion)
    async with case.worker() as worker:
        cancelled = worker.send(cancel())
        await until(lambda: cancelled.acknowledged)
        data = await worker.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
    assert said(data)[:2] == ("cancelled", False)
    assert case.em.deletes_of(VENDOR_LINK_ID) == 0


@pytest.fixture
def one_of_each(certificates: Path) -> Iterator[list[Case]]:
    """What a DELETE of a task may do, in each format; the tasks run for ever."""
    with ExitStack() as stack:
        cases = []
        for deletion in ("stops_and_forgets", "stops_and_fails", "only_forgets"):
            for spoken in ("xml", "json"):
                behaviour = Behaviour(task_delete=deletion, edits_held=True)
                started = SimulatedEnterpriseManager.start(behaviour=behaviour, folder=certificates)
                cases.append(Case(stack.enter_context(started), spoken))
        yield cases


async def test_what_takes_too_long_is_stopped_and_reported_as_far_as_it_is_known(one_of_each: list[Case]) -> None:
    """Else a task without end would hold its job for ever, or be told as an end."""
    ends = await asyncio.gather(*(case.end(timeout_seconds=10) for case in one_of_each))
    assert {(data["outcome"], data["changed"]) for data in ends} == {("timed_out", None)}
    assert {case.em.count("DELETE", "/tasks/") for case in one_of_each} == {1}


# --- and none is left out ---------------------------------------------------------------------------------------------


def test_every_switch_is_thrown_here() -> None:
    """Else an unknown would be added to the simulation, and to nothing that is promised."""
    source = __import__("inspect").getsource(__import__("sys").modules[__name__])
    of_time = {"edit_seconds", "latency_seconds", "session_idle_seconds"}
    missing = [name for name in Behaviour.__slots__ if name not in source and name not in of_time]
    assert missing == []
