"""A repository is offboarded by API and by page: the plan first, then one batch of unlinks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.console.conftest import Console, bearer, browsing, served, sign_in
from tests.console.test_dead_letters import HOSTILE
from tests.console.test_orders import POLICY, settings_of
from tests.end_to_end.test_offboard import furnish
from tests.end_to_end.world import World
from tests.waiting import wait_until
from worker.clock import SystemClock
from worker.sandbox.simulated_enterprise_manager import Behaviour
from worker.settings import EnterpriseManagerSettings

LINKS = "/api/v1/enterprise-managers/default/links"
PLAN = "/enterprise-managers/default/plan"
PREFIX = "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__"


def account_of(world: World) -> dict[str, EnterpriseManagerSettings]:
    """The settings of an Enterprise Manager whose links the console may list."""
    given = {
        name.removeprefix(PREFIX).lower(): value for name, value in world.environment.items() if name.startswith(PREFIX)
    }
    return {"default": EnterpriseManagerSettings.model_validate(given)}


@pytest.fixture
def links(world: World) -> dict[str, str]:
    """The links to a repository that is retired, by job."""
    return furnish(world, 3)[0]


@pytest.fixture
def steering(world: World, links: dict[str, str], users_file: Path) -> Iterator[Console]:
    """The console beside a worker, with an account on its Enterprise Manager."""
    assert links
    world.serve()
    with served(settings_of(world, users_file, enterprise_managers=account_of(world)), SystemClock()) as console:
        yield console


def offboard(console: Console, role: str = "submit", **fields: Any) -> httpx.Response:
    """Order it by the API."""
    order = {"repository": {"name": "Retired"}, "ticket": {"system": "jira", "id": "OPS-1"}, **fields}
    return console.client.post("/api/v1/offboardings", json=order, headers=bearer(role))


def test_a_repository_is_offboarded_by_order(steering: Console, world: World, links: dict[str, str]) -> None:
    """A pipeline would have to find the links by itself, and might remove others than it had shown."""
    plan = offboard(steering, dry_run=True)
    assert plan.status_code == 200, plan.text
    assert {item["repository"]["link_id"] for item in plan.json()["items"]} == set(links.values())
    assert (plan.json()["jobs"], plan.json()["links"], plan.json()["linked_backups_at_risk"]) == (3, 3, 0)
    assert (plan.json()["unread"], plan.json()["ordered"]) == ([], 0)
    assert offboard(steering, plan="0" * 32).status_code == 409
    assert all(world.enterprise_manager.deletes_of(link) == 0 for link in links.values())
    answer = offboard(steering, plan=plan.json()["plan"])
    assert (answer.status_code, answer.json()["ordered"]) == (202, 3)
    assert answer.headers["location"] == plan.json()["href"]

    def ended() -> bool:
        batch = steering.get(answer.headers["location"], headers=bearer("read"))
        return batch.status_code == 200 and batch.json()["batches"][0]["ended"] == {"succeeded": 3}

    wait_until(ended)
    (batch,) = steering.get(answer.headers["location"], headers=bearer("read")).json()["batches"]
    assert batch["sender"] == "console:submit-program"
    again = offboard(steering)
    assert (again.status_code, again.json()["links"], again.json()["batch"]) == (200, 0, None)


def test_the_same_order_again_is_the_same_batch(
    steering: Console, world: World, behaviour: Behaviour, links: dict[str, str]
) -> None:
    """Who is interrupted would start a second batch, or remove a link twice."""
    behaviour.edits_held = True
    first, again = offboard(steering).json(), offboard(steering).json()
    assert first["batch"] == again["batch"]
    behaviour.edits_held = False
    wait_until(
        lambda: steering.get(first["href"], headers=bearer("read")).json()["batches"][0]["ended"] == {"succeeded": 3}
    )
    assert all(world.enterprise_manager.deletes_of(link) == 1 for link in links.values())


@pytest.mark.parametrize(
    ("role", "fields", "status"),
    [
        ("read", {}, 403),
        ("submit", {"repository": {"name": "Nowhere"}}, 404),
        ("submit", {"repository": {"link_id": "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"}}, 400),
        ("submit", {"repository": {}}, 400),
        ("submit", {"repositry": "Retired"}, 400),
        ("submit", {"enterprise_manager": "nobody"}, 404),
        ("submit", {"ticket": {"system": "jira"}}, 400),
    ],
)
def test_a_wrong_offboarding_is_refused(steering: Console, role: str, fields: dict[str, Any], status: int) -> None:
    """A slip of the pen would remove the links of a repository."""
    answer = offboard(steering, role, **fields)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize(
    "order",
    [
        b'{"repository": {"name": "Retired"}, "allow_linked_backups_removal": "yes"}',
        b'{"repository": {"name": "Retired"}, "dry_run": "off"}',
        b'{"repository": {"name": "Retired"}, "dry_run": 0}',
        b'{"repository": {"name": "Retired"}, "dry_run": true, "dry_run": false}',
        b'{"repository": {"name": "Kept", "name": "Retired"}}',
        b"[]",
        b"",
    ],
)
def test_what_is_no_offboarding_to_the_letter_is_refused(guarded: Console, order: bytes) -> None:
    """A text would be taken for consent to the loss of backups, or an order be made of a plan."""
    answer = guarded.client.post("/api/v1/offboardings", content=order, headers=bearer("submit"))
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


def test_the_policy_judges_each_link(world: World, links: dict[str, str], users_file: Path, tmp_path: Path) -> None:
    """Who may unlink one job could offboard the repositories of all."""
    file = tmp_path / "policy.toml"
    file.write_text(f'{POLICY}jobs = ["Copy 00[01]"]\n')
    world.serve({"UNLINK_POLICY_FILE": str(file)})
    settings = settings_of(world, users_file, policy_file=file, enterprise_managers=account_of(world))
    with served(settings, SystemClock()) as console:
        denied = offboard(console)
        assert (denied.status_code, "Copy 002" in denied.json()["detail"]) == (403, True)
    assert all(world.enterprise_manager.deletes_of(link) == 0 for link in links.values())


def test_links_are_listed_where_there_is_an_account(
    steering: Console, world: World, links: dict[str, str], users_file: Path
) -> None:
    """A program would need Enterprise Manager's password to see what can be unlinked."""
    of_job = steering.get(LINKS, params={"job": "Copy 001"}, headers=bearer("read")).json()
    assert {item["repository"]["name"] for item in of_job["items"]} == {"Kept", "Retired"}
    of_repository = steering.get(LINKS, params={"repository": "Retired"}, headers=bearer("read")).json()
    assert {item["repository"]["link_id"] for item in of_repository["items"]} == set(links.values())
    assert steering.get(LINKS, headers=bearer("read")).status_code == 400
    assert steering.get(LINKS, params={"job": "Nowhere"}, headers=bearer("read")).status_code == 404
    with served(settings_of(world, users_file), SystemClock()) as console:
        answer = console.get(LINKS, params={"job": "Copy 001"}, headers=bearer("read"))
        assert (answer.status_code, "has no account on default" in answer.text) == (404, True)


@pytest.mark.slow
def test_an_enterprise_manager_that_is_away_is_said(world: World, users_file: Path) -> None:
    """A person would wait for a page that never comes, or take it for a repository without links."""
    away = account_of(world)["default"].model_copy(update={"url": "https://127.0.0.1:1"})
    world.serve()
    settings = settings_of(world, users_file, enterprise_managers={"default": away})
    with served(settings, SystemClock()) as console:
        for answer in (
            console.get(LINKS, params={"repository": "Retired"}, headers=bearer("read")),
            offboard(console, dry_run=True),
            console.client.post(PLAN, data={"repository": "Retired"}, headers=bearer("submit")),
        ):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert console.get("/enterprise-managers", headers=bearer("read")).status_code == 200


def test_the_links_of_a_job_are_shown_each_with_its_plan(steering: Console, world: World) -> None:
    """A person would have to know the repository's name before they can see what a job copies from."""
    em = world.enterprise_manager
    repositories = [em.add_repository(name=HOSTILE), em.add_repository(name="Second")]
    job = em.add_job(name="Copy to see", links=repositories, linked_backups=[])
    asked = {"job": "Copy to see", "ticket_system": "jira", "ticket_id": "OPS-1"}
    page = steering.client.post(PLAN, data=asked, headers=bearer("submit"))
    assert page.status_code == 200, page.text
    links = [link.object_in_job_id for link in em.links(job)]
    assert all(page.text.count(link) == 2 for link in links)
    assert ("<img" in page.text, "&lt;img" in page.text) == (False, True)
    row = asked | {"job": job, "repository": links[1], "by": "link"}
    plan = steering.client.post(PLAN, data=row, headers=bearer("submit"))
    assert "would be removed" in plan.text, plan.text
    assert links[1] in plan.text
    assert steering.client.post(PLAN, data=asked, headers=bearer("read")).status_code == 403
    assert steering.client.post(PLAN, data={"job": "Nowhere"}, headers=bearer("submit")).status_code == 404
    assert all(em.deletes_of(link) == 0 for link in links)


def test_what_others_wrote_is_text(steering: Console, world: World) -> None:
    """Else a script in a job's name would run in the browser of the person who plans."""
    em = world.enterprise_manager
    em.add_job(name=HOSTILE, links=[em.add_repository(name="Hostile")], linked_backups=[])
    page = steering.client.post(PLAN, data={"repository": "Hostile", "reason": HOSTILE}, headers=bearer("submit"))
    assert page.status_code == 200, page.text
    assert "1 link of 1 job" in page.text
    assert "<img" not in page.text
    assert page.text.count("&lt;img") >= 2
    wrong = steering.client.post(PLAN, data={"repository": "", "reason": HOSTILE}, headers=bearer("submit"))
    assert (wrong.status_code, "<img" in wrong.text) == (400, False)


def test_a_repository_is_offboarded_by_page(steering: Console, chromium: Browser) -> None:
    """A person would have to plan each link by itself."""
    with browsing(chromium, steering) as browse:
        page = browse("/enterprise-managers/default")
        sign_in(page, "submiter")
        page.goto("/enterprise-managers/default")
        page.get_by_label("Repository").fill("Retired")
        page.get_by_role("button", name="Show the plan").click()
        expect(page.locator("tbody tr")).to_have_count(3)
        expect(page.get_by_role("heading", level=2)).to_contain_text("3 links of 3 jobs")
        page.get_by_role("button", name="Order 3 unlinks").click()
        expect(page.get_by_role("heading", level=2)).to_contain_text("all 3 ended")
        expect(page.locator("tbody tr", has_text="succeeded")).to_have_count(3)
