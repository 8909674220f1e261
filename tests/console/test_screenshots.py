"""Screenshots of all pages in both themes: those in the documentation are made by this test, on demand."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from contracts.events import Outcome
from tests.console.conftest import LINK, Console, Estate, browsing, sign_in
from tests.console.test_batches import end, join

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
    "dead-letters": "/dead-letters",
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


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_of_a_user_can_be_read(
    guarded: Console, estate: Estate, chromium: Browser, tmp_path: Path, view: str
) -> None:
    """Who reads by a screen reader, in the dark or on a phone would miss a part of it."""
    furnish(estate)
    folder = FOLDER if os.environ.get(RENEW) and view != "phone" else tmp_path
    with browsing(chromium, guarded) as browse:
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
        for name, path in PAGES.items():
            page.goto(path)
            look(name)
