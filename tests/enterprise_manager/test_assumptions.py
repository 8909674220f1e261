"""`doctor --assumptions` finds exactly what each switch of the simulated Enterprise Manager changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import SecretStr

from tests.enterprise_manager.test_trial import OF_A_RUNNING_JOB, ONE_RESULT, SHOWN
from worker.clock import SystemClock
from worker.doctor.assumptions import UnreachableError, examine
from worker.doctor.checks import Check, Result
from worker.doctor.pseudonyms import NOBODY
from worker.enterprise_manager.assumptions import Assumption
from worker.sandbox.simulated_enterprise_manager import (
    JSON_LINKS_NAMES,
    VENDOR_JOB_ID,
    Behaviour,
    Fault,
    SimulatedEnterpriseManager,
)
from worker.settings import EnterpriseManagerSettings

REPOSITORY = "00000000-0000-4000-8000-000000000001"
BACKUP = "3b1f2d4c-0c55-4a0e-8a52-1d0f9fd3f7a4"

#: Each value of a switch that a look can see, and the checks that then differ.
SEEN: list[tuple[dict[str, Any], set[str]]] = [
    ({}, set()),
    ({"links_of_other_jobs": "404"}, {"links_of_other_jobs"}),
    ({"links_of_other_jobs": "500"}, {"links_of_other_jobs"}),
    ({"links_of_other_jobs": "empty"}, {"links_of_other_jobs"}),
    ({"links_of_legacy_copy_jobs": "empty"}, {"links_of_legacy_copy_jobs"}),
    ({"links_of_legacy_copy_jobs": "400"}, {"links_of_legacy_copy_jobs"}),
    ({"links_in_job_entity": "left_out"}, {"links_in_job_entity"}),
    ({"role": "Restore Operator"}, {"account_sees_jobs"}),
    ({"query": "400"}, {"query", "query_tasks", "query_tasks_by_id"}),
    ({"query": "501"}, {"query", "query_tasks", "query_tasks_by_id"}),
    ({"query_tasks": "400"}, {"query_tasks", "query_tasks_by_id"}),
    ({"query_tasks": "501"}, {"query_tasks", "query_tasks_by_id"}),
    ({"page_size": 1}, {"page_of_100"}),
    ({"pages_of_collections": True}, set()),
    ({"names_by_case": True}, {"names_ignore_case"}),
    ({"quote_inside_value": "backslash"}, {"quotes_doubled"}),
    ({"quote_inside_value": "impossible"}, {"quotes_doubled"}),
    ({"links_host": None}, {"links_carry_its_own_host"}),
    ({"json_keys": "camel"}, {"pascal_case_keys"}),
    ({"json_byte_order_mark": True}, {"no_byte_order_mark"}),
    *(({"json_links_name": name}, {"json_links_name"}) for name in JSON_LINKS_NAMES[1:]),
    ({"json_linked_backups_name": "Items"}, {"json_linked_backups_name"}),
    ({"json_empty_list": "null"}, {"json_empty_list"}),
    ({"json_query_lists": "flat"}, {"json_query_lists"}),
    ({"absent_resource": "500"}, {"absent_resource_404"}),
    ({"compression": True}, {"uncompressed_answers"}),
    ({"requests_at_once": 2, "latency_seconds": 0.2}, {"requests_at_once"}),
    ({"requests_at_once": 2, "latency_seconds": 0.2, "overload_status": 429}, {"requests_at_once"}),
    ({"requests_at_once": 2, "latency_seconds": 0.2, "retry_after": "1"}, {"requests_at_once"}),
    ({"requests_at_once": 2, "latency_seconds": 0.2, "retry_after": "ask corp.example"}, {"requests_at_once"}),
]

#: What no client can see, or no trial may try, and why.
NOT_SEEN = {
    "edit_seconds": "how long an edit takes is no assumption: the worker waits until its task has ended",
    "edits_held": "a means of tests: it stops the clock of the edits",
    "edit_drops_linked_backups": "a trial on a job with linked backups could drop them, and nothing brings them back",
    "operation_finished_seconds": "no assumption: however long it lasts, the worker waits for Finished",
    "operation_finished_looks": "as above",
}


@pytest.fixture
def em(certificates: Path) -> Iterator[SimulatedEnterpriseManager]:
    """A simulated Enterprise Manager with a job of each kind."""
    with SimulatedEnterpriseManager.start(folder=certificates) as simulated:
        simulated.add_job(name="Backup", job_type="Backup")
        simulated.add_job(name="Legacy", job_type="BackupCopy", links=[REPOSITORY])
        simulated.add_job(name="Copy", links=[REPOSITORY], linked_backups=[BACKUP])
        yield simulated


async def found(em: SimulatedEnterpriseManager, **settings: Any) -> dict[str, Check]:
    """The checks by name; each is there once."""
    given = {
        "url": em.url,
        "username": em.username,
        "password": SecretStr(em.password),
        "ca_file": em.ca_file,
        "max_requests": 8,
    }
    server = EnterpriseManagerSettings(**given | settings)
    checks = [check async for check in examine("lab", server, SystemClock())]
    assert sorted(check.assumption for check in checks) == sorted(Assumption)
    return {check.assumption.value: check for check in checks}


def of(checks: dict[str, Check], result: Result) -> set[str]:
    """The names of those with this result."""
    return {name for name, check in checks.items() if check.result is result}


@pytest.mark.parametrize("spoken", ["xml", "json"])
@pytest.mark.parametrize(("switches", "expected"), SEEN, ids=[str(switches) for switches, _ in SEEN])
async def test_what_a_switch_changed_is_found_and_nothing_else(
    em: SimulatedEnterpriseManager, switches: dict[str, Any], expected: set[str], spoken: str
) -> None:
    """Else a user would report a difference that does not exist, or miss one that explains the worker."""
    em.change_behaviour(**switches)
    checks = await found(em, format=spoken)
    assert of(checks, Result.DIFFERENT) == expected, checks
    assert all(check.seen for check in checks.values() if check.result is Result.DIFFERENT)
    assert not any(
        name in check.seen for check in checks.values() for name in ("localhost", "Legacy", "Branch", "corp")
    )
    assert em.sessions == []


def instead(path: str, body: str, times: int | None = None) -> Fault:
    """Another document for what is read from that path."""
    return Fault("wrong_content", "GET", path, body=body, times=times, content_type="application/xml")


NONE_FOUND = "<QueryResult><Refs/></QueryResult>"
ANOTHER_TASK = "<Tasks><Task><TaskId>task-1</TaskId></Task></Tasks>"
UNTYPED = f'<Job UID="urn:veeam:Job:{NOBODY}"/>'

#: What no switch changes, because it is documented or was seen: answers that are otherwise, and the check that differs.
OTHERWISE: list[tuple[Fault, str]] = [
    (Fault("status", "POST", "/sessionMngr/", after=1, status=403), "logon_refused_401"),
    (Fault("status", "DELETE", "/logonSessions/", status=500), "log_off_ends_session"),
    (instead(f"/jobs/{NOBODY}", "Not here"), "error_document"),
    (instead(f"/jobs/{NOBODY}", ""), "error_document"),
    (instead("type=Repository", NONE_FOUND), "query_repositories"),
    (instead("BackupServerName", NONE_FOUND), "backup_server_named"),
    (instead("TaskId", ANOTHER_TASK), "query_tasks_by_id"),
    (instead("format=Entity", UNTYPED, times=1), "job_type_named"),
    (Fault("status", "GET", "page=2", times=None, status=400), "query_pages"),
]


@pytest.mark.parametrize(("fault", "differs"), OTHERWISE, ids=[differs for _, differs in OTHERWISE])
async def test_what_is_documented_is_checked_too(em: SimulatedEnterpriseManager, fault: Fault, differs: str) -> None:
    """Else a server that breaks what its vendor documents would be reported as one that confirms everything."""
    em.inject(fault)
    checks = await found(em)
    assert of(checks, Result.DIFFERENT) == {differs}, checks
    assert checks[differs].seen


async def test_a_list_of_jobs_that_is_not_complete_is_found(em: SimulatedEnterpriseManager) -> None:
    """Else an offboarding would miss jobs, and nobody would know why."""
    body = f'<EntityReferences><Ref UID="urn:veeam:Job:{VENDOR_JOB_ID}" Name="x"/></EntityReferences>'
    em.inject(Fault("wrong_content", "GET", "/api/jobs?pageSize", body=body, after=1, content_type="application/xml"))
    checks = await found(em)
    assert (checks["all_jobs_listed"].result, checks["all_jobs_listed"].seen) == (
        Result.DIFFERENT,
        "a query finds 3 more",
    )


async def test_looking_changes_nothing(em: SimulatedEnterpriseManager) -> None:
    """Else a look at a production server would edit one of its jobs."""
    checks = await found(em)
    changing = [(request.method, request.path.split("/")[2]) for request in em.requests if request.method != "GET"]
    # The second logon is one without credentials.
    assert changing == [("POST", "sessionMngr"), ("POST", "sessionMngr"), ("DELETE", "logonSessions")]
    assert [request.status for request in em.requests if request.method != "GET"] == [201, 401, 204]
    assert of(checks, Result.NEEDS_CHANGE) >= {"absent_link_404", "task_states", "several_sessions"}


async def test_what_the_account_cannot_see_is_said_to_be_unknown(certificates: Path) -> None:
    """Else an empty server would seem to confirm what it cannot show, or to differ."""
    with SimulatedEnterpriseManager.start(folder=certificates) as em:
        checks = await found(em)
        assert of(checks, Result.NOT_WITH_ACCOUNT) == {
            "links_of_legacy_copy_jobs",
            "links_of_other_jobs",
            "query_pages",
        }
        em.change_behaviour(role="Restore Operator")
        checks = await found(em)
        assert len(of(checks, Result.NOT_WITH_ACCOUNT)) == 18
        assert of(checks, Result.DIFFERENT) >= {"account_sees_jobs"}


async def test_a_refused_logon_is_reported_as_such(em: SimulatedEnterpriseManager) -> None:
    """Else a wrong password would be reported as forty differences."""
    with pytest.raises(UnreachableError, match="PASSWORD"):
        await found(em, password=SecretStr("wrong"))


def test_no_switch_is_left_out() -> None:
    """Else an unknown would be added to the simulation that nobody can find out on a real server."""
    tried = [switches for switches, _ in (*SEEN, *SHOWN)] + [switches for switches, _, _ in ONE_RESULT]
    tried += [{"running_job": value} for value, *_ in OF_A_RUNNING_JOB]
    seen = {name for switches in tried for name in switches}
    assert seen | set(NOT_SEEN) == set(Behaviour.__slots__)
    assert seen & set(NOT_SEEN) == {"edit_seconds", "operation_finished_seconds", "operation_finished_looks"}
    # A Portal User may read everything: only a trial shows that it may not edit, in a test of its own.
    left_out = {
        (name, value)
        for name, hint in get_type_hints(Behaviour).items()
        for value in (get_args(hint) if get_origin(hint) is Literal else ())
        if value not in {getattr(Behaviour(), name), *(switches.get(name) for switches in tried)}
    }
    assert left_out == {("role", "Portal User")}
