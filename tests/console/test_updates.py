"""A page that updates itself leaves its reader where they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from contracts.events import Outcome
from tests.console.conftest import Console, Estate, browsing, sign_in
from tests.console.test_batches import join

Browse = Callable[..., Page]

_FOCUSABLE = "main :is(a[href], button, summary, [tabindex='0'])"

_PHONE = {"viewport": {"width": 360, "height": 480}}

_BATCH = {"id": "OPS-1", "size": 3}


def opened(browse: Browse, path: str, **options: Any) -> Page:
    """A page whose clock the test moves."""
    page = browse("/static/icon.svg", **options)
    page.clock.install()
    page.goto(path)
    page.evaluate("addEventListener('htmx:afterSettle', () => { window.updates = (window.updates || 0) + 1 })")
    return page


def update(page: Page) -> None:
    """Let the page update itself, once."""
    before = page.evaluate("window.updates || 0")
    page.clock.fast_forward(5_500)
    page.wait_for_function("before => (window.updates || 0) > before", arg=before)


def place(page: Page, selector: str) -> int:
    """How far from the top of the window an element is, in pixels."""
    top: float = page.locator(selector).evaluate("element => element.getBoundingClientRect().top")
    return round(top)


@pytest.mark.parametrize("path", ["/", "/unlinks/Q0hHMQ", "/batches/T1BTLTE"])
def test_the_focus_stays(browse: Browse, estate: Estate, path: str) -> None:
    """Who uses the keyboard or a screen reader would be sent to the start of the page every few seconds."""
    ticket = {"system": "jira", "id": "OPS-4711", "url": "https://jira.example.com/OPS-4711"}
    join(estate, estate.order("CHG1", ticket=ticket, batch=_BATCH), "OPS-1", 3, "servicenow")
    join(estate, estate.order("CHG2", batch=_BATCH), "OPS-1", 3, "servicenow")
    page = opened(browse, path)
    everything = page.locator(f"[hx-get] {_FOCUSABLE.removeprefix('main ')}")
    count = everything.count()
    assert count > 1
    for number in range(count):
        everything.nth(number).focus()
        update(page)
        expect(everything.nth(number)).to_be_focused()


def test_the_focus_moves_to_no_other_button(guarded: Console, estate: Estate, chromium: Browser) -> None:
    """Who is about to cancel a run that fails in that second would start the next one."""
    lease = estate.order("CHG1")
    with browsing(chromium, guarded) as browse:
        page = browse("/")
        sign_in(page, "operateer")
        page.goto("/unlinks/Q0hHMQ")
        page.get_by_role("button", name="Cancel").focus()
        estate.end(lease, Outcome.FAILED)
        retry = page.get_by_role("button", name="Retry")
        expect(retry).to_be_visible()
        expect(retry).not_to_be_focused()


def test_what_is_read_stays_in_its_place(browse: Browse, estate: Estate) -> None:
    """The line that is read would move away, and a click would meet another one."""
    page = opened(browse, "/", **_PHONE)
    page.locator("#workers").evaluate("element => element.scrollIntoView()")
    before = place(page, "#workers")
    estate.report_status(up=False)
    update(page)
    expect(page.locator("main")).to_contain_text("cannot be reached")
    assert place(page, "#workers") == before
    page.locator("#ended").evaluate("element => scrollTo(0, 0)")
    estate.report_status(up=True)
    update(page)
    assert page.evaluate("scrollY") == 0


def test_what_has_the_focus_stays_in_its_place(browse: Browse, estate: Estate) -> None:
    """As above; the eye is on it, wherever in the window it is."""
    page = opened(browse, "/", **_PHONE)
    table = "[aria-label='Table of workers']"
    page.locator(table).focus()
    page.evaluate("scrollBy(0, -40)")
    before = place(page, table)
    assert before > 0
    estate.report_status(up=False)
    update(page)
    expect(page.locator("main")).to_contain_text("cannot be reached")
    assert place(page, table) == before


def test_opened_details_stay_open(browse: Browse, estate: Estate) -> None:
    """Who reads an event while a retry waits would have it closed every two seconds."""
    estate.end(estate.order("CHG1"))
    page = opened(browse, f"/unlinks/Q0hHMQ?asked=retry&run=1&at={int(time.time())}")
    page.get_by_text("as it was published").click()
    update(page)
    expect(page.locator("#raw-event")).to_be_visible()


def test_a_selected_text_stays_selected(browse: Browse, estate: Estate) -> None:
    """Who copies an ID from a running unlink would have two seconds for it."""
    lease = estate.order("CHG1")
    page = opened(browse, "/unlinks/Q0hHMQ")
    key = page.locator("dd.code", has_text="CHG1")
    key.evaluate("element => getSelection().selectAllChildren(element)")
    estate.send(lease)
    page.clock.fast_forward(2_500)
    with page.expect_response("**part=true**"):
        page.clock.fast_forward(2_500)
    expect(page.get_by_text("not updated while a text of it is selected")).to_be_visible()
    assert page.evaluate("String(getSelection())") == "CHG1"
    page.evaluate("getSelection().removeAllRanges()")
    update(page)
    expect(page.locator(".steps li")).to_have_count(3)
