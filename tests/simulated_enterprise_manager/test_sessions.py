from __future__ import annotations

from contextlib import closing

import pytest
import requests

from tests.simulated_enterprise_manager.client import Client
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, SimulatedEnterpriseManager

HEADER = "X-RestSvcSessionId"


def test_the_front_page_needs_no_session(client: Client) -> None:
    """A client that follows links from the front page finds no way in."""
    client.token = None

    answer = client.get("")

    assert answer.status == 200
    create = next(link for link in answer.content["links"] if link["rel"] == "Create")
    assert create["type"] == "LogonSession"
    assert [version["name"] for version in answer.content["supportedversions"]] == ["v1_5", "v1_6", "v1_7"]
    assert client.em.count("GET", "/api/") == 1


def test_logging_on_gives_a_token_in_header_and_cookie_and_none_in_the_body(client: Client) -> None:
    """A client reads the token where a real server does not put it."""
    answer = client.log_on()

    token = answer.headers[HEADER]
    assert answer.status == 201
    assert answer.headers["Set-Cookie"] == f"{HEADER}={token}; Path=/api;"
    assert answer.content["sessionid"] != token
    assert token.encode() not in answer.body
    assert any(link["rel"] == "Delete" for link in answer.content["links"])


@pytest.mark.parametrize(("password", "version"), [("wrong", "latest"), (None, "v1_4")])
def test_a_wrong_password_and_an_unsupported_version_are_both_unauthorized(
    client: Client, password: str | None, version: str
) -> None:
    """The worker's advice for a refused logon is tested against an answer that no server gives."""
    client.token = None

    answer = client.log_on(password, version)

    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Basic Realm=RestSvc"


@pytest.mark.parametrize("credentials", ["Basic !", "Basic", "Bearer abc", "Basic 4pyT"])
def test_unreadable_credentials_are_unauthorized(client: Client, credentials: str) -> None:
    """A broken header stops the simulation in place of being refused."""
    assert client.request("POST", "sessionMngr/?v=latest", headers={"Authorization": credentials}).status == 401


@pytest.mark.parametrize("token", [None, "bm9ib2R5"])
def test_without_a_session_nothing_is_shown(client: Client, token: str | None) -> None:
    """A client that forgot its token goes unnoticed."""
    client.token = token

    answer = client.get("jobs")

    assert answer.status == 401
    assert answer.content["statuscode"] == "401"
    assert answer.headers["WWW-Authenticate"] == "Basic Realm=RestSvc"


def test_a_stale_cookie_beats_a_good_header(client: Client) -> None:
    """A client that keeps cookies works here, and fails at a real server after its second logon."""
    stale = client.get("jobs").status, client.request("GET", "jobs", headers={"Cookie": f"{HEADER}=stale"}).status
    good = client.request("GET", "jobs", headers={"Cookie": f"{HEADER}={client.token}", HEADER: "stale"}).status

    assert (*stale, good) == (200, 401, 200)


def test_a_session_idles_out_and_each_request_keeps_it(client: Client) -> None:
    """A worker that never renews its session passes every test."""
    client.em.behaviour.session_idle_seconds = 1000
    assert client.get("jobs").status == 200

    client.em.behaviour.session_idle_seconds = -1

    assert client.get("jobs").status == 401
    client.em.behaviour.session_idle_seconds = 1000
    assert client.get("jobs").status == 401


def test_expired_sessions_are_gone_until_the_next_logon(client: Client) -> None:
    """A test of what happens on 401 in the middle of work tests nothing."""
    client.em.expire_sessions()

    assert client.get("jobs").status == 401
    client.token = client.log_on().headers[HEADER]
    assert client.get("jobs").status == 200


def test_logging_off_ends_that_session_alone(client: Client, another: Client) -> None:
    """A worker that logs somebody else off is not found out."""
    listed = [session["sessionid"] for session in client.get("logonSessions").content]
    answer = client.request("DELETE", f"logonSessions/{client.session_id}")

    assert listed == [client.session_id, another.session_id]
    assert (answer.status, answer.body) == (204, b"")
    assert client.get("jobs").status == 401
    assert another.get("jobs").status == 200
    assert another.request("DELETE", f"logonSessions/{client.session_id}").status == 404
    assert client.em.sessions == [another.session_id]


def test_every_session_counts_its_own_tasks(client: Client, another: Client) -> None:
    """A worker that follows task-1 of an earlier session follows somebody else's task."""
    job = client.em.add_job(name="Two links", links=[VENDOR_LINK_ID, VENDOR_JOB_ID])
    first, second = client.em.links(job)
    mine, theirs = client.unlink(job, first.object_in_job_id), another.unlink(job, second.object_in_job_id)

    assert mine.content["taskid"] == theirs.content["taskid"] == "task-1"
    assert len(client.get("tasks").content) == len(another.get("tasks").content) == 1
    with closing(Client(client.em, client.format)) as third:
        assert third.get("tasks").content == []
        assert third.get("tasks/task-1").status == 404


@pytest.mark.parametrize(
    ("role", "seen", "edited"),
    [("Portal Administrator", 200, 202), ("Portal User", 200, 403), ("Restore Operator", 403, 403)],
)
def test_a_role_may_do_only_what_it_may(client: Client, role: str, seen: int, edited: int) -> None:
    """A refusal for want of rights is never met before production."""
    client.em.change_behaviour(role=role)

    assert client.get(f"jobs/{VENDOR_JOB_ID}").status == seen
    assert client.get("query?type=Job").status == seen
    assert client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID).status == edited


@pytest.mark.parametrize(("beyond", "status"), [("403", 403), ("503", 503), ("oldest_ends", 201)])
def test_a_cap_on_sessions_refuses_or_ends_the_oldest(client: Client, beyond: str, status: int) -> None:
    """A worker that leaks sessions, or loses its own to somebody else's logon, is not noticed."""
    client.em.change_behaviour(session_cap=1, beyond_session_cap=beyond)

    assert client.log_on().status == status
    assert client.get("jobs").status == (401 if beyond == "oldest_ends" else 200)


def test_only_its_own_authority_vouches_for_it(em: SimulatedEnterpriseManager) -> None:
    """A client that verifies nothing passes every test."""
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{em.url}/api/", timeout=10)
    by_address = em.url.replace("localhost", "127.0.0.1")
    assert requests.get(f"{by_address}/api/", verify=str(em.ca_file), timeout=10).status_code == 200


def test_everything_that_a_session_links_to_is_there(em: SimulatedEnterpriseManager, client: Client) -> None:
    """A script that follows links from its session, as public ones do, ends nowhere."""
    em.behaviour.links_host = None
    session = client.get(f"logonSessions/{client.session_id}")
    assert session.content["sessionid"] == client.session_id

    followed = {}
    waiting = list(session.content["links"])
    while waiting:
        link = waiting.pop()
        if link["rel"] == "Down" and link["href"] not in followed:
            answer = client.get(link["href"].partition("/api/")[2])
            assert answer.status == 200, link
            followed[link["href"]] = link["type"]
            if link["type"] == "QueryService":
                waiting += answer.content["links"] if isinstance(answer.content, dict) else answer.content
    lists = {kind.removesuffix("List") for kind in followed.values() if not kind.endswith("ReferenceList")}
    assert lists >= {"Task", "Job", "Repository", "Backup", "BackupServer", "ReplicaJobSession", "VmRestorePoint"}
    # Each list exists by reference, as entities, and as a query.
    assert len(followed) == 3 * len(lists - {"QueryService", "Task"}) + 3


@pytest.mark.parametrize("kind", ["jobs", "repositories"])
def test_a_list_of_entities(client: Client, kind: str) -> None:
    """A client that reads all jobs at once, with their settings, is shown references alone."""
    entities, references = client.get(f"{kind}?format=Entity").content, client.get(kind).content

    assert [each["uid"] for each in entities] == [each["uid"] for each in references]
    assert all(("jobtype" if kind == "jobs" else "capacity") in each for each in entities)
