"""Every switch of `Behaviour`, in its positions, seen from outside in both formats.

More than 400 lines: all switches.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.simulated_enterprise_manager.client import Client
from tests.waiting import wait_until
from worker.sandbox.simulated_enterprise_manager import (
    JSON_LINKS_NAMES,
    VENDOR_JOB_ID,
    VENDOR_LINK_ID,
    VENDOR_REPOSITORY_UID,
    Behaviour,
    Fault,
    SimulatedEnterpriseManager,
    UnknownBehaviourError,
)

NOWHERE = "00000000-0000-4000-8000-000000000000"
REPOSITORIES = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(1, 4)]


# --- edits ---


@pytest.mark.parametrize(
    ("switches", "link", "answer", "links_left"),
    [
        # A DELETE of a link that is not there: a server may give any of these answers to a repeated DELETE.
        ({"absent_link": "404"}, NOWHERE, 404, 1),
        ({"absent_link": "task_fails"}, NOWHERE, "false", 1),
        ({"absent_link": "task_succeeds"}, NOWHERE, "true", 1),
        # A server that keeps the last link makes the worker claim that it is gone.
        ({"only_link": "deleted"}, VENDOR_LINK_ID, "true", 0),
        ({"only_link": "400"}, VENDOR_LINK_ID, 400, 1),
        ({"only_link": "task_fails"}, VENDOR_LINK_ID, "false", 1),
        # A busy job is only ever met in production.
        ({"running_job": "accepted"}, VENDOR_LINK_ID, "true", 0),
        ({"running_job": "400"}, VENDOR_LINK_ID, 400, 1),
        ({"running_job": "task_fails"}, VENDOR_LINK_ID, "false", 1),
    ],
    ids=str,
)
def test_a_delete_is_refused_or_its_task_ends(
    client: Client, switches: dict[str, Any], link: str, answer: object, links_left: int
) -> None:
    """One of the answers that a server may give is never met in a test."""
    client.em.change_behaviour(**switches)
    client.em.set_running(VENDOR_JOB_ID, running="running_job" in switches)

    accepted = client.unlink(VENDOR_JOB_ID, link)

    if accepted.status == 202:
        assert client.end_of(accepted)["result"]["success"] == answer
    else:
        assert accepted.status == answer
    assert len(client.em.links(VENDOR_JOB_ID)) == len(client.links(VENDOR_JOB_ID)) == links_left


def test_a_job_that_is_running_may_make_an_edit_wait(client: Client) -> None:
    """A busy job is only ever met in production."""
    client.em.change_behaviour(running_job="waits")
    client.em.set_running(VENDOR_JOB_ID)

    answer = client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)

    assert client.task("task-1")["state"] == "Running"
    assert client.links(VENDOR_JOB_ID) == [VENDOR_LINK_ID]
    client.em.set_running(VENDOR_JOB_ID, running=False)
    assert client.end_of(answer)["result"]["success"] == "true"


def test_a_link_that_goes_before_its_edit_begins_fails_the_task(client: Client) -> None:
    """Two DELETEs of one link both succeed, and nobody learns that the second did nothing."""
    client.em.behaviour.edits_held = True
    first, second = client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID), client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
    client.em.behaviour.edits_held = False

    assert client.end_of(first)["result"]["success"] == "true"
    assert client.end_of(second)["result"]["success"] == "false"


@pytest.mark.parametrize(
    ("edits_of_one_job", "ends", "left"),
    [
        ("overlapping", ["true", "true"], [0, 2]),
        ("serialised", ["true", "true"], [2]),
        ("second_fails", ["true", "false"], [1, 2]),
    ],
)
def test_two_edits_of_one_job_at_once(client: Client, edits_of_one_job: str, ends: list[str], left: list[int]) -> None:
    """Nothing shows that two unlinks of one job at once can undo each other, which the worker must prevent."""
    client.em.change_behaviour(edits_of_one_job=edits_of_one_job, edits_held=True)
    job = client.em.add_job(name="Three", links=REPOSITORIES)
    links = [link.object_in_job_id for link in client.em.links(job)]
    accepted = [client.unlink(job, links[0]), client.unlink(job, links[1])]
    client.em.behaviour.edits_held = False

    assert [client.end_of(answer)["result"]["success"] for answer in accepted] == ends
    assert client.links(job) == [links[number] for number in left]


def test_the_list_and_the_entity_lag_behind_the_truth(client: Client) -> None:
    """A worker that trusts the first look after a finished task reports a link that is gone as there."""
    client.em.behaviour.list_lag_seconds = 1000
    client.end_of(client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID))

    lagging = client.links(VENDOR_JOB_ID)
    entity = client.get(f"jobs/{VENDOR_JOB_ID}?format=Entity").content
    client.em.behaviour.list_lag_seconds = 0

    assert client.em.links(VENDOR_JOB_ID) == []
    assert lagging == [VENDOR_LINK_ID]
    assert len(entity["jobinfo"]["immediatebackupcopyjobinfo"]["linkedbackuprepositoryincludes"]) == 1
    assert client.links(VENDOR_JOB_ID) == []


def test_the_list_catches_up(client: Client) -> None:
    """A lag that never ends tests only half of the look again."""
    client.em.behaviour.list_lag_seconds = 0.05
    client.end_of(client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID))

    wait_until(lambda: client.links(VENDOR_JOB_ID) == [])


@pytest.mark.parametrize("link_goes_at", ["operation_finished", "finished"])
def test_the_link_goes_with_the_operation_or_with_the_task(client: Client, link_goes_at: str) -> None:
    """A client that looks at the links while the task is OperationFinished sees only one of the two."""
    client.em.change_behaviour(link_goes_at=link_goes_at, operation_finished_seconds=1000, edit_seconds=0)
    client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)

    assert client.task("task-1")["state"] == "OperationFinished"
    assert len(client.links(VENDOR_JOB_ID)) == (0 if link_goes_at == "operation_finished" else 1)


def test_linked_backups_that_an_edit_spares(client: Client) -> None:
    """A server that keeps them after all is not simulated."""
    client.em.behaviour.edit_drops_linked_backups = False
    job = client.em.add_job(name="Kept", links=REPOSITORIES, linked_backups=[NOWHERE])

    client.end_of(client.unlink(job, client.em.links(job)[0].object_in_job_id))

    assert len(client.em.linked_backups(job)) == 1


@pytest.mark.parametrize("shown", ["400", "404", "500", "empty"])
def test_the_links_of_a_job_that_is_no_copy_job(client: Client, shown: str) -> None:
    """A job of another type is answered in a way that the client has never seen."""
    client.em.change_behaviour(links_of_other_jobs=shown)
    job = client.em.add_job(name="Nightly", job_type="Backup")

    answer = client.get(f"jobs/{job}/linkedBackupRepositories")

    assert (answer.status, answer.content) == (200, []) if shown == "empty" else answer.status == int(shown)
    assert client.unlink(job, VENDOR_LINK_ID).status == 400


@pytest.mark.parametrize("shown", ["listed", "empty", "400"])
def test_the_links_of_a_legacy_copy_job(client: Client, shown: str) -> None:
    """A copy job of 11a is answered in a way that the client has never seen."""
    client.em.change_behaviour(links_of_legacy_copy_jobs=shown)
    job = client.em.add_job(name="Of 11a", job_type="BackupCopy", links=REPOSITORIES)

    answer = client.get(f"jobs/{job}/linkedBackupRepositories")

    assert answer.status == (400 if shown == "400" else 200)
    if answer.status == 200:
        assert len(answer.content) == (3 if shown == "listed" else 0)


# --- tasks ---


@pytest.mark.parametrize(
    ("switches", "states"),
    [
        ({"operation_finished_looks": 3}, ["OperationFinished"] * 3),
        # A state that no document names.
        (
            {"unknown_state": "Collecting", "unknown_state_looks": 2, "operation_finished_looks": 0},
            ["Collecting", "Collecting"],
        ),
    ],
)
def test_states_before_the_end_are_shown_as_often_as_configured(
    client: Client, switches: dict[str, Any], states: list[str]
) -> None:
    """A client that looks once more and then believes, or takes an unknown state for the end, is not found out."""
    client.em.change_behaviour(**switches, edit_seconds=0)
    client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)

    assert [sight["state"] for sight in client.states_of("task-1")] == [*states, "Finished"]


@pytest.mark.parametrize("seems_successful", [True, False])
def test_a_task_that_fails_may_seem_successful_before(client: Client, seems_successful: bool) -> None:
    """A failure that shows success on its way is reported as a success."""
    client.em.change_behaviour(failing_task_seems_successful=seems_successful, edit_seconds=0)
    client.em.inject(Fault("task_fails", message="The repository is in maintenance mode."))
    client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)

    *before, end = client.states_of("task-1")

    assert [sight["result"]["success"] for sight in before] == (["true"] if seems_successful else [])
    assert end["result"] == {"success": "false", "message": "The repository is in maintenance mode."}
    assert client.links(VENDOR_JOB_ID) == [VENDOR_LINK_ID]


@pytest.mark.parametrize("running_result", ["absent", "null"])
def test_the_result_of_a_running_task(client: Client, running_result: str) -> None:
    """A null where nothing was expected breaks the client."""
    client.em.change_behaviour(running_result=running_result)

    body = client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID).body

    assert (b"Result" in body) == (running_result == "null")
    assert b'"Result":null' in body or b"xsi:nil" in body or running_result == "absent"


@pytest.mark.parametrize(
    ("finished_result", "result"),
    [
        ("full", {"success": "true", "message": "Ok"}),
        ("without_message", {"success": "true"}),
        ("empty_message", {"success": "true", "message": ""}),
        ("null_message", {"success": "true"}),
        ("absent", None),
        ("null", None),
    ],
)
def test_the_result_of_a_finished_task(client: Client, finished_result: str, result: Any) -> None:
    """A result without a message, or none at all, breaks the client or is taken for success."""
    client.em.change_behaviour(finished_result=finished_result)

    assert client.end_of(client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)).get("result") == result


@pytest.mark.parametrize("asked_for", ["confirmation", "credentials"])
def test_a_failed_task_that_asks_for_more(client: Client, asked_for: str) -> None:
    """A child of the result that nobody expected breaks the client."""
    client.em.change_behaviour(failed_result_asks=asked_for)
    client.em.inject(Fault("task_fails"))

    result = client.end_of(client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID))["result"]

    assert result[f"{asked_for}needed"] == "true"
    assert result["success"] == "false"


def test_messages_of_success_vary(client: Client) -> None:
    """A client that compares the message with Ok is not found out."""
    client.em.change_behaviour(success_messages=("Ok", "OK", 'Job "Copy" has been updated.'))
    job = client.em.add_job(name="Three", links=REPOSITORIES)

    ends = [client.end_of(client.unlink(job, link.object_in_job_id)) for link in client.em.links(job)]

    assert [end["result"]["message"] for end in ends] == ["Ok", "OK", 'Job "Copy" has been updated.']


def test_a_finished_task_is_forgotten_after_a_while(client: Client) -> None:
    """A task that is gone before the worker looked again is met in production first."""
    client.end_of(client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID))

    client.em.behaviour.finished_task_kept_seconds = 0

    assert client.get("tasks").content == []
    assert client.get("tasks/task-1").status == 404


@pytest.mark.parametrize("task_delete", ["stops_and_forgets", "stops_and_fails", "only_forgets"])
def test_deleting_a_task_may_stop_it_or_not(client: Client, task_delete: str) -> None:
    """A cancelled unlink that goes through after all is reported as cancelled."""
    client.em.change_behaviour(task_delete=task_delete, edits_held=True)
    client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)

    answer = client.request("DELETE", "tasks/task-1")
    shown = client.get("tasks/task-1")
    client.em.behaviour.edits_held = False

    assert (answer.status, answer.body) == (204, b"")
    if task_delete == "stops_and_fails":
        assert (shown.content["state"], shown.content["result"]["success"]) == ("Finished", "false")
    else:
        assert shown.status == 404
    if task_delete == "only_forgets":
        wait_until(lambda: client.em.links(VENDOR_JOB_ID) == [])
    else:
        # An edit of the same job that comes later ends later: by then the stopped one would have ended too.
        client.end_of(client.link(VENDOR_JOB_ID, VENDOR_REPOSITORY_UID))
        assert client.links(VENDOR_JOB_ID)[0] == VENDOR_LINK_ID
    assert client.request("DELETE", "tasks/task-9").status == 404


@pytest.mark.parametrize(
    ("location_header", "on_delete", "on_post"), [("post", 0, 1), ("always", 1, 1), ("never", 0, 0)]
)
def test_where_a_location_is_sent(client: Client, location_header: str, on_delete: int, on_post: int) -> None:
    """A client that needs a header which is documented for POST alone is not found out."""
    client.em.change_behaviour(location_header=location_header)

    deleted = client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
    posted = client.link(VENDOR_JOB_ID, VENDOR_REPOSITORY_UID)

    assert ("Location" in deleted.headers, "Location" in posted.headers) == (bool(on_delete), bool(on_post))
    assert posted.headers.get("Location", "/api/tasks/task-2").endswith("/api/tasks/task-2")


def test_an_accepted_request_may_have_no_body(client: Client) -> None:
    """A DELETE whose task is not named is taken for one that did nothing."""
    client.em.change_behaviour(accepted_body="empty")

    answer = client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)

    assert (answer.status, answer.body) == (202, b"")
    wait_until(lambda: client.em.links(VENDOR_JOB_ID) == [])


# --- documents ---


def test_camel_case_keys(client: Client) -> None:
    """The JSON of 13.0 is never read."""
    client.em.change_behaviour(json_keys="camel")

    body = client.get(f"jobs/{VENDOR_JOB_ID}?format=Entity").body

    assert (b'"jobType"' in body and b'"uid"' in body) == (client.format == "json")
    assert (b"JobType" in body) == (client.format == "xml")


@pytest.mark.parametrize("status", ["404", "500"])
@pytest.mark.parametrize(
    "path", [f"logonSessions/{NOWHERE}", "tasks/task-9", f"jobs/{NOWHERE}", f"repositories/{NOWHERE}"]
)
def test_what_does_not_exist(em: SimulatedEnterpriseManager, client: Client, status: str, path: str) -> None:
    """A client that takes the one answer for the only one is not found out."""
    em.change_behaviour(absent_resource=status)

    answer = client.get(path)

    assert (answer.status, answer.content["statuscode"]) == (int(status), status)


@pytest.mark.parametrize(("asked_for", "encoding"), [("gzip", "gzip"), ("identity", None)])
def test_answers_are_compressed_where_the_request_allows_it(
    client: Client, asked_for: str, encoding: str | None
) -> None:
    """A client that cannot read compressed answers is not found out."""
    client.em.change_behaviour(compression=True)

    answer = client.request("GET", "jobs", headers={"Accept-Encoding": asked_for})

    assert answer.headers.get("Content-Encoding") == encoding
    assert len(answer.content) == 1


FULL, EMPTY = f"{NOWHERE[:-1]}8", f"{NOWHERE[:-1]}9"
LINKS = f"jobs/{VENDOR_JOB_ID}/linkedBackupRepositories"


@pytest.mark.parametrize(
    ("switches", "path", "text"),
    [
        ({"json_byte_order_mark": True}, "jobs", b"\xef\xbb\xbf"),
        *(({"json_links_name": name}, LINKS, f'{{"{name}":['.encode()) for name in JSON_LINKS_NAMES if name),
        # The document is the array.
        ({"json_links_name": ""}, LINKS, b"[{"),
        # The guard finds no linked backups if their array is called otherwise.
        ({"json_linked_backups_name": "LinkedBackup"}, f"jobs/{FULL}?format=Entity", b'{"LinkedBackup":['),
        ({"json_empty_list": "null"}, f"jobs/{EMPTY}/linkedBackupRepositories", b'{"LinkedBackupRepositories":null}'),
        # A name is not found if the list of what was found is nested otherwise.
        ({"json_query_lists": "nested"}, "query?type=Job", b'"Refs":{"Refs":['),
        ({"json_query_lists": "flat"}, "query?type=Job", b'"Refs":['),
    ],
    ids=str,
)
def test_a_spelling_of_json(client: Client, switches: dict[str, Any], path: str, text: bytes) -> None:
    """The one spelling that the client was written for is the only one that it is tried on."""
    client.em.add_job(name="Full", id=FULL, linked_backups=[NOWHERE])
    client.em.add_job(name="Empty", id=EMPTY)
    usual = client.get(path).content
    client.em.change_behaviour(**switches)

    answer = client.get(path)

    assert (text in answer.body) == (client.format == "json")
    assert (answer.content or []) == usual


# --- load ---


def test_latency_delays_every_answer(client: Client) -> None:
    """A benchmark on a distant server measures a near one."""
    client.em.behaviour.latency_seconds = 0.05

    before = client.em.requests[-1].time
    client.get("jobs")
    client.get("jobs")

    assert client.em.requests[-1].time - before >= 0.05


@pytest.mark.parametrize("status", [429, 503])
def test_too_many_requests_at_once_are_turned_away(client: Client, another: Client, status: int) -> None:
    """A client without a limit of its own is not found out."""
    client.em.change_behaviour(requests_at_once=1, overload_status=status, retry_after="7")
    client.em.inject(Fault("never_answers", path="/tasks"))

    with ThreadPoolExecutor() as threads:
        held = threads.submit(another.get, "tasks")
        wait_until(lambda: client.em.count("GET", "/tasks") == 1)
        turned_away = client.get("jobs")
        client.em.restart()
        assert isinstance(held.exception(), requests.ConnectionError)

    assert (turned_away.status, turned_away.headers["Retry-After"]) == (status, "7")
    assert client.get("jobs").status == 401


# --- the switches themselves ---


def test_a_switch_that_does_not_exist_is_refused(em: SimulatedEnterpriseManager) -> None:
    """A misspelt switch leaves a test testing nothing."""
    with pytest.raises(UnknownBehaviourError, match="absent_links"):
        em.change_behaviour(absent_links="404")
    with pytest.raises(UnknownBehaviourError, match="absent_link"):
        em.change_behaviour(absent_link="maybe")
    with pytest.raises(AttributeError):
        em.behaviour.absent_links = "404"  # type: ignore[attr-defined] # that is the point
    assert em.behaviour == Behaviour()
