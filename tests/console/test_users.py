"""Users: who may come in, how long they stay, and what nobody can do in their name.

More than 400 lines: each way in is tried with each way to stay, and to be sent away.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import make_url

from contracts.events import Outcome
from tests.console.conftest import PASSWORD, Console, Estate, bearer, served, sign_in
from tests.preloaded.preloaded import run_program
from tests.waiting import wait_until
from worker.clock import SystemClock
from worker.console import server, signed_in
from worker.console.throttle import Throttle
from worker.console.users import HASHER, Users
from worker.settings import ConsoleProgramSettings, ConsoleSettings, SettingsInvalidError

HTML = "text/html"
LINK = '<a href="{}/unlinks?ticket=OPS-1&amp;since=7d">The unlink</a>'


def log_in(console: Console, name: str, password: str = PASSWORD, **headers: str) -> httpx.Response:
    """Send the form as a browser does."""
    return console.client.post(
        "/login", data={"name": name, "password": password}, headers={"Origin": console.url, **headers}
    )


def csrf_of(console: Console) -> str:
    """The token in the pages of who is signed in."""
    return console.get("/").text.partition('name="csrf" value="')[2].partition('"')[0]


def press(console: Console, path: str, **headers: str) -> int:
    """Press a button as a page of the console does, but for these headers."""
    given = {"Origin": console.url, "X-CSRF-Token": csrf_of(console), **headers}
    sent = {name: value for name, value in given.items() if value != "(none)"}
    return console.client.post(path, headers=sent).status_code


def test_nobody_comes_in_without_signing_in(guarded: Console) -> None:
    """Whoever reaches the port would read who asked for what."""
    for path in ("/", "/unlinks", "/unlinks.csv", "/unlinks/Q0hHMQ", "/nowhere"):
        answer = guarded.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={path}")
    for path in ("/api/v1/unlinks", "/api/v1/openapi.json", "/api/v1/nowhere"):
        answer = guarded.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
    assert guarded.client.post("/unlinks/Q0hHMQ/cancel").status_code == 401
    assert guarded.get("/static/console.css").status_code == 200


def test_a_person_signs_in_and_out(guarded: Console) -> None:
    """Nobody could use the console; or nobody leave it."""
    answer = log_in(guarded, "reader")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    page = guarded.get("/unlinks").text
    assert "reader" in page
    assert "Sign out" in page
    answer = guarded.client.post("/logout", headers={"Origin": guarded.url, "X-CSRF-Token": csrf_of(guarded)})
    assert answer.headers["location"] == "/login"
    assert guarded.get("/").status_code == 303


def test_over_https_the_cookie_is_of_this_host_alone(estate: Estate, users_file: Path) -> None:
    """A page of a neighbouring host, or one without TLS, could set or read it."""
    console = ConsoleSettings(users_file=users_file, public_url="https://unlinks.example.com")
    with served(ConsoleProgramSettings(ledger=estate.settings, console=console), estate.clock) as served_console:
        host = {"Host": "unlinks.example.com", "Origin": "https://unlinks.example.com"}
        answer = log_in(served_console, "reader", **host)
        assert answer.headers["set-cookie"].startswith("__Host-unlink-session=")
        assert "Secure" in answer.headers["set-cookie"].split("; ")


@pytest.mark.parametrize(
    ("name", "password"),
    [("reader", "wrong"), ("nobody", PASSWORD), ("read-program", PASSWORD), ("", ""), ("reader", PASSWORD + " ")],
)
def test_a_wrong_name_or_password_gets_one_answer(guarded: Console, name: str, password: str) -> None:
    """Who guesses would learn which names there are."""
    answer = log_in(guarded, name, password)
    assert answer.status_code == 401
    assert "Name or password is wrong." in answer.text
    assert "set-cookie" not in answer.headers


def test_guessing_is_slowed_down(guarded: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program would try a million passwords."""
    # Else the wait would be over before a slow machine has compared the next password.
    monkeypatch.setattr(SystemClock, "monotonic", lambda _clock: 1000.0)
    statuses = [log_in(guarded, "operateer", f"guess {number}").status_code for number in range(7)]
    assert statuses[:5] == [401] * 5
    assert statuses[-1] == 429
    answer = log_in(guarded, "operateer")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert log_in(guarded, "reader").status_code == 303


def test_many_names_of_one_address_are_slowed_down_too() -> None:
    """One password would be tried for every name."""
    throttle = Throttle(SystemClock())
    for number in range(25):
        throttle.failed(f"user-{number}", "10.0.0.1")
    assert throttle.seconds_to_wait("another", "10.0.0.1") > 0
    assert throttle.seconds_to_wait("another", "10.0.0.2") == 0


def test_many_addresses_for_one_name_are_slowed_down_too() -> None:
    """A botnet would have as many tries as it has addresses."""
    throttle = Throttle(SystemClock())
    for number in range(60):
        throttle.failed("operateer", f"10.0.0.{number}")
    assert throttle.seconds_to_wait("operateer", "10.0.1.1") > 0
    assert throttle.seconds_to_wait("reader", "10.0.1.1") == 0


@pytest.mark.parametrize(
    "after",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", ""],
)
def test_nobody_is_sent_elsewhere_after_signing_in(guarded: Console, after: str) -> None:
    """A link to the console would end at a page that looks like it."""
    assert f'value="{after}"' not in guarded.get("/login", params={"next": after}).text or not after
    form = {"name": "reader", "password": PASSWORD, "next": after}
    answer = guarded.client.post("/login", data=form, headers={"Origin": guarded.url})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_link_is_followed_after_signing_in(guarded: Console) -> None:
    """Who comes from a ticket would have to search for its unlink."""
    location = guarded.get("/unlinks?ticket=OPS-1&since=7d").headers["location"]
    assert 'name="next" value="/unlinks?ticket=OPS-1&amp;since=7d"' in guarded.get(location).text


@pytest.mark.parametrize("name", ["reader", "operateer"])
def test_who_is_signed_in_may_sign_in_again(guarded: Console, name: str) -> None:
    """A second tab, which was led to the login before the first one signed in, would stay there for ever."""
    assert log_in(guarded, "reader").status_code == 303
    answer = guarded.get("/login?next=/unlinks%3Fticket=OPS-1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/unlinks?ticket=OPS-1")
    assert log_in(guarded, name).status_code == 303
    assert log_in(guarded, "reader", Origin="https://evil.example").status_code == 403


def test_a_link_of_another_site_leads_to_the_page_and_not_to_the_login(guarded: Console, chromium: Browser) -> None:
    """Who is signed in would have to sign in again for each link in a ticket: the browser sends no cookie with it."""
    page = chromium.new_context().new_page()
    page.route("http://jira.example/**", lambda route: route.fulfill(body=LINK.format(guarded.url), content_type=HTML))
    page.goto(guarded.url)
    sign_in(page, "reader")
    page.goto("http://jira.example/OPS-1")
    page.get_by_role("link").click()
    expect(page.get_by_role("heading", name="Unlinks")).to_be_visible()
    assert page.url == f"{guarded.url}/unlinks?ticket=OPS-1&since=7d"
    page.context.clear_cookies()
    page.goto("http://jira.example/OPS-1")
    page.get_by_role("link").click()
    sign_in(page, "reader")
    expect(page.get_by_role("heading", name="Unlinks")).to_be_visible()
    assert page.url == f"{guarded.url}/unlinks?ticket=OPS-1&since=7d"
    page.context.close()


@pytest.mark.parametrize("path", ["//evil.example/", "//evil.example", "/%0A//evil.example"])
def test_a_link_of_another_site_leads_nowhere_else(guarded: Console, path: str) -> None:
    """A link to the console would end at a page that looks like it."""
    answer = guarded.get(guarded.url + path, headers={"Sec-Fetch-Site": "cross-site"})
    assert "url=//" not in answer.text
    assert 'href="//' not in answer.text


def test_a_button_that_failed_is_not_said_to_be_pressed_again(guarded: Console, estate: Estate) -> None:
    """Who wanted to cancel would wait for a page that repeats nothing, and shows "Method Not Allowed" at last."""
    estate.order("CHG1")
    log_in(guarded, "operateer")
    headers = {"Origin": guarded.url, "X-CSRF-Token": csrf_of(guarded)}
    answer = guarded.client.post("/unlinks/Q0hHMQ/cancel", headers=headers)
    assert answer.status_code == 503
    assert "http-equiv" not in answer.text
    assert "not tried again by itself" in answer.text


@pytest.mark.parametrize(
    ("run", "pressed", "said"),
    [
        (1, 0, ("The retry is on the queue", "")),
        (1, 3600, ("No worker has taken the retry up", "Retry")),
        (0, 0, ("", "Retry")),  # what was pressed was of the run before this one, which has ended meanwhile
    ],
    ids=["just now", "an hour ago", "taken up"],
)
def test_a_retry_is_said_to_wait_as_long_as_it_may(
    guarded: Console, estate: Estate, run: int, pressed: int, said: tuple[str, str]
) -> None:
    """A retry that a worker refused, or that ended at once, would be shown as waiting for ever, without a button."""
    estate.end(estate.order("CHG1"), Outcome.FAILED)
    log_in(guarded, "operateer")
    at = int(time.time()) - pressed
    page = guarded.get("/unlinks/Q0hHMQ", params={"asked": "retry", "run": run, "at": at}).text
    note, button = said
    assert ("the retry" in page.lower()) == bool(note)
    assert note in page
    assert (">Retry</button>" in page) == bool(button)
    assert ("hx-get" in page) == bool(note)


@pytest.mark.parametrize(
    "value",
    ["", "x", "..", "W10.x", "WyJvcGVyYXRlZXIiLDk5OTk5OTk5OTldLg", "WyJvcGVyYXRlZXIiLDk5OTk5OTk5OTld." + "0" * 64, "é"],
)
def test_a_forged_session_is_none(guarded: Console, value: str) -> None:
    """Anybody could be anybody."""
    headers = {b"Cookie": f"unlink-session={value}".encode()}
    assert httpx.get(guarded.url + "/api/v1/unlinks", headers=headers).status_code == 401


def test_a_session_is_of_its_user_alone_and_ends_with_their_password(
    guarded: Console, estate: Estate, tmp_path: Path, users_file: Path
) -> None:
    """Somebody who was thrown out would stay in."""
    own = tmp_path / "users.toml"
    own.write_text(users_file.read_text())
    settings = ConsoleProgramSettings(ledger=estate.settings, console=ConsoleSettings(users_file=own))
    log_in(guarded, "reader")
    cookie = {"Cookie": f"unlink-session={guarded.client.cookies['unlink-session']}"}
    with served(settings, estate.clock) as another:
        # Another console of the same settings takes the session: nothing is stored in either.
        assert another.get("/api/v1/unlinks", headers=cookie).status_code == 200
        old = own.read_text().partition('password_argon2 = "')[2].partition('"')[0]
        own.write_text(own.read_text().replace(old, HASHER.hash("another password")))
        assert another.get("/api/v1/unlinks", headers=cookie).status_code == 401
        own.write_text("nonsense")
        assert another.get("/api/v1/unlinks", headers=bearer("read")).status_code == 200


@pytest.mark.parametrize("header", ["Bearer nonsense", "Bearer", "Basic cmVhZGVyOng=", "", "Bearer token-of-read x"])
def test_a_wrong_token_is_refused(guarded: Console, header: str) -> None:
    """A program could read with any token."""
    assert guarded.get("/api/v1/unlinks", headers={"Authorization": header}).status_code == 401


def test_a_program_comes_in_by_its_token(guarded: Console, estate: Estate) -> None:
    """No program could use the API."""
    estate.order("CHG1")
    assert len(guarded.get("/api/v1/unlinks", headers=bearer("read")).json()["items"]) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "(none)"},
        {"Origin": "(none)", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "(none)", "Sec-Fetch-Site": "same-site"},
        {"X-CSRF-Token": "(none)"},
        {"X-CSRF-Token": "0" * 64},
        {"X-CSRF-Token": ""},
    ],
)
def test_a_foreign_page_can_press_no_button(guarded: Console, estate: Estate, headers: dict[str, str]) -> None:
    """Any web site could order in the name of who looks at it."""
    estate.order("CHG1")
    log_in(guarded, "operateer")
    assert press(guarded, "/unlinks/Q0hHMQ/cancel") == 503  # without a broker: it was let through
    assert press(guarded, "/unlinks/Q0hHMQ/cancel", **headers) == 403
    assert press(guarded, "/api/v1/unlinks/Q0hHMQ/cancel", **headers) == 403


def test_nobody_is_signed_in_by_a_foreign_page(guarded: Console) -> None:
    """A victim would work in an attacker's session."""
    for origin in ("https://evil.example", "null", f"{guarded.url}.evil.example"):
        assert log_in(guarded, "reader", Origin=origin).status_code == 403
    assert guarded.client.post("/login", data={"name": "reader", "password": PASSWORD}).status_code == 403


@pytest.mark.parametrize("role", ["read", "submit", "operate"])
def test_each_role_may_what_it_may(guarded: Console, estate: Estate, role: str) -> None:
    """A reader would order, or an operator be locked out."""
    estate.order("CHG1")
    estate.order("CHG2", user_id=f"console:{role}-program")
    of_another, own = ("/api/v1/unlinks/Q0hHMQ/cancel", "/api/v1/unlinks/Q0hHMg/cancel")
    # 503: there is no broker here, and so it was let through.
    allowed = {"read": [403, 403], "submit": [403, 503], "operate": [503, 503]}[role]
    assert [guarded.client.post(path, headers=bearer(role)).status_code for path in (of_another, own)] == allowed


def test_the_policy_judges_cancels_and_retries_too(estate: Estate, users_file: Path, tmp_path: Path) -> None:
    """What the queue's policy denies a user could be had by a button."""
    file = tmp_path / "policy.toml"
    file.write_text('[[rules]]\nusers = ["console:*"]\n')
    settings = ConsoleProgramSettings(
        ledger=estate.settings, broker=None, console=ConsoleSettings(users_file=users_file), policy_file=file
    )
    estate.order("CHG1")
    estate.end(estate.order("CHG2", allow_linked_backups_removal=True), Outcome.FAILED)
    estate.end(estate.order("CHG3"), Outcome.FAILED)
    with served(settings, estate.clock) as console:
        paths = {"Q0hHMQ/cancel": 403, "Q0hHMg/retry": 403, "Q0hHMw/retry": 503}  # 503: let through, without a broker
        for path, status in paths.items():
            answer = console.client.post(f"/api/v1/unlinks/{path}", headers=bearer("operate"))
            assert (path, answer.status_code) == (path, status), answer.text
            assert status != 403 or "console:operate-program" in answer.json()["detail"]


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost", "127.0.0.1", "127.0.0.1:1", "127.0.0.1@evil.example", ""]
)
def test_it_answers_to_its_own_address_alone(guarded: Console, host: str) -> None:
    """A web site that lets its own name point here would have the browser's cookie."""
    assert guarded.get("/", headers={"Host": host}).status_code in {400, 421}


def test_probes_need_no_address(guarded: Console) -> None:
    """Else the kubelet, which asks by the pod's address, would restart the console again and again."""
    for path in ("/livez", "/readyz"):
        assert guarded.get(path, headers={"Host": "10.1.2.3:9465"}).status_code == 200


def test_readiness_is_whether_the_ledger_can_be_read(guarded: Console, estate: Estate) -> None:
    """A monitor would not see that the console has lost the ledger."""
    file = Path(str(make_url(estate.settings.url.get_secret_value()).database))
    away = file.rename(file.with_suffix(".away"))
    wait_until(lambda: guarded.get("/readyz").status_code == 503)
    assert str(file) not in guarded.get("/readyz").text
    assert guarded.get("/livez").status_code == 200
    away.rename(file)
    wait_until(lambda: guarded.get("/readyz").status_code == 200)


def send_slowly(console: Console, sent: bytes) -> bytes:
    """The answer to a client that sends a part of a request and then waits."""
    with socket.create_connection(("127.0.0.1", int(console.url.rpartition(":")[2])), timeout=60) as client:
        client.sendall(sent)
        answer = b""
        while part := client.recv(4096):
            answer += part
        return answer


def test_headers_that_do_not_come_are_not_waited_for(guarded: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few slow clients would take all connections."""
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.1)
    assert send_slowly(guarded, b"") == b""
    assert send_slowly(guarded, b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""


def test_a_body_that_does_not_come_is_not_waited_for(guarded: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, by those who have a token."""
    monkeypatch.setattr(signed_in, "BODY_SECONDS", 0.1)
    host = guarded.url.removeprefix("http://").encode()
    lines = [
        b"POST /api/v1/unlinks HTTP/1.1",
        b"Host: " + host,
        f"Authorization: {bearer('operate')['Authorization']}".encode(),
        b"Content-Length: 100",
        b"",
        b"{",
    ]
    answer = send_slowly(guarded, b"\r\n".join(lines))
    assert b"408 Request Timeout" in answer
    assert b"application/problem+json" in answer


def test_a_large_body_is_not_read(guarded: Console) -> None:
    """One request would fill the memory."""
    headers = bearer("operate")
    assert guarded.client.post("/api/v1/unlinks", headers=headers, content=b"x" * 100_000).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 1000

    assert guarded.client.post("/api/v1/unlinks", headers=headers, content=endless()).status_code == 413


def test_forwarding_headers_are_believed_of_trusted_proxies_alone(
    estate: Estate, users_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who guesses passwords would come from a new address each time; or an audit line name a proxy."""
    for trusted, address in (("127.0.0.0/8", "203.0.113.7"), ("10.0.0.1", "127.0.0.1")):
        console = ConsoleSettings(users_file=users_file, trusted_proxies=trusted)
        settings = ConsoleProgramSettings(ledger=estate.settings, console=console)
        with served(settings, estate.clock) as served_console:
            log_in(served_console, "reader", **{"X-Forwarded-For": "198.51.100.1, 203.0.113.7"})
        assert address in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "users: missing"),
        ("users = []", "users: List should have at least 1 item"),
        ('[[users]]\nname = "a"\nrole = "admin"\ntoken_sha256 = "x"', "role: Input should be"),
        ('[[users]]\nname = "a"\nrole = "read"', "exactly one of password_argon2 and token_sha256"),
        ('[[users]]\nname = "a b"\nrole = "read"', "name: String should match"),
        (
            '[[users]]\nname = "a"\nrole = "read"\npassword_argon2 = "secret"',
            "must be what `unlink-worker console hash`",
        ),
        (f'[[users]]\nname = "a"\nrole = "read"\ntoken_sha256 = "{"0" * 64}"\n' * 2, "'a' is there twice"),
        ("nonsense", "no users can be read there"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_not_repeated(tmp_path: Path, text: str, said: str) -> None:
    """A misspelt role would let nobody in, or everybody; and a password stand in a log."""
    file = tmp_path / "users.toml"
    file.write_text(text)
    with pytest.raises(SettingsInvalidError) as refused:
        Users(file)
    assert "UNLINK_CONSOLE__USERS_FILE" in str(refused.value)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value).replace("console hash", "")


@pytest.mark.slow
def test_the_command_line_makes_the_lines_of_the_file() -> None:
    """An administrator would have to know argon2."""
    command = [sys.executable, "-m", "worker", "console", "hash"]
    line = subprocess.run(command, input=f"{PASSWORD}\n", capture_output=True, text=True, check=True).stdout
    digest = line.removeprefix('password_argon2 = "').strip().rstrip('"')
    assert HASHER.verify(digest, PASSWORD)
    made = run_program("console", "hash", "--token", settings={})
    token = made.stderr.strip().removeprefix("Authorization: Bearer ")
    assert made.stdout == f'token_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'
    assert len(token) >= 40


def test_every_action_leaves_an_audit_line(
    guarded: Console, estate: Estate, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody could say who cancelled it."""
    estate.order("CHG1")
    guarded.client.post("/api/v1/unlinks/Q0hHMQ/cancel", headers=bearer("operate"))
    line = next(line for line in capsys.readouterr().out.splitlines() if "console.action" in line)
    for part in ("operate-program", "127.0.0.1", "cancel", "CHG1", "UNLINK_BROKER__URL is not set"):
        assert part in line


@pytest.mark.slow
def test_with_users_the_address_is_needed(estate: Estate, users_file: Path) -> None:
    """A console behind a proxy would answer to every name, and so to a rebound one."""
    environment = {
        "UNLINK_LEDGER__URL": estate.settings.url.get_secret_value(),
        "UNLINK_CONSOLE__USERS_FILE": str(users_file),
        "UNLINK_CONSOLE__HOST": "0.0.0.0",  # noqa: S104 - what is refused
    }
    ended = run_program("console", settings=environment)
    assert (ended.returncode, "UNLINK_CONSOLE__PUBLIC_URL: is needed with users" in ended.stderr) == (2, True)
    ended = run_program("console", settings=environment | {"UNLINK_CONSOLE__PUBLIC_URL": "http://unlinks.example.com"})
    assert (ended.returncode, "passwords are sent there" in ended.stderr) == (2, True)
