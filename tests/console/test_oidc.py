"""People sign in by OpenID Connect, with the role that a claim gives them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.console.conftest import Console, Estate, browsing, served
from tests.console.provider import CLIENT, SECRET, Provider, provider
from worker.console.oidc import Oidc
from worker.console.users import Users
from worker.settings import ConsoleProgramSettings, ConsoleSettings


def settings_of(estate: Estate, issuer: str, users_file: Path | None = None, **oidc: str) -> ConsoleProgramSettings:
    """The settings of a console whose people sign in there."""
    account = {"issuer": issuer, "client_id": CLIENT, "client_secret": SECRET, "roles_claim": "roles", **oidc}
    console = ConsoleSettings.model_validate({"users_file": users_file, "oidc": account})
    return ConsoleProgramSettings(ledger=estate.settings, broker=None, console=console)


@pytest.fixture
def login() -> Iterator[Provider]:
    """The provider."""
    with provider() as running:
        yield running


@pytest.fixture
def joined(estate: Estate, login: Provider, users_file: Path) -> Iterator[Console]:
    """A console with people of the provider and of a file."""
    with served(settings_of(estate, login.url, users_file), estate.clock) as console:
        yield console


def come_back(console: Console) -> httpx.Response:
    """Sign in as a browser does, up to the console's answer to what the provider sends."""
    there = console.get("/login/oidc", params={"next": "/unlinks?ticket=OPS-1"})
    assert there.status_code == 303, there.text
    back = httpx.get(there.headers["location"]).headers["location"]
    return console.get(back)


def test_a_person_signs_in_by_the_provider(joined: Console, estate: Estate, chromium: Browser) -> None:
    """Everybody would need one more password, and keep it after they have left."""
    estate.order("CHG1")
    with browsing(chromium, joined) as browse:
        page = browse("/unlinks/Q0hHMQ")
        expect(page.get_by_label("Password")).to_be_visible()
        page.get_by_role("link", name="Sign in with your organisation").click()
        expect(page.get_by_role("button", name="Sign out")).to_be_visible()
        expect(page.locator(".user")).to_contain_text("j.doe (operate)")
        expect(page.get_by_role("button", name="Cancel")).to_be_visible()
        assert page.url.endswith("/unlinks/Q0hHMQ")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("link", name="Sign in with your organisation")).to_be_visible()


@pytest.mark.parametrize(
    ("roles", "allowed"),
    [("operate", True), (["read"], False), (["read", "operate"], True), ("submit", False)],
)
def test_the_role_is_that_of_the_claim(
    joined: Console, estate: Estate, login: Provider, roles: Any, allowed: bool
) -> None:
    """A reader would steer, or an operator only look on."""
    estate.order("CHG1")
    login.claims = {"roles": roles}
    answer = come_back(joined)
    assert answer.status_code == 200
    cookie = answer.headers.get_list("set-cookie")[0]
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    page = joined.get("/unlinks/Q0hHMQ").text
    assert ("Cancel" in page) == allowed
    csrf = page.partition('name="csrf" value="')[2].partition('"')[0]
    pressed = joined.client.post("/unlinks/Q0hHMQ/cancel", headers={"Origin": joined.url, "X-CSRF-Token": csrf})
    assert pressed.status_code == (503 if allowed else 403)  # 503: let through, and there is no broker


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"roles": "admin"}, 403),
        ({"roles": None}, 403),
        ({"roles": {"operate": True}}, 403),
        ({"sub": None}, 403),
        ({"sub": "a b"}, 403),
        ({"sub": "operateer"}, 403),
        ({"iss": "https://evil.example"}, 400),
        ({"aud": "another-client"}, 400),
        ({"aud": [CLIENT, "another-client"]}, 400),
        ({"aud": [CLIENT, "another-client"], "azp": "another-client"}, 400),
        ({"exp": 1}, 400),
        ({"exp": None}, 400),
        ({"nonce": "of another login"}, 400),
        ({"nonce": None}, 400),
    ],
)
def test_who_has_no_valid_token_stays_out(
    joined: Console, login: Provider, claims: dict[str, Any], status: int
) -> None:
    """Anybody whom the provider knows would come in, or with the token of another program or another login."""
    login.claims = claims
    answer = come_back(joined)
    assert answer.status_code == status
    assert "set-cookie" not in answer.headers
    assert joined.get("/unlinks").status_code == 303


def test_a_login_is_ended_only_where_it_was_begun(joined: Console, login: Provider) -> None:
    """A victim would be signed in as the attacker, by a link."""
    there = joined.get("/login/oidc").headers["location"]
    back = httpx.get(there).headers["location"]
    assert httpx.get(back).status_code == 400  # a browser without the cookie
    joined.get("/login/oidc")
    assert joined.get(back).status_code == 400  # the browser has begun another login since
    forged = {"Cookie": "unlink-oidc=WyJhIiwiYiIsImMiLCIvIiw5OTk5OTk5OTk5XQ." + "0" * 64}
    assert httpx.get(f"{joined.url}/login/callback?state=a&code=x", headers=forged).status_code == 400
    assert joined.get("/login/callback?error=access_denied").status_code == 400
    assert login.asked


def test_the_cookie_of_a_password_is_none_of_the_provider(joined: Console) -> None:
    """A signed cookie of one kind would be taken for the other."""
    answer = come_back(joined)
    value = answer.headers.get_list("set-cookie")[0].partition("=")[2].partition(";")[0]
    text, _, signature = value.partition(".")
    for forged in (f"{text}.{'0' * 64}", f"{text[:-4]}.{signature}", f"WyJqLmRvZSIsOTk5OTk5OTk5OV0.{signature}"):
        headers = {"Cookie": f"unlink-session={forged}"}
        assert httpx.get(f"{joined.url}/api/v1/unlinks", headers=headers).status_code == 401


def test_a_provider_that_is_away_is_said(estate: Estate, login: Provider, users_file: Path) -> None:
    """People would see a fault of the console, and not the cause."""
    login.down = True
    with served(settings_of(estate, login.url, users_file), estate.clock) as console:
        answer = console.get("/login/oidc")
        assert (answer.status_code, "does not answer as it should" in answer.text) == (503, True)
        login.down = False
        assert come_back(console).status_code == 200


def test_without_a_file_there_is_no_form_for_passwords(estate: Estate, login: Provider) -> None:
    """People would type their password where it is none."""
    with served(settings_of(estate, login.url), estate.clock) as console:
        page = console.get("/login").text
        assert "Sign in with your organisation" in page
        assert 'type="password"' not in page
        assert come_back(console).status_code == 200
        assert console.get("/unlinks").status_code == 200


@pytest.mark.parametrize("issuer", ["http://login.example.com", "login.example.com", "https://", "https://x/?a=b"])
def test_a_provider_without_tls_is_refused(estate: Estate, issuer: str) -> None:
    """The ID token is trusted because it came over TLS."""
    with pytest.raises(ValueError, match="issuer"):
        settings_of(estate, issuer)


def test_no_sibling_host_can_plant_the_cookie_of_a_login(login: Provider) -> None:
    """Another host of the domain would sign people in under its own name, and what they order would bear it."""
    account = {"issuer": login.url, "client_id": CLIENT, "client_secret": SECRET, "roles_claim": "roles"}
    console = ConsoleSettings.model_validate({"oidc": account})
    assert console.oidc is not None
    oidc = Oidc(console.oidc, Users(None), "https://unlinks.example.com")
    with ThreadPoolExecutor(1) as thread:  # Playwright's loop runs in this thread
        _, begun = thread.submit(lambda: asyncio.run(oidc.begin("/"))).result()
    for cookie in (begun, oidc.no_cookie):
        name, *attributes = cookie.split("; ")
        # https://www.rfc-editor.org/rfc/rfc6265bis, section 4.1.3.2
        assert name.startswith("__Host-unlink-oidc=")
        assert {"Path=/", "Secure", "HttpOnly", "SameSite=Lax"} <= set(attributes)
        assert not any(each.startswith("Domain") for each in attributes)
