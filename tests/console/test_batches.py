"""Batches in the console: what has ended, what is under way, and what was never sent."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from contracts.events import Outcome
from tests.console.conftest import Console, Estate, bearer, served
from tests.console.test_dead_letters import HOSTILE
from tests.console.test_orders import WAIT, settings_of
from tests.console.test_orders import order as send
from tests.end_to_end.world import World, vendor_command
from tests.waiting import wait_until
from worker.clock import SystemClock
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, Behaviour
from worker.unlinks.ports.ledger import BatchKey, Lease, MemberEnd, NewMember

BATCH = "offboard/Scale-out 3"


@pytest.fixture
def steering(world: World, users_file: Path) -> Iterator[Console]:
    """The console beside a worker."""
    world.serve()
    with served(settings_of(world, users_file), SystemClock()) as console:
        yield console


def path_of(batch: str) -> str:
    """Where a batch is."""
    return base64.urlsafe_b64encode(batch.encode()).decode().rstrip("=")


def join(estate: Estate, lease: Lease, batch: str, size: int, sender: str) -> None:
    """Let a command join a batch."""
    member = NewMember(BatchKey("default", sender, batch), size, lease.key, "f" * 64)
    assert estate.work(lambda ledger: ledger.join(member)) is None


def order(estate: Estate, key: str, size: int, sender: str = "servicenow") -> Lease:
    """Take up a command of the batch."""
    lease = estate.order(key, user_id=sender, job={"name": f"Copy {key}"}, batch={"id": BATCH, "size": size})
    join(estate, lease, BATCH, size, sender)
    return lease


def end(estate: Estate, lease: Lease, outcome: Outcome) -> None:
    """End it."""
    estate.end(lease, outcome)
    estate.work(lambda ledger: ledger.end_members(lease.key))


def reject(estate: Estate, key: str, size: int) -> None:
    """Reject a command of the batch."""
    member = NewMember(BatchKey("default", "servicenow", BATCH), size, key, None)
    rejection = MemberEnd(key, Outcome.REJECTED, "event-of-rejection", estate.clock.now())
    estate.work(lambda ledger: ledger.count_rejected(member, rejection, given_up=False))


def test_a_batch_is_had_with_its_members(console: Console, estate: Estate) -> None:
    """A pipeline could not tell whether its batch is whole, and which of it failed."""
    end(estate, order(estate, "a", 5), Outcome.SUCCEEDED)
    end(estate, order(estate, "b", 5), Outcome.FAILED)
    order(estate, "c", 5)
    reject(estate, "d", 5)
    order(estate, "e", 1, sender="jira")
    href = f"/api/v1/batches/{path_of(BATCH)}"
    found = console.get(href, params={"limit": 3}).json()
    assert (found["id"], found["href"]) == (BATCH, href)
    jira, servicenow = found["batches"]
    assert (jira["sender"], jira["missing"], jira["under_way"], jira["ended"]) == ("jira", 0, 1, {})
    assert (servicenow["size"], servicenow["missing"], servicenow["under_way"]) == (5, 1, 1)
    assert servicenow["ended"] == {"succeeded": 1, "failed": 1, "rejected": 1}
    assert [(each["idempotency_key"], each["outcome"]) for each in found["members"]] == [
        ("e", None),
        ("a", "succeeded"),
        ("b", "failed"),
    ]
    assert console.get(found["members"][1]["href"]).json()["outcome"] == "succeeded"
    rest = console.get(found["next"]).json()
    assert [each["idempotency_key"] for each in rest["members"]] == ["c", "d"]
    assert (rest["members"][1]["href"], rest["next"]) == (None, None)


def test_what_is_no_batch_is_said(console: Console) -> None:
    """A program would take a typing mistake for a batch without members."""
    assert console.get(f"/api/v1/batches/{path_of('nothing')}").status_code == 404
    assert console.get("/api/v1/batches/!!!").status_code == 404
    assert console.get(f"/batches/{path_of('nothing')}").status_code == 404
    assert console.get(f"/api/v1/batches/{path_of(BATCH)}?cursor=nonsense").status_code == 400


def test_a_batch_is_followed_to_its_end(browse: Callable[..., Page], estate: Estate) -> None:
    """Who offboards a repository would have to add up its unlinks."""
    lease = order(estate, "a", 2)
    page = browse(f"/unlinks/{path_of('a')}")
    page.get_by_role("link", name=BATCH).click()
    expect(page.get_by_role("heading", level=2)).to_contain_text("default, sent by servicenow: 0 of 2 ended")
    expect(page.locator("main")).to_contain_text("1: no worker has received it yet")
    end(estate, lease, Outcome.SUCCEEDED)
    reject(estate, "b", 2)
    expect(page.get_by_role("heading", level=2)).to_contain_text("all 2 ended")
    expect(page.locator("tbody tr", has_text="Copy a")).to_contain_text("succeeded")
    assert page.locator("#batch").get_attribute("hx-get") is None
    page.get_by_role("link", name="Copy a").click()
    expect(page.locator(".lead")).to_contain_text("succeeded")


def test_what_others_wrote_is_text(console: Console, estate: Estate) -> None:
    """Else a script in a job's name would run in the browser of the person who looks at the batch."""
    lease = estate.order("a", job={"name": HOSTILE}, repository={"name": HOSTILE}, batch={"id": BATCH, "size": 1})
    join(estate, lease, BATCH, 1, "servicenow")
    estate.work(lambda ledger: ledger.join(NewMember(BatchKey("default", HOSTILE, BATCH), 1, "b", "f" * 64)))
    page = console.get(f"/batches/{path_of(BATCH)}").text
    assert "<img" not in page
    assert page.count("&lt;img") >= 3


def test_what_failed_of_a_batch_is_retried_at_once(steering: Console, world: World, behaviour: Behaviour) -> None:
    """Somebody would have to open each of a hundred unlinks to press its button, or retry those of others."""
    behaviour.running_job = "task_fails"
    world.enterprise_manager.set_running(VENDOR_JOB_ID, running=True)
    batch: dict[str, Any] = {"id": "offboard/OPS-1", "size": 2}
    page = f"/batches/{path_of('offboard/OPS-1')}"
    assert send(steering, vendor_command("CHG1", batch=batch), **WAIT).json()["event"]["data"]["outcome"] == "failed"
    absent = {"link_id": "ffffffff-1111-4000-8000-000000000000"}
    assert send(steering, vendor_command("CHG2", batch=batch, repository=absent), **WAIT).status_code == 200
    world.send(vendor_command("CHG3", batch=batch | {"size": 1}))  # of another sender
    world.until_ended("CHG3")

    def shown(role: str) -> str:
        return steering.get(page, headers=bearer(role)).text

    wait_until(lambda: "Retry 2 that did not succeed" in shown("operate"))
    assert "Retry 1 that did not succeed" in shown("submit")
    assert "that did not succeed" not in shown("read")
    assert steering.client.post(f"{page}/retry", headers=bearer("read")).status_code == 403
    world.enterprise_manager.set_running(VENDOR_JOB_ID, running=False)
    pressed = steering.client.post(f"{page}/retry", headers=bearer("submit"))
    assert (pressed.status_code, pressed.headers["location"].startswith(f"{page}?asked=retry&at=")) == (303, True)

    def ended() -> dict[str, dict[str, int]]:
        found = steering.get(f"/api/v1{page}", headers=bearer("read")).json()
        return {each["sender"]: each["ended"] for each in found["batches"]}

    wait_until(lambda: ended()["console:submit-program"] == {"succeeded": 2})
    assert ended() == {"console:submit-program": {"succeeded": 2}, "unlink": {"failed": 1}}
    assert steering.client.post(f"{page}/retry", headers=bearer("submit")).status_code == 409
