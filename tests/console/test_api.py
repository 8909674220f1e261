"""The API for programs: lists, one unlink, Enterprise Managers, and what is said when something is wrong."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup
from sqlalchemy import make_url
from starlette.requests import Request

from contracts.events import Outcome
from tests.console.conftest import LINK, TRACE_ID, Console, Estate
from tests.console.test_batches import join
from worker.console.actions import _wait  # read from the header, which HTTP clients join
from worker.console.pages import OverviewPart
from worker.console.readings import Readings, SharedByKey
from worker.console.rendering import render_part
from worker.ledger import ManagerState, WorkerState
from worker.unlinks.ports.enterprise_manager import Link
from worker.unlinks.ports.ledger import CancelRequest, Retry


def test_unlinks_are_found_and_paged(console: Console, estate: Estate) -> None:
    """A program would have to read the whole ledger, or see a part of it."""
    for number in range(5):
        estate.order(f"CHG/{number}..", ticket={"system": "jira", "id": f"OPS-{number % 2}"})
    first = console.get("/api/v1/unlinks", params={"ticket": "ops-0", "limit": 2}).json()
    assert [item["idempotency_key"] for item in first["items"]] == ["CHG/4..", "CHG/2.."]
    assert first["complete"] is True
    last = console.get(first["next"]).json()
    assert [item["idempotency_key"] for item in last["items"]] == ["CHG/0.."]
    assert last["next"] is None
    assert len(console.get("/api/v1/unlinks?in_flight=true&ticket=").json()["items"]) == 5


def test_each_field_of_the_search_finds_what_it_names(console: Console, estate: Estate) -> None:
    """A criterion that is dropped would show everything, as if all of it had that ticket."""
    batch = {"id": "B1", "size": 1}
    lease = estate.order("CHG1", ticket={"system": "jira", "id": "OPS-1"}, requested_by="j.doe", batch=batch)
    join(estate, lease, "B1", 1, "servicenow")
    estate.send(lease)
    estate.end(lease, Outcome.FAILED, reason={"code": "task_failed", "message": "no"})
    estate.order("CHG2", user_id="jira", job={"name": "other"}, repository={"name": "other"})
    fields = {
        "key": "CHG1",
        "ticket": "ops-1",
        "requester": "j.doe",
        "job": "Copy to Frankfurt",
        "repository": "Scale-out 3",
        "outcome": "failed",
        "reason": "task_failed",
        "batch": "B1",
    }
    for field, value in fields.items():
        (item,) = console.get("/api/v1/unlinks", params={field: value}).json()["items"]
        assert (field, item["idempotency_key"], item["batch"]) == (field, "CHG1", "B1")
        assert "CHG2" not in console.get("/unlinks.csv", params={field: value}).text
    assert [len(console.get(f"/api/v1/unlinks?since={since}").json()["items"]) for since in ("1h", "2999-01-01")] == [
        2,
        0,
    ]
    (item,) = console.get("/api/v1/unlinks?in_flight=true").json()["items"]
    assert (item["idempotency_key"], item["batch"]) == ("CHG2", None)


@pytest.fixture
def in_kolkata(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The host is in a zone 5:30 h ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_kolkata")
def test_a_time_without_an_offset_is_in_utc(console: Console, estate: Estate) -> None:
    """The same link would find other unlinks on another host, and nobody could know which."""
    estate.order("CHG1")
    for hours, found in ((-1, 1), (1, 0)):
        since = f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%dT%H:%M}"
        assert len(console.get("/api/v1/unlinks", params={"since": since}).json()["items"]) == found
    assert "(UTC)" in console.get("/unlinks").text


def test_space_around_a_pasted_text_is_ignored(console: Console, estate: Estate) -> None:
    """A number that was copied with the space after it would find nothing."""
    estate.order("CHG1", ticket={"system": "jira", "id": "OPS-1"})
    texts = {"ticket": " OPS-1\t", "key": "CHG1 ", "job": "Copy to Frankfurt\n", "since": " 1h ", "outcome": " "}
    for name, text in texts.items():
        assert len(console.get("/api/v1/unlinks", params={name: text}).json()["items"]) == 1, name
    assert 'value="OPS-1"' in console.get("/unlinks", params={"ticket": " OPS-1 "}).text


def test_several_preferences_may_come_in_headers_of_their_own() -> None:
    """A client that prefers something else, too, would not be waited for."""
    headers = [(b"prefer", b"respond-async"), (b"prefer", b"return=minimal, wait=7")]
    assert _wait(Request({"type": "http", "headers": headers})) == 7


def test_one_unlink_is_had_with_its_steps(console: Console, estate: Estate) -> None:
    """A program could not tell what was done, nor how it is known."""
    lease = estate.order("CHG/1", requested_by="j.doe", reason="old")
    estate.send(lease)
    estate.end(lease)
    (item,) = console.get("/api/v1/unlinks").json()["items"]
    assert item["href"] == "/api/v1/unlinks/" + base64.urlsafe_b64encode(b"CHG/1").decode().rstrip("=")
    unlink = console.get(item["href"]).json()
    assert [step["step"] for step in unlink["steps"]] == ["claimed", "intended", "submitted", "settled"]
    assert [step["trace_id"] for step in unlink["steps"]] == [TRACE_ID, None, None, None]
    assert unlink["outcome"] == "succeeded"
    assert unlink["request"]["user_id"] == "servicenow"
    assert unlink["repository"]["name"] == "Scale-out 3"
    assert unlink["event"]["data"]["summary"] == "It succeeded."


def test_what_is_left_out_of_a_history_is_said(console: Console, estate: Estate) -> None:
    """Who looks for the first step, or for the event of an earlier run, would take what is there for all of it."""
    estate.end(estate.order("CHG1"))
    href = "/unlinks/Q0hHMQ"

    def page() -> str:
        return " ".join(console.get(href).text.split())

    step = ("CHG1", 0, "worker-a", 1, "released")
    estate.write("INSERT INTO steps (key, at, worker, token, step) VALUES (?, ?, ?, ?, ?)", [step] * 498)
    whole = console.get(f"/api/v1{href}").json()
    assert (len(whole["steps"]), whole["steps_complete"]) == (500, True)
    assert "Earlier steps are left out" not in page()
    estate.write("INSERT INTO steps (key, at, worker, token, step) VALUES (?, ?, ?, ?, ?)", [step])
    part = console.get(f"/api/v1{href}").json()
    assert (len(part["steps"]), part["steps_complete"]) == (500, False)
    assert "Earlier steps are left out: these are the newest 500." in page()
    assert "The ledger keeps the latest terminal event. Earlier events went to their subscribers" in page()


def test_who_retried_and_who_cancelled_is_had_as_the_broker_verified_it(console: Console, estate: Estate) -> None:
    """Whoever retries or cancels in another's name would be found nowhere."""
    estate.end(estate.order("CHG1"), Outcome.FAILED, changed=False)
    retry = Retry("CHG1", "default", 1, "f" * 64, requested_by="alice", user_id="bob")
    cancel = CancelRequest("CHG1", "default", "carol", "wrong", estate.clock.now(), user_id="dave")
    estate.work(lambda ledger: ledger.retry(retry))
    estate.work(lambda ledger: ledger.cancel(cancel))
    (item,) = console.get("/api/v1/unlinks").json()["items"]
    who = {"retried_by": "alice", "retry_user_id": "bob", "cancelled_by": "carol", "cancel_user_id": "dave"}
    assert item["request"].items() >= who.items()
    (cancellation,) = console.get(item["href"]).json()["cancellations"]
    assert (cancellation["requested_by"], cancellation["user_id"], cancellation["run"]) == ("carol", "dave", 2)
    page = " ".join(console.get(item["href"].removeprefix("/api/v1")).text.split())
    assert "<dt>Retried by</dt><dd>alice, sent by bob" in page
    assert "by carol, sent by dave: wrong" in page


def test_what_has_not_changed_is_not_sent_again(console: Console, estate: Estate) -> None:
    """A program that polls would have everything sent again and again."""
    lease = estate.order("CHG1")
    href = console.get("/api/v1/unlinks").json()["items"][0]["href"]
    known = {"If-None-Match": console.get(href).headers["etag"]}
    again = console.get(href, headers=known)
    assert (again.status_code, again.content) == (304, b"")
    # As each renewal of the lease does, every few seconds.
    estate.write("UPDATE unlinks SET lease_until = lease_until + 20000000")
    assert console.get(href, headers=known).status_code == 304
    estate.end(lease)
    assert console.get(href, headers=known).status_code == 200


def test_the_overview_tells_state_problem_and_time_of_the_same_worker(console: Console, estate: Estate) -> None:
    """Two workers disagree: the time of the one that reaches it would stand beside the other's problem."""
    since = estate.clock.now() - timedelta(days=2)
    down = ManagerState(up=False, since=since, problem="https://em.example.com:9398 cannot be reached")
    first = WorkerState("a-worker", "0.1.0", 0, draining=False, enterprise_managers={"default": down})
    estate.work(lambda ledger: ledger.report_status(first))
    row = console.get("/").text.partition('<th scope="row">default</th>')[2].partition("</tr>")[0]
    assert "down for 1 of 2 workers" in row
    assert "cannot be reached" in row
    assert f"{since:%Y-%m-%d %H:%M}" in row


def test_enterprise_managers_are_reported_as_workers_find_them(console: Console, estate: Estate) -> None:
    """A program could not tell whether a command would be taken up."""
    estate.report_status(up=False)
    estate.order("CHG1")
    (manager,) = console.get("/api/v1/enterprise-managers").json()["items"]
    assert (manager["name"], manager["up"], manager["under_way"]) == ("default", False, 1)
    assert manager["workers"][0]["problem"] == "https://em.example.com:9398 cannot be reached"
    assert (manager["waiting"], manager["paused"]) == (None, None)


@pytest.mark.parametrize(
    ("path", "status", "said", "fields"),
    [
        ("/api/v1/unlinks?outcome=planned&since=x", 400, "outcome: must be one of succeeded", ["outcome", "since"]),
        ("/api/v1/unlinks?limit=0", 400, "limit: ", ["limit"]),
        ("/api/v1/unlinks?limit=501", 400, "limit: ", ["limit"]),
        ("/api/v1/unlinks?reason=nonsense", 400, "reason: must be a reason code", ["reason"]),
        ("/api/v1/unlinks?cursor=nonsense", 400, "cursor: must be the cursor", ["cursor"]),
        (f"/api/v1/unlinks?cursor={'W1tb' * 249}", 400, "cursor: must be the cursor", ["cursor"]),
        (f"/api/v1/batches/QjE?cursor={'W1tb' * 249}", 400, "cursor: must be the cursor", ["cursor"]),
        ("/api/v1/unlinks?cursor=WzEsMl0", 400, "cursor: must be the cursor", ["cursor"]),
        (f"/api/v1/unlinks?ticket={'x' * 1001}", 400, "ticket: ", ["ticket"]),
        ("/api/v1/unlinks/Q0hHMQ", 404, "No worker has seen this key", []),
        ("/api/v1/unlinks/!!!", 404, "This is no key", []),
        ("/api/v1/unlinks/..%2F..%2Fetc", 404, "Not Found", []),
        ("/api/v1/nowhere", 404, "Not Found", []),
    ],
)
def test_what_is_wrong_is_a_problem_document(
    console: Console, path: str, status: int, said: str, fields: list[str]
) -> None:
    """A program could not tell its user which field to correct."""
    answer = console.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"].startswith(said)
    assert [error["field"] for error in problem.get("errors", [])] == fields


def test_a_ledger_that_is_away_is_said_and_comes_back(console: Console, estate: Estate) -> None:
    """A page would stay broken until somebody restarts the console."""
    estate.order("CHG1")
    file = Path(str(make_url(estate.settings.url.get_secret_value()).database))
    away = file.rename(file.with_suffix(".away"))
    for path in ("/api/v1/unlinks", "/unlinks", "/"):
        answer = console.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5") if "api" in path else True
        assert "there is no file" in answer.text
    away.rename(file)
    assert len(console.get("/api/v1/unlinks").json()["items"]) == 1
    assert console.get("/unlinks").status_code == 200


def test_the_openapi_document_names_what_there_is(console: Console) -> None:
    """A client could not be generated."""
    document = console.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert {path.removeprefix("/api/v1"): set(methods) for path, methods in document["paths"].items()} == {
        "/unlinks": {"get", "post"},
        "/unlinks/{key}": {"get"},
        "/unlinks/{key}/cancel": {"post"},
        "/unlinks/{key}/retry": {"post"},
        "/batches/{id}": {"get"},
        "/events": {"get"},
        "/offboardings": {"post"},
        "/enterprise-managers/{name}/links": {"get"},
        "/dead-letters": {"get"},
        "/dead-letters/{id}/replay": {"post"},
        "/dead-letters/{id}/discard": {"post"},
        "/enterprise-managers": {"get"},
        "/enterprise-managers/{name}/pause": {"post"},
        "/enterprise-managers/{name}/resume": {"post"},
    }
    command = document["components"]["schemas"]["UnlinkCommand"]
    assert command["properties"]["idempotency_key"]["pattern"] == "^[A-Za-z0-9._:/-]{1,200}$"


def test_the_audit_export_of_a_search_is_that_of_the_command_line(console: Console, estate: Estate) -> None:
    """An auditor would have two truths."""
    estate.end(estate.order("CHG1", reason="=1+1"), Outcome.FAILED)
    estate.order("CHG2")
    answer = console.get("/unlinks.csv?outcome=failed")
    assert answer.headers["content-type"].startswith("text/csv")
    header, line = answer.text.splitlines()
    assert header.startswith("idempotency_key,run,enterprise_manager")
    assert line.startswith("CHG1,1,default")
    assert ",'=1+1," in line


def test_an_audit_export_that_is_incomplete_says_so(console: Console, estate: Estate) -> None:
    """Half a year of unlinks would be missing in the auditor's file, and nobody know."""
    estate.order("CHG1")
    whole = console.get("/unlinks.csv")
    assert whole.headers["content-disposition"] == 'attachment; filename="unlinks.csv"'
    assert whole.headers["unlinks-complete"] == "true"
    estate.write("UPDATE search_walk SET completed_at = NULL, next_at = 9e18")
    part = console.get("/unlinks.csv")
    assert part.headers["content-disposition"] == 'attachment; filename="unlinks-incomplete.csv"'
    assert part.headers["unlinks-complete"] == "false"
    assert part.text == whole.text


def test_the_audit_export_shows_what_is_under_way_as_it_was_asked(console: Console, estate: Estate) -> None:
    """Before its end an unlink has no event: an auditor would not know by which run it was ordered, or for what."""
    lease = estate.order("CHG1", correlation_id="run 7", repository={"name": "Scale-out 9"})
    estate.send(lease, link=Link(LINK.object_in_job_id, LINK.repository_uid, None))
    (row,) = csv.DictReader(io.StringIO(console.get("/unlinks.csv").text))
    assert (row["correlation_id"], row["repository_name"]) == ("run 7", "Scale-out 9")


async def test_many_open_pages_are_one_query() -> None:
    """A thousand people who follow one batch would keep the database from the workers."""
    read: list[str] = []

    async def reading(key: str) -> int:
        read.append(key)
        await asyncio.sleep(0)
        return len(read)

    shared: SharedByKey[str, int] = SharedByKey(reading, 3600)
    assert set(await asyncio.gather(*(shared.get("a") for _ in range(1000)))) == {1}
    assert await shared.get("b") == 2
    assert await shared.get("a") == 1
    assert read == ["a", "b"]


async def test_what_nobody_would_be_given_is_not_kept() -> None:
    """A program that pages through its batches would leave a gigabyte of them behind."""

    async def reading(number: int) -> bytearray:
        return bytearray(number)

    shared: SharedByKey[int, bytearray] = SharedByKey(reading, 0)
    for number in range(100):
        assert await shared.get(number) == bytearray(number)
        assert len(shared._kept) == 1  # noqa: SLF001 - nothing else shows it


async def test_a_reading_is_rendered_once_for_all_open_pages(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand open overviews would take a core of the machine from the workers."""
    rendered: list[str] = []

    def render(template: str, **values: Any) -> Markup:
        rendered.append(template)
        return render_part(template, **values)

    monkeypatch.setattr("worker.console.pages.render_part", render)
    readings, part = Readings(estate.settings, None, estate.clock), OverviewPart()
    assert len(set(await asyncio.gather(*(part.html(readings) for _ in range(100))))) == 1
    assert len(rendered) == 1
    await readings.pause("default", "j.doe", "Maintenance")
    assert "j.doe" in await part.html(readings)
    assert len(rendered) == 2
    readings.close()
