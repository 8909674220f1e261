"""The pages, as a person sees them in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import make_url

from contracts.events import Outcome
from tests.console.conftest import TRACE_ID, Console, Estate
from worker.ledger import Inspection

Browse = Callable[..., Page]

#: What the pages are looked at in.
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
}


@pytest.mark.smoke
def test_an_unlink_is_found_by_its_ticket_and_followed_to_its_end(browse: Browse, estate: Estate) -> None:
    """Who has the ticket would have to ask an administrator what became of it."""
    lease = estate.order(
        "CHG1", ticket={"system": "jira", "id": "OPS-4711", "url": "https://jira.example.com/OPS-4711"}
    )
    estate.order("CHG2", ticket={"system": "jira", "id": "OPS-1"}, job={"name": "Copy to Vienna"})
    page = browse("/unlinks")
    page.get_by_label("Ticket").fill("ops-4711")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    assert "ticket=ops-4711" in page.url
    page.get_by_role("link", name="Copy to Frankfurt").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Scale-out 3 from Copy to Frankfurt")
    expect(page.get_by_role("link", name="OPS-4711")).to_have_attribute("href", "https://jira.example.com/OPS-4711")
    expect(page.locator(".steps li")).to_have_count(1)
    expect(page.locator("main")).to_contain_text(f"lines with trace_id {TRACE_ID}")
    estate.send(lease)
    expect(page.locator(".steps li")).to_have_count(3)
    estate.end(lease)
    expect(page.locator(".lead")).to_contain_text("succeeded It succeeded.")
    expect(page.locator(".steps li").last).to_contain_text("ended: succeeded")
    # Nothing is asked for any more once it has ended.
    expect(page.locator("#unlink")).not_to_have_attribute("hx-get", "/")
    assert page.locator("#unlink").get_attribute("hx-get") is None


def test_the_overview_updates_by_itself(browse: Browse, estate: Estate) -> None:
    """A screen on the wall would show yesterday."""
    page = browse("/")
    under_way = page.locator("dt", has_text="Under way").locator("xpath=following-sibling::dd")
    expect(under_way).to_have_text("0")
    expect(page.locator("tbody tr", has_text="default")).to_contain_text("up")
    estate.order("CHG1")
    estate.report_status(up=False)
    expect(under_way).to_have_text("1")
    expect(page.locator("tbody tr", has_text="default")).to_contain_text("cannot be reached")
    page.get_by_role("link", name="Under way").click()
    expect(page.locator("tbody tr")).to_have_count(1)


def test_no_fault_of_an_enterprise_manager_hides_behind_another_state(browse: Browse, estate: Estate) -> None:
    """An outage during maintenance, or of one worker's network, would not be seen."""
    estate.report_status(worker="worker-b", up=False)
    for path in ("/", "/enterprise-managers"):
        page = browse(path)
        expect(page.locator("main")).to_contain_text("down for 1 of 2 workers")
        expect(page.locator("main")).to_contain_text("em.example.com:9398 cannot be reached")
    estate.report_status(up=False)
    Inspection(estate.settings, estate.clock).pause("default", "j.doe", "upgrade")
    for path in ("/", "/enterprise-managers"):
        page = browse(path)
        expect(page.locator("main")).to_contain_text("paused")
        expect(page.locator(".state.failed")).to_contain_text("down")


def test_an_open_page_says_that_it_cannot_be_updated_and_recovers(
    chromium: Browser, console: Console, estate: Estate
) -> None:
    """A screen on the wall would show the state of an hour ago, and nobody see that it does."""
    file = Path(str(make_url(estate.settings.url.get_secret_value()).database))
    # Not by `browse`: here the browser has something to complain of.
    page = chromium.new_context(base_url=console.url).new_page()
    page.goto("/")
    note = page.locator("#stale", has_text="cannot be updated now")
    expect(note).to_have_count(0)
    away = file.rename(file.with_suffix(".away"))
    expect(note).to_be_visible()
    away.rename(file)
    expect(note).to_have_count(0)
    page.context.close()


def test_times_are_in_the_readers_zone_with_the_exact_one_at_hand(browse: Browse, estate: Estate) -> None:
    """Two people would compare times of two zones."""
    estate.order("CHG1")
    page = browse("/unlinks")
    time = page.locator("tbody time")
    exact = str(time.get_attribute("datetime"))
    assert exact.endswith("Z")
    assert str(time.get_attribute("title")).endswith("UTC")
    local = page.evaluate("text => new Date(text).toLocaleTimeString('en-GB', {timeStyle: 'medium'})", exact)
    expect(time).to_contain_text(local)


def test_a_command_is_shown_with_all_that_it_says(browse: Browse, estate: Estate) -> None:
    """A command for tonight would look as if it hung; and nobody find it by what its sender knows it by."""
    labels = {"site": "Vienna", "team": "backup"}
    times = {"not_before": "2026-03-01T22:00:00+01:00", "not_after": "2026-03-02T04:00:00+01:00"}
    estate.order("CHG1", correlation_id="run 7", labels=labels, **times)
    page = browse("/unlinks/Q0hHMQ")
    asked = page.locator("section", has=page.locator("#asked"))
    for text in ("Not before", "Not after", "site: Vienna, team: backup", "run 7"):
        expect(asked).to_contain_text(text)
    local = page.evaluate("text => new Date(text).toLocaleString('en-GB', {dateStyle: 'medium'})", times["not_before"])
    expect(asked.locator("time", has_text=local)).to_have_count(2)


def test_a_wrong_search_is_shown_to_be_corrected(browse: Browse) -> None:
    """A typing mistake would look like an empty ledger, or lose what was typed."""
    page = browse("/unlinks?since=yesterday&ticket=OPS-1")
    expect(page.get_by_role("alert")).to_contain_text("correct the fields that are marked")
    expect(page.get_by_label("Since")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Since")).to_have_value("yesterday")
    expect(page.get_by_label("Ticket")).to_have_value("OPS-1")


HOSTILE = "<img src=x onerror=alert(1)>\"'><script>alert(1)</script>{{7*7}}\u202e"


def test_what_others_wrote_is_text(browse: Browse, estate: Estate) -> None:
    """Else a script in a command would run in the browser of the person who looks at it."""
    ticket = {"system": HOSTILE, "id": HOSTILE, "url": "javascript:alert(1)"}
    job, repository = {"name": HOSTILE}, {"name": HOSTILE}
    lease = estate.order("CHG1", job=job, repository=repository, requested_by=HOSTILE, reason=HOSTILE, ticket=ticket)
    estate.end(lease, Outcome.FAILED, summary=HOSTILE, reason={"code": "task_failed", "message": HOSTILE})
    page = browse("/unlinks")
    page.on("dialog", lambda _: pytest.fail("a script ran"))
    page.locator("tbody a").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(HOSTILE[:20])
    assert page.locator("main img, main script").count() == 0
    assert page.locator("a[href^=javascript]").count() == 0
    assert "49" not in page.locator("h1").inner_text()


def test_the_keyboard_is_enough(browse: Browse, estate: Estate) -> None:
    """Who uses no mouse could not search."""
    estate.order("CHG1")
    page = browse("/unlinks")
    page.keyboard.press("/")
    expect(page.get_by_label("Ticket")).to_be_focused()
    page.keyboard.type("nothing-has-this")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_contain_text("No unlink meets all of these")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_can_be_read(browse: Browse, estate: Estate, console: Console, view: str) -> None:
    """Who reads by a screen reader, in the dark or on a phone would miss a part of it."""
    estate.end(estate.order("CHG1", ticket={"system": "jira", "id": "OPS-1"}))
    estate.end(estate.order("CHG2", job={"name": "A job with a name that is long " * 6}), Outcome.FAILED)
    estate.order("CHG3", repository={"name": "W" * 200})
    href = console.get("/api/v1/unlinks?in_flight=true").json()["items"][0]["href"].removeprefix("/api/v1")
    for path in ("/", "/unlinks", "/unlinks?since=x", "/unlinks?ticket=none", href, "/nowhere"):
        page = browse(path, **VIEWS[view])
        found = Axe().run(page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
        widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert widths[0] <= widths[1], f"{path} is wider than the screen"
        page.context.close()


def test_the_exact_time_is_had_without_a_mouse(browse: Browse, estate: Estate) -> None:
    """On a phone, or by the keyboard, nobody could compare a time with a line of the log."""
    estate.order("CHG1")
    page = browse("/unlinks/Q0hHMQ")
    time = page.locator(".steps time").first
    switch = page.get_by_role("button", name="Times in UTC")
    exact = time.get_attribute("title")
    assert exact is not None
    expect(time).not_to_have_text(exact)
    switch.focus()
    page.keyboard.press("Enter")
    expect(time).to_have_text(exact)
    expect(switch).to_have_attribute("aria-pressed", "true")
    page.reload()  # remembered
    expect(time).to_have_text(exact)
    page.get_by_role("button", name="Times in UTC").click()
    expect(time).not_to_have_text(exact)


def test_the_end_of_an_unlink_is_announced(browse: Browse, estate: Estate) -> None:
    """Who cannot see the page would not learn that the unlink they follow has ended (WCAG 4.1.3)."""
    lease = estate.order("CHG1")
    page = browse("/unlinks/Q0hHMQ")
    status = page.locator("#announced[aria-live=polite]")
    expect(status).to_have_text("")
    kept = status.element_handle()
    estate.end(lease)
    expect(status).to_have_text("succeeded: It succeeded.")
    # The same element: one that comes with its text is not announced by every screen reader.
    assert kept.evaluate("element => element.isConnected")


def test_the_key_that_goes_to_the_search_can_be_switched_off(browse: Browse) -> None:
    """Who dictates would be thrown to another place by a word (WCAG 2.1.4); with Ctrl, a key is the browser's."""
    page = browse("/unlinks")
    field = page.get_by_label("Ticket")
    page.keyboard.press("Control+/")
    page.keyboard.press("Alt+/")
    expect(field).not_to_be_focused()
    page.keyboard.press("/")
    expect(field).to_be_focused()
    switch = page.get_by_role("button", name="Shortcut")
    switch.click()
    page.keyboard.press("/")
    expect(switch).to_be_focused()
    page.reload()  # remembered
    page.keyboard.press("/")
    expect(field).not_to_be_focused()
