from __future__ import annotations

from contextlib import closing

import pytest
import requests

from tests.simulated_enterprise_manager.client import Client
from tests.waiting import wait_until
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_LINK_ID,
    VENDOR_REPOSITORY_UID,
    Fault,
    SimulatedEnterpriseManager,
)

NOWHERE = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "nothing", 404),
        ("GET", f"jobs/{NOWHERE}", 404),
        ("GET", f"jobs/{NOWHERE}/linkedBackupRepositories", 404),
        ("DELETE", f"jobs/{NOWHERE}/linkedBackupRepositories/{VENDOR_LINK_ID}", 404),
        ("GET", f"repositories/{NOWHERE}", 404),
        ("GET", "repositories/x/y", 404),
        ("GET", f"jobs/{VENDOR_JOB_ID}/nothing", 404),
        ("GET", "jobs/1", 400),
        ("GET", f"jobs/urn:veeam:Job:{VENDOR_JOB_ID}", 400),
        ("DELETE", f"jobs/{VENDOR_JOB_ID}/linkedBackupRepositories/27a1d57f", 400),
        ("GET", f"jobs/{VENDOR_JOB_ID}/linkedBackupRepositories/{VENDOR_LINK_ID}", 405),
        ("PUT", f"jobs/{VENDOR_JOB_ID}/linkedBackupRepositories", 405),
        ("POST", "tasks", 405),
    ],
)
def test_a_wrong_request_is_answered_with_an_error_document(
    client: Client, method: str, path: str, status: int
) -> None:
    """The client's reading of errors is tried on documents that no server sends."""
    answer = client.request(method, path)

    assert answer.status == status
    assert answer.content["statuscode"] == str(status)
    assert answer.content["message"]
    assert b"FirstChanceExceptionMessage" in answer.body
    assert b"StackTrace" in answer.body


@pytest.mark.parametrize(
    "body", ["", "<", "{", "{}", "<a/>", f"<a><LinkedBackupRepositoryUid>{NOWHERE}x</LinkedBackupRepositoryUid></a>"]
)
def test_a_body_that_names_no_repository_is_a_bad_request(client: Client, body: str) -> None:
    """A link to nothing is made."""
    assert client.request("POST", f"jobs/{VENDOR_JOB_ID}/linkedBackupRepositories", data=body).status == 400


def test_a_repository_that_does_not_exist_cannot_be_linked(client: Client) -> None:
    """A link to nothing is made."""
    assert client.link(VENDOR_JOB_ID, NOWHERE).status == 404


def test_what_lies_outside_of_the_api_is_not_found(client: Client) -> None:
    """A client with a wrong base URL finds the API all the same."""
    client.api = client.api.removesuffix("/api")

    assert client.get("jobs").status == 404


@pytest.mark.parametrize("status", [400, 409, 429, 500, 502, 503])
@pytest.mark.parametrize("kind", ["error", "html", "empty"])
def test_a_status_on_demand_is_answered_without_acting(client: Client, status: int, kind: str) -> None:
    """An error of a server, or of a proxy in front of it, cannot be tried."""
    client.em.inject(Fault("status", method="DELETE", status=status, answer=kind, message="No.", retry_after="3"))  # type: ignore[arg-type] # a literal in turn

    answer = client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)

    assert answer.status == status
    assert answer.headers["Retry-After"] == "3"
    if kind == "error":
        assert answer.content == {"message": "No.", "statuscode": str(status)}
    elif kind == "html":
        assert answer.headers["Content-Type"].startswith("text/html")
        assert b"<html>" in answer.body
    else:
        assert answer.body == b""
    assert client.links(VENDOR_JOB_ID) == [VENDOR_LINK_ID]
    assert client.em.requests[-2].status == status


def test_a_fault_meets_only_its_requests_and_only_so_often(client: Client) -> None:
    """A fault that strays makes a test fail, or pass, for another reason."""
    client.em.inject(Fault("status", method="GET", path="/linkedBackupRepositories", times=2, after=1, status=500))

    statuses = [client.get(f"jobs/{VENDOR_JOB_ID}/linkedBackupRepositories").status for _ in range(4)]
    others = client.get("jobs").status

    assert statuses == [200, 500, 500, 200]
    assert others == 200
    assert client.em.faults == []


def test_faults_wait_in_line_and_can_be_cleared(client: Client) -> None:
    """A fault for ever outlives the part of a test that it was for."""
    client.em.inject(Fault("status", status=500))
    client.em.inject(Fault("status", status=503, times=None))

    assert [client.get("jobs").status for _ in range(3)] == [500, 503, 503]
    assert [fault.status for fault in client.em.faults] == [503]
    client.em.clear_faults()
    assert client.get("jobs").status == 200


@pytest.mark.parametrize(("kind", "acts"), [("drops_connection", False), ("acts_and_drops_connection", True)])
def test_a_connection_is_dropped_before_or_after_acting(client: Client, kind: str, acts: bool) -> None:
    """An answer that is lost on the wire looks like a request that never arrived, and cannot be tried."""
    client.em.inject(Fault(kind, method="DELETE"))  # type: ignore[arg-type] # a literal in turn

    with pytest.raises(requests.ConnectionError):
        client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)

    assert client.em.deletes_of(VENDOR_LINK_ID) == 1
    assert client.em.requests[-1].status is None
    assert len(client.get("tasks").content) == acts
    if acts:
        wait_until(lambda: client.em.links(VENDOR_JOB_ID) == [])


@pytest.mark.parametrize(("kind", "acts"), [("never_answers", False), ("acts_and_never_answers", True)])
def test_an_answer_never_comes(client: Client, kind: str, acts: bool) -> None:
    """A client without timeouts is not found out."""
    client.em.inject(Fault(kind, method="DELETE"))  # type: ignore[arg-type] # a literal in turn

    with pytest.raises(requests.ReadTimeout):
        client.request("DELETE", f"jobs/{VENDOR_JOB_ID}/linkedBackupRepositories/{VENDOR_LINK_ID}", timeout=0.1)

    assert client.em.requests[-1].status is None
    assert len(client.get("tasks").content) == acts


@pytest.mark.parametrize("kind", ["truncated", "cut_off", "wrong_content", "latency"])
def test_an_answer_is_spoilt_after_acting(client: Client, kind: str) -> None:
    """Half a document, or somebody else's, is only ever met in production."""
    client.em.inject(Fault(kind, method="DELETE", seconds=0.1))  # type: ignore[arg-type] # a literal in turn

    if kind == "cut_off":
        with pytest.raises(requests.RequestException):
            client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
    else:
        answer = client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
        assert answer.status == 202
        assert (answer.content is None) == (kind != "latency")

    wait_until(lambda: client.em.links(VENDOR_JOB_ID) == [])


def test_a_document_of_somebody_elses_making(client: Client) -> None:
    """Hostile content cannot be put in front of the client."""
    client.em.inject(Fault("wrong_content", status=200, body="[]", content_type="application/json"))

    answer = client.get("jobs")

    assert (answer.status, answer.body, answer.content) == (200, b"[]", [])


def test_a_task_that_hangs_keeps_the_link_until_it_is_stopped(client: Client) -> None:
    """What happens at the end of the timeout cannot be tried."""
    client.em.inject(Fault("task_hangs", method="DELETE", path=f"/linkedBackupRepositories/{VENDOR_LINK_ID}"))
    client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
    behind = client.link(VENDOR_JOB_ID, VENDOR_REPOSITORY_UID)

    assert client.task("task-1")["state"] == client.task("task-2")["state"] == "Running"
    client.request("DELETE", "tasks/task-1")

    assert client.end_of(behind)["result"]["success"] == "true"
    assert client.em.links(VENDOR_JOB_ID)[0].object_in_job_id == VENDOR_LINK_ID


def test_nobody_can_connect_while_connections_are_refused(client: Client) -> None:
    """A server that is down for a while cannot be tried, or comes back elsewhere."""
    url = client.em.url
    client.em.refuse_connections()
    client.em.refuse_connections()
    with pytest.raises(requests.ConnectionError):
        client.get("jobs")

    client.em.accept_connections()
    client.em.accept_connections()

    assert client.em.url == url
    assert client.get("jobs").status == 200


def test_a_held_connection_ends_when_connections_are_refused(em: SimulatedEnterpriseManager) -> None:
    """A server that goes down in the middle of a request is not simulated, or the simulation cannot be stopped."""
    em.inject(Fault("never_answers", path="/query"))
    with closing(Client(em, "xml")) as client:
        em.inject(Fault("latency", path="/tasks", seconds=60))
        with pytest.raises(requests.ReadTimeout):
            client.request("GET", "query?type=Job", timeout=0.05)
        with pytest.raises(requests.ReadTimeout):
            client.request("GET", "tasks", timeout=0.05)

        em.restart()

        assert client.get("jobs").status == 401


def test_requests_are_recorded_as_they_come(client: Client) -> None:
    """The proof that there was one DELETE and one logon counts something else."""
    client.em.forget_requests()
    client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
    client.token = None
    client.get("query?type=Job&filter=Name==%22a%22")

    first, second = client.em.requests
    assert (first.method, first.has_session, first.status) == ("DELETE", True, 202)
    assert first.path == f"/api/jobs/{VENDOR_JOB_ID}/linkedBackupRepositories/{VENDOR_LINK_ID}"
    assert (second.method, second.has_session, second.status) == ("GET", False, 401)
    assert second.path == "/api/query?type=Job&filter=Name==%22a%22"
    assert second.time >= first.time
    assert (client.em.count(), client.em.count("DELETE"), client.em.count("GET", "/QUERY")) == (2, 1, 1)
