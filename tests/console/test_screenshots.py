"""Screenshots of all pages in both themes: those in the documentation are made by this test, on demand."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from contracts.events import Outcome
from tests.console.conftest import LINK, Console, Estate, bearer, browsing, served, sign_in
from tests.console.test_batches import end, join
from tests.console.test_offboardings import account_of
from tests.console.test_orders import settings_of
from tests.end_to_end.world import World, vendor_command
from tests.waiting import wait_until
from worker.clock import SystemClock

#: With this in the environment, the documentation's own are made anew.
RENEW = "RENEW_SCREENSHOTS"
FOLDER = Path(__file__).parents[2] / "docs" / "console"

VIEWS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1100, "height": 760}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1100, "height": 760}},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
}

#: The pages of who may do everything, by the name of their picture.
PAGES = {
    "overview": "/",
    "unlinks": "/unlinks",
    "unlink": "/unlinks/Q0hHMDAzMDE5MQ",
    "failed": "/unlinks/Q0hHMDAzMDE5Mg",
    "batch": "/batches/ZGVyaXZlZDo0YTE3",
    "enterprise-managers": "/enterprise-managers",
    "order": "/enterprise-managers/default",
    "dead-letters": "/dead-letters?read=true",
    "problem": "/nowhere",
}


def furnish(estate: Estate) -> None:
    """What a day leaves behind."""
    for number, (job, repository, outcome) in enumerate(
        [
            ("Copy to Frankfurt", "Scale-out 3", Outcome.SUCCEEDED),
            ("Copy to Vienna", "Scale-out 1", Outcome.FAILED),
            ("Copy to Zurich", "ReFS Munich", Outcome.SUCCEEDED),
            ("Copy to Amsterdam", "Scale-out 2", Outcome.CANCELLED),
            ("Copy to Lyon", "NAS Lyon", Outcome.TIMED_OUT),
            ("Copy of SQL Servers", "Hardened Linux 1", None),
        ]
    ):
        lease = estate.order(
            f"CHG003019{number + 1}",
            job={"name": job},
            repository={"name": repository},
            ticket={"system": "jira", "id": f"OPS-471{number}", "url": f"https://jira.example.com/OPS-471{number}"},
            requested_by="j.doe@example.com",
            reason="Repository is decommissioned",
        )
        if number != 5:
            estate.send(lease, job, replace(LINK, repository_name=repository))
        if outcome is Outcome.SUCCEEDED:
            estate.end(
                lease, outcome, summary=f"The link of {repository} to {job} is gone.", evidence="task", verified=True
            )
        elif outcome is not None:
            reason = {"code": "task_failed", "message": "The job is being edited by another session."}
            estate.end(lease, outcome, summary=f"The link of {repository} to {job} is still there.", reason=reason)
    furnish_batch(estate)
    estate.report_status(in_flight=1)


def furnish_batch(estate: Estate) -> None:
    """A repository that is being offboarded."""
    batch, size, sender = "derived:4a17", 5, "console:j.doe"
    ends = (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.SUCCEEDED, None)
    for number, (city, outcome) in enumerate(zip(("Frankfurt", "Vienna", "Zurich", "Lyon"), ends, strict=True)):
        job, repository = f"Copy to {city}", {"name": "Scale-out 3"}
        lease = estate.order(
            f"derived:b{number}",
            user_id=sender,
            job={"name": job},
            repository=repository,
            batch={"id": batch, "size": size},
        )
        join(estate, lease, batch, size, sender)
        if outcome is not None:
            estate.send(lease, job)
            end(estate, lease, outcome)


@pytest.fixture
def steering(world: World, estate: Estate, users_file: Path) -> Iterator[Console]:
    """The console beside a worker, with a broker, dead letters, and an account on its Enterprise Manager."""
    world.serve()
    for body in (b"nonsense", vendor_command("CHG0030197", dryrun=True), vendor_command("CHG0030198", dryrun=True)):
        world.send(body)
    world.until(lambda: world.client.count("unlink.dead") == 3, "three dead letters")
    em = world.enterprise_manager
    retired, kept = em.add_repository(name="Scale-out 3"), em.add_repository(name="Scale-out 1")
    backups = {"Frankfurt": 0, "Lyon": 0, "Vienna": 2}
    for number, (city, count) in enumerate(backups.items()):
        linked = [str(uuid.UUID(int=16 * number + each)) for each in range(count)]
        em.add_job(name=f"Copy to {city}", links=[retired, kept], linked_backups=linked)
    furnish(estate)
    with served(settings_of(world, users_file, enterprise_managers=account_of(world)), SystemClock()) as console:
        yield console


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_of_a_user_can_be_read(
    steering: Console, world: World, estate: Estate, chromium: Browser, tmp_path: Path, view: str
) -> None:
    """Who reads by a screen reader, in the dark or on a phone would miss a part of it."""
    folder = FOLDER if os.environ.get(RENEW) and view != "phone" else tmp_path
    with browsing(chromium, steering) as browse:
        page = browse("/login", **VIEWS[view])

        def look(name: str) -> None:
            picture = folder / f"{name}-{view}.png"
            page.screenshot(path=picture, full_page=True)
            assert picture.stat().st_size > 2_000
            found = Axe().run(page)
            assert found.violations_count == 0, f"{name}: {found.generate_report()}"
            widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert widths[0] <= widths[1], f"{name} is wider than the screen"

        look("login")
        sign_in(page, "operateer")
        for name, job, repository, heading in (
            ("links", "Copy to Frankfurt", "", "Links of Copy to Frankfurt"),
            ("plan", "Copy to Frankfurt", "Scale-out 3", "Plan"),
            ("offboarding", "", "Scale-out 3", "Plan: unlink"),
        ):
            page.goto("/enterprise-managers/default")
            page.get_by_label("Backup copy job").fill(job)
            page.get_by_label("Repository").fill(repository)
            page.get_by_role("button", name="Show the plan").click()
            expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
            look(name)
        # What a worker says of itself names its host.
        world.workers[0].stop()
        for number in range(2):
            world.send(vendor_command(f"CHG003020{number}"))
        managers = "/api/v1/enterprise-managers"
        wait_until(lambda: steering.get(managers, headers=bearer("read")).json()["items"][0]["waiting"] == 2)
        for name, path in PAGES.items():
            estate.report_status(in_flight=1)
            page.goto(path)
            look(name)
