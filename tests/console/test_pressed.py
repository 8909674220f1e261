"""What was ordered, cancelled or retried: each names its run, and is said to wait as long as it may."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from contracts.commands import UnlinkCommand
from contracts.events import Outcome
from tests.console.conftest import Console, Estate, bearer
from tests.console.test_users import csrf_of, log_in
from worker.unlinks.ports.ledger import CancelRequest, Claimed, Lease, Retry

PAGE = "/unlinks/Q0hHMQ"
ITEM = f"/api/v1{PAGE}"
COMMAND: dict[str, Any] = {
    "command": "unlink.v1",
    "idempotency_key": "CHG1",
    "job": {"name": "Copy to Frankfurt"},
    "repository": {"name": "Scale-out 3"},
}
FINGERPRINT = UnlinkCommand.model_validate(COMMAND).fingerprint


def order(estate: Estate) -> Lease:
    """Take the command up."""
    return estate.order("CHG1", fingerprint=FINGERPRINT)


def retry(estate: Estate, run: int) -> None:
    """Start the run that follows this one."""
    request = Retry("CHG1", "default", run, FINGERPRINT, requested_by="alice", user_id="bob")
    assert isinstance(estate.work(lambda ledger: ledger.retry(request)), Claimed)


def cancel(estate: Estate) -> None:
    """Ask for the run under way to be cancelled."""
    request = CancelRequest("CHG1", "default", "carol", "wrong", estate.clock.now(), user_id="dave")
    estate.work(lambda ledger: ledger.cancel(request))


def shown(console: Console, seconds_ago: int, path: str = PAGE, **asked: Any) -> str:
    """A page after a button was pressed; in one line."""
    page = console.get(path, params={**asked, "at": int(time.time()) - seconds_ago})
    assert page.status_code == 200
    return " ".join(page.text.split())


def ids_of(page: str) -> set[str]:
    """Those of the two buttons that the page has."""
    return {each for each in ("cancel", "retry") if f'<button id="{each}">' in page}


# --- how long it waits ----------------------------------------------------------------------------------------------


def test_an_order_is_said_to_wait_as_long_as_it_may(guarded: Console) -> None:
    """A command that a worker has rejected would be said to be on its queue for ever."""
    log_in(guarded, "operateer")
    page = shown(guarded, 0, asked="order")
    assert "It is on its queue; a worker takes it up." in page
    page = shown(guarded, 3600, asked="order")
    assert "on its queue; a worker takes it up" not in page
    assert "No worker has taken the order up within a minute." in page
    assert 'href="/dead-letters"' in page
    assert "hx-get" in page
    assert guarded.get(PAGE, params={"asked": "order"}).status_code == 404


def test_the_order_of_a_batch_is_said_to_wait_as_long_as_it_may(guarded: Console) -> None:
    """As above, of a hundred commands."""
    log_in(guarded, "operateer")
    path = "/batches/T1BTLTE"
    assert "The commands are on their queue; a worker takes them up." in shown(guarded, 0, path, asked="order")
    page = shown(guarded, 3600, path, asked="order")
    assert "a worker takes them up" not in page
    assert "No worker has taken the commands up within a minute." in page
    assert 'href="/dead-letters"' in page
    assert guarded.get(path, params={"asked": "order"}).status_code == 404


def test_a_cancel_is_said_to_wait_as_long_as_it_may(guarded: Console, estate: Estate) -> None:
    """One that a worker has denied would be said to be on its queue until the end, without a button to repeat it."""
    order(estate)
    log_in(guarded, "operateer")
    page = shown(guarded, 0, asked="cancel", run=1)
    assert ("The request to cancel is on the queue" in page, ids_of(page)) == (True, set())
    page = shown(guarded, 3600, asked="cancel", run=1)
    assert "on the queue; a worker" not in page
    assert "No worker has taken the request to cancel up within a minute." in page
    assert ids_of(page) == {"cancel"}


def test_a_cancel_that_was_taken_up_is_said_to_be(guarded: Console, estate: Estate) -> None:
    """It would be said to wait, beside the line that says who has asked."""
    order(estate)
    cancel(estate)
    log_in(guarded, "operateer")
    for seconds_ago in (0, 3600):
        page = shown(guarded, seconds_ago, asked="cancel", run=1)
        assert "A worker has taken up the request to cancel" in page
        assert "on the queue" not in page
        assert ids_of(page) == set()


def test_a_cancel_of_an_earlier_run_hides_no_button(guarded: Console, estate: Estate) -> None:
    """Who has cancelled run 1 could not cancel run 2, which a colleague has started, from the page that they have."""
    estate.end(order(estate), Outcome.CANCELLED)
    retry(estate, 1)
    log_in(guarded, "operateer")
    page = shown(guarded, 0, asked="cancel", run=1)
    assert "on the queue" not in page
    assert ids_of(page) == {"cancel"}


# --- which run ------------------------------------------------------------------------------------------------------


def test_the_buttons_name_the_run_that_the_page_shows(guarded: Console, estate: Estate) -> None:
    """A page that is an hour old would stop a run, or start one, that its reader has never seen."""
    estate.end(order(estate), Outcome.FAILED)
    log_in(guarded, "operateer")
    headers = {"Origin": guarded.url, "X-CSRF-Token": csrf_of(guarded)}
    assert '<input type="hidden" name="run" value="1">' in guarded.get(PAGE).text
    retry(estate, 1)
    assert '<input type="hidden" name="run" value="2">' in guarded.get(PAGE).text

    def press(action: str, run: str) -> httpx.Response:
        return guarded.client.post(f"{PAGE}/{action}", data={"run": run}, headers=headers)

    for action in ("cancel", "retry"):
        stale = press(action, "1")
        assert (stale.status_code, "Run 1 is meant, and the last run is 2" in stale.text) == (409, True)
    assert press("cancel", "2").status_code == 503  # there is no broker: it was let through
    for wrong in ("x", "-1", "0", "9" * 400, "²"):
        assert press("cancel", wrong).status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "parameters"),
    [
        (f"{ITEM}/retry", {"run": 1}, {}),
        (f"{ITEM}/cancel", {"run": 1, "reason": "wrong"}, {}),
        ("/api/v1/unlinks", COMMAND, {"retry": "true", "run": 1}),
    ],
)
def test_a_request_that_is_sent_again_steers_no_later_run(
    guarded: Console, estate: Estate, path: str, body: dict[str, Any], parameters: dict[str, Any]
) -> None:
    """Its answer was lost; run 2 has failed within a second; sent again, it would start run 3, or stop it."""
    lease = order(estate)
    if "cancel" not in path:
        estate.end(lease, Outcome.FAILED)
    answer = guarded.client.post(path, json=body, params=parameters, headers=bearer("operate"))
    assert answer.status_code == 503  # there is no broker: it was let through
    if "cancel" in path:
        estate.end(lease, Outcome.FAILED)
    retry(estate, 1)
    answer = guarded.client.post(path, json=body, params=parameters, headers=bearer("operate"))
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    assert [each["field"] for each in answer.json()["errors"]] == ["run"]


@pytest.mark.parametrize(
    ("path", "body", "parameters"),
    [
        (f"{ITEM}/retry", {"run": 0}, {}),
        (f"{ITEM}/retry", {"run": "1"}, {}),
        (f"{ITEM}/cancel", {"run": 1.5}, {}),
        (f"{ITEM}/cancel", {"run": 10**9}, {}),
        ("/api/v1/unlinks", COMMAND, {"retry": "true", "run": "0"}),
        ("/api/v1/unlinks", COMMAND, {"run": "1"}),
        ("/api/v1/enterprise-managers/default/pause", {"run": 1}, {}),
    ],
)
def test_a_run_that_cannot_be_is_refused(
    guarded: Console, estate: Estate, path: str, body: dict[str, Any], parameters: dict[str, Any]
) -> None:
    """A program would think that it had named a run."""
    estate.end(order(estate), Outcome.FAILED)
    answer = guarded.client.post(path, json=body, params=parameters, headers=bearer("operate"))
    assert answer.status_code == 400
    assert [each["field"] for each in answer.json()["errors"]] == ["run"]


def test_a_field_that_is_there_twice_is_refused(guarded: Console, estate: Estate) -> None:
    """A program would steer another run than the one that its log names."""
    estate.end(order(estate), Outcome.FAILED)
    answer = guarded.client.post(f"{ITEM}/retry", content=b'{"run": 2, "run": 1}', headers=bearer("operate"))
    assert (answer.status_code, "repeated field" in answer.json()["detail"]) == (400, True)
