"""Forms keep what was typed, and act on what their page has shown."""

from __future__ import annotations

import html
import re
from types import SimpleNamespace
from typing import Any

import pytest

from tests.console.conftest import JOB_ID, LINK, Console, Estate
from tests.console.test_users import csrf_of, log_in
from worker.console.managers import _by_repository
from worker.console.rendering import render
from worker.console.users import Caller, Role
from worker.ledger import Inspection

GIVEN = {
    "job": "Copy & <more>",
    "repository": "Scale-out 3/ü",
    "ticket_system": "jira",
    "ticket_id": "OPS-4711",
    "reason": "It is old + full?",
}
SCOPE: dict[str, Any] = {"state": {"caller": Caller("operateer", Role.OPERATE, "127.0.0.1", "token")}}
LINKED = SimpleNamespace(job=SimpleNamespace(id=JOB_ID, name="Copy to Frankfurt"), link=LINK)
CATALOGUE = SimpleNamespace(missing=())
PAGES: dict[str, dict[str, Any]] = {
    "plan.html": {"plan": None, "to_change": GIVEN},
    "links.html": {"links": [LINKED], "backups": ()},
    "offboarding.html": {
        "plan": SimpleNamespace(catalogue=CATALOGUE, digest="0"),
        "links": [(LINKED, ())],
        "counts": SimpleNamespace(links=1, jobs=1, linked_backups_at_risk=0),
    },
}


def page_of(template: str) -> str:
    """One of the pages that follow the form."""
    values = PAGES[template]
    answer = render(SCOPE, template, page="managers", title="Plan", name="default", given=GIVEN, **values)
    return bytes(answer.body).decode()


@pytest.mark.parametrize("template", PAGES)
def test_what_was_given_can_be_changed(guarded: Console, template: str) -> None:
    """Who has mistyped one field would have to type all five again."""
    (leads,) = re.findall(r'class="back"><a href="([^"]+)"', page_of(template))
    log_in(guarded, "operateer")
    form = guarded.get(html.unescape(leads)).text
    for name, value in GIVEN.items():
        assert f'name="{name}" value="{html.escape(value)}"' in form


def test_a_link_is_not_taken_for_a_repository() -> None:
    """The form takes a repository by name or UID: with the ID of a link in it, no repository would be found."""
    plan = {"repository": {"uid": "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec", "name": "Scale-out 3"}}
    given = GIVEN | {"repository": LINK.object_in_job_id}
    assert _by_repository(given, plan) == GIVEN | {"repository": "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"}
    assert _by_repository(given, {"repository": {"uid": None, "name": "x"}})["repository"] == "x"
    assert _by_repository(given, None)["repository"] == ""


@pytest.mark.parametrize("template", ["links.html", "offboarding.html"])
def test_each_link_has_its_own_plan(template: str) -> None:
    """Who wants one of the links of a repository gone would have to go to its job first."""
    (form,) = re.findall(r'<form action="/enterprise-managers/default/plan".*?</form>', page_of(template), re.DOTALL)
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))
    assert fields == {
        "csrf": "token",
        "job": JOB_ID,
        "repository": LINK.object_in_job_id,
        "by": "link",
        "ticket_system": "jira",
        "ticket_id": "OPS-4711",
        "reason": "It is old + full?",
    }
    assert "Show the plan" in form


def press(console: Console, action: str, page: str, **fields: str) -> tuple[int, str]:
    """Press the button of a page that was loaded some time ago."""
    (seen,) = re.findall(r'name="paused_at" value="([^"]*)"', page)
    form = {"csrf": csrf_of(console), "paused_at": seen, **fields}
    answer = console.client.post(f"/enterprise-managers/default/{action}", data=form, headers={"Origin": console.url})
    return answer.status_code, answer.text


def test_an_old_button_ends_or_replaces_no_other_pause(guarded: Console, estate: Estate) -> None:
    """Somebody's maintenance would be disturbed by unlinks; or its name and reason replaced."""
    log_in(guarded, "operateer")
    inspection = Inspection(estate.settings, estate.clock)
    old = guarded.get("/enterprise-managers").text
    inspection.pause("default", "j.doe", "upgrade")
    status, text = press(guarded, "pause", old, reason="mine")
    assert (status, "j.doe has paused it at" in text, "upgrade" in text) == (409, True, True)
    inspection.resume("default")
    status, _ = press(guarded, "pause", old, reason="mine")
    assert status == 303
    mine = guarded.get("/enterprise-managers").text
    inspection.pause("default", "j.doe", "again")
    status, text = press(guarded, "resume", mine)
    assert (status, "again" in text) == (409, True)
    assert [each.paused_by for each in inspection.pauses()] == ["j.doe"]
    inspection.resume("default")
    status, text = press(guarded, "resume", mine)
    assert (status, "it has been resumed" in text) == (409, True)


def test_a_fresh_button_pauses_and_resumes(guarded: Console, estate: Estate) -> None:
    """Nobody could resume: the time in the page would be written in another form than the ledger's."""
    log_in(guarded, "operateer")
    inspection = Inspection(estate.settings, estate.clock)
    assert press(guarded, "pause", guarded.get("/enterprise-managers").text)[0] == 303
    assert len(inspection.pauses()) == 1
    assert press(guarded, "resume", guarded.get("/enterprise-managers").text)[0] == 303
    assert inspection.pauses() == ()


def fields_of(page: str) -> dict[str, str]:
    """The hidden fields of a page's only form in the main part."""
    main = page[page.index("<main") :]
    return {name: html.unescape(value) for name, value in re.findall(r'name="([^"]+)" value="([^"]*)"', main)}


def test_what_was_typed_outlives_the_session(guarded: Console) -> None:
    """Who thinks about a plan until their session is over would have to type everything again."""
    log_in(guarded, "operateer")
    form = {"reason": 'Copy \u202ex & "more"', "csrf": csrf_of(guarded)}
    path, own = "/enterprise-managers/default/pause", {"Origin": guarded.url}
    guarded.client.cookies.clear()
    over = guarded.client.post(path, data=form, headers=own)
    assert over.status_code == 401
    assert "not signed in any more" in over.text
    assert '<a href="/login" target="_blank">' in over.text
    assert f'action="{path}"' in over.text
    # In the other tab they sign in, and come back.
    log_in(guarded, "operateer")
    old = guarded.client.post(path, data=fields_of(over.text), headers=own)
    assert (old.status_code, "signed in as operateer" in old.text) == (403, True)
    assert '"paused"' not in guarded.get("/enterprise-managers").text
    done = guarded.client.post(path, data=fields_of(old.text), headers=own)
    assert done.status_code == 303
    (manager,) = guarded.get("/api/v1/enterprise-managers").json()["items"]
    assert (manager["paused"]["paused_by"], manager["paused"]["reason"]) == ("operateer", form["reason"])


@pytest.mark.parametrize("origin", ["https://evil.example", "null", None])
def test_another_site_cannot_have_its_form_offered(guarded: Console, origin: str | None) -> None:
    """A click on the button would carry out what another site has written."""
    headers = {} if origin is None else {"Origin": origin}
    for signed_in in (False, True):
        if signed_in:
            log_in(guarded, "operateer")
        for path in ("/enterprise-managers/default/pause", "//evil.example/x"):
            answer = guarded.client.post(path, data={"reason": "mine"}, headers=headers)
            assert answer.status_code in {401, 403}
            assert "mine" not in answer.text


def test_a_form_is_offered_to_this_console_alone(guarded: Console) -> None:
    """A path that begins with two slashes leads to another host."""
    answer = guarded.client.post(guarded.url + "//evil.example/x", data={"a": "b"}, headers={"Origin": guarded.url})
    assert answer.status_code == 401
    assert 'action="/"' in answer.text


def test_a_program_is_offered_no_form(guarded: Console) -> None:
    """It would be sent HTML, and its order be repeated by nobody."""
    answer = guarded.client.post("/api/v1/unlinks", data={"a": "b"}, headers={"Origin": guarded.url})
    assert (answer.status_code, answer.json()["detail"]) == (401, "Sign in, or send a token.")
