"""Enterprise Managers: paused and resumed; an unlink ordered after its plan was seen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.console.conftest import Console, Estate, bearer, browsing, served, sign_in
from tests.console.test_orders import settings_of
from tests.end_to_end.world import World, vendor_command
from tests.waiting import wait_until
from worker.clock import SystemClock
from worker.console.managers import _pause  # a request of HTTP cannot be cut off at a certain moment
from worker.console.readings import Readings
from worker.console.users import Caller, Role
from worker.ledger import Inspection
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_REPOSITORY_NAME,
    VENDOR_REPOSITORY_UID,
    LinkedBackup,
    LinkedRepository,
)

PAUSE = "/api/v1/enterprise-managers/default/pause"
RESUME = "/api/v1/enterprise-managers/default/resume"


def paused(console: Console) -> object:
    """What the API says of it."""
    (manager,) = console.get("/api/v1/enterprise-managers", headers=bearer("read")).json()["items"]
    return manager["paused"] and (manager["paused"]["paused_by"], manager["paused"]["reason"])


def test_a_program_pauses_and_resumes(guarded: Console) -> None:
    """Maintenance by a pipeline would need the workers' settings."""
    answer = guarded.client.post(PAUSE, headers=bearer("operate"), json={"reason": "upgrade"})
    assert (answer.status_code, answer.json()) == (200, {"name": "default", "paused": True})
    assert paused(guarded) == ("operate-program", "upgrade")
    assert guarded.client.post(RESUME, headers=bearer("operate")).json() == {"name": "default", "paused": False}
    assert paused(guarded) is None


@pytest.mark.parametrize(
    ("path", "role", "body", "status"),
    [
        (PAUSE, "read", {}, 403),
        (PAUSE, "submit", {}, 403),
        (RESUME, "submit", {}, 403),
        (PAUSE.replace("default", "nobody"), "operate", {}, 404),
        (PAUSE.replace("default", "..%2F.."), "operate", {}, 404),
        (PAUSE.replace("default", "a.b"), "operate", {}, 400),
        (PAUSE, "operate", {"reason": 1}, 400),
        (PAUSE, "operate", {"raeson": "x"}, 400),
        (PAUSE, "operate", {"reason": "x" * 1001}, 400),
        (PAUSE, "operate", [], 400),
    ],
)
def test_what_may_not_be_is_refused(guarded: Console, path: str, role: str, body: object, status: int) -> None:
    """A slip of the pen, or a user without that right, would stop all unlinks."""
    assert guarded.client.post(path, headers=bearer(role), json=body).status_code == status
    assert paused(guarded) is None


def test_an_operator_pauses_and_resumes_by_button(guarded: Console, estate: Estate, chromium: Browser) -> None:
    """Maintenance would need a shell on a worker's host."""
    with browsing(chromium, guarded) as browse:
        page = browse("/enterprise-managers")
        sign_in(page, "operateer")
        page.get_by_label("Why it is paused").fill("<b>upgrade</b> to 13")
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("main")).to_contain_text("by operateer: <b>upgrade</b> to 13")
        estate.report_status()
        page.get_by_role("button", name="Resume").click()
        expect(page.get_by_role("button", name="Pause")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        sign_in(page, "reader")
        page.goto("/enterprise-managers")
        expect(page.get_by_role("button", name="Pause")).to_have_count(0)
        expect(page.get_by_role("link", name="Unlink a repository")).to_have_count(0)
        page.goto("/enterprise-managers/default")
        expect(page.get_by_role("alert")).to_contain_text("order nothing")


def test_a_pause_that_a_stop_cuts_off_is_written_down(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The database hangs, the console is stopped: the pause comes all the same, and nobody finds out whose it is."""
    entered, go_on = threading.Event(), threading.Event()

    def pause_later(*_: object) -> None:
        entered.set()
        assert go_on.wait(60)

    async def stopped() -> None:
        readings = Readings(estate.settings, None, estate.clock)
        caller = Caller("j.doe", Role.OPERATE, "192.0.2.7")
        monkeypatch.setattr(Inspection, "pause", pause_later)
        request = asyncio.create_task(_pause(readings, caller, "default", "upgrade"))
        assert await asyncio.to_thread(entered.wait, 60)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        go_on.set()
        readings.close()

    asyncio.run(stopped())
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "console.action" in line]
    for part in ("j.doe", "192.0.2.7", "action=pause", "default", "stopped before its end"):
        assert part in line


@pytest.fixture
def steering(world: World, users_file: Path) -> Iterator[Console]:
    """The console beside a worker, whose Enterprise Manager has a job with linked backups, too."""
    world.enterprise_manager.add_job(
        name="Copy to Vault",
        id="11111111-2222-4333-8444-555555555555",
        links=[LinkedRepository("22222222-2222-4333-8444-555555555555", VENDOR_REPOSITORY_UID)],
        linked_backups=[LinkedBackup("33333333-2222-4333-8444-555555555555", "44444444-2222-4333-8444-555555555555")],
    )
    world.serve()
    with served(settings_of(world, users_file), SystemClock()) as console:
        yield console


def test_what_waits_is_shown_while_no_worker_runs(world: World, users_file: Path) -> None:
    """When the workers stop, nobody would see that commands wait, or could pause before they start again."""
    world.serve()
    world.workers[0].stop()
    world.send(vendor_command())
    with served(settings_of(world, users_file), SystemClock()) as console:
        wait_until(lambda: managers_of(console) == [("default", 1, None)])
        page = console.get("/", headers=bearer("read")).text
        assert "</span> no worker</span>" in page
        assert "<dt>Waiting</dt><dd>1</dd>" in page
        assert console.client.post(PAUSE, headers=bearer("operate")).status_code == 200


def managers_of(console: Console) -> list[tuple[str, int, bool | None]]:
    """Each Enterprise Manager: its name, what waits, and whether it is up."""
    items = console.get("/api/v1/enterprise-managers", headers=bearer("read")).json()["items"]
    return [(each["name"], each["waiting"], each["up"]) for each in items]


def test_an_unlink_is_ordered_after_its_plan_was_seen(steering: Console, world: World, chromium: Browser) -> None:
    """A person would order blindly, or need a ticketing system."""
    with browsing(chromium, steering) as browse:
        page = browse("/enterprise-managers")
        sign_in(page, "submiter")
        page.get_by_role("link", name="Unlink a repository").click()
        page.get_by_role("button", name="Show the plan").click()
        expect(page.get_by_role("alert")).to_contain_text("correct the fields that are marked")
        page.get_by_label("Backup copy job").fill(VENDOR_JOB_ID)
        page.get_by_label("Repository").fill(VENDOR_REPOSITORY_NAME)
        page.get_by_label("Ticket", exact=True).fill("OPS-4711")
        page.get_by_label("Ticket system").fill("jira")
        page.get_by_role("button", name="Show the plan").click()
        expect(page.get_by_role("heading", level=2)).to_contain_text("would be removed")
        expect(page.locator("main")).to_contain_text("none at risk")
        world.listen_for(0.5)
        assert {event.outcome for event in world.received} == {"planned"}
        page.get_by_role("button", name="Order the unlink").click()
        expect(page.locator(".lead")).to_contain_text("succeeded")
        expect(page.locator("main")).to_contain_text("console:submiter")
        expect(page.locator("main")).to_contain_text("OPS-4711")


def test_linked_backups_at_risk_are_shown_and_need_consent(steering: Console, chromium: Browser) -> None:
    """Backups would be dropped that nobody knew of."""
    with browsing(chromium, steering) as browse:
        page = browse("/enterprise-managers/default?job=Copy%20to%20Vault")
        sign_in(page, "submiter")
        page.goto("/enterprise-managers/default?job=Copy%20to%20Vault")
        page.get_by_label("Repository").fill(VENDOR_REPOSITORY_NAME)
        page.get_by_role("button", name="Show the plan").click()
        expect(page.locator("main")).to_contain_text("drops its linked backups")
        order = page.get_by_role("button", name="Order the unlink")
        order.click()
        expect(order).to_be_visible()  # the browser asks for the consent
        page.get_by_label("Remove the linked backups, too").check()
        order.click()
        expect(page.locator(".lead")).to_contain_text("succeeded")


def test_a_plan_that_would_be_refused_orders_nothing(steering: Console, chromium: Browser) -> None:
    """A person would order what cannot be."""
    with browsing(chromium, steering) as browse:
        page = browse("/enterprise-managers/default?job=nowhere&repository=nothing")
        sign_in(page, "submiter")
        page.goto("/enterprise-managers/default?job=nowhere&repository=nothing")
        page.get_by_role("button", name="Show the plan").click()
        expect(page.locator("main")).to_contain_text("job_not_found")
        expect(page.get_by_role("button", name="Order the unlink")).to_have_count(0)
