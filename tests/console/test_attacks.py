"""Attacks on the console, in tables: what is shown, what stands in a URL, what is too large, too slow or too often.

More than 400 lines: most are the tables, and a reader looks here for whatever is tried from outside.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import httpx
import pytest

from contracts.events import Outcome
from tests.console.conftest import JOB_ID, Console, Estate, bearer, served
from tests.console.test_batches import join
from tests.console.test_users import csrf_of, log_in, send_slowly
from tests.waiting import wait_until
from worker.broker.client import BrokerClient, BrokerClientError
from worker.clock import SystemClock
from worker.console import server
from worker.ledger import Inspection, ManagerState, WorkerState
from worker.settings import BrokerSettings, ConsoleProgramSettings, ConsoleSettings, load
from worker.telemetry.logs import _as_json, _console  # the two forms of a line
from worker.unlinks.ports.enterprise_manager import Link
from worker.unlinks.ports.ledger import CancelRequest

# --- what is shown --------------------------------------------------------------------------------------------------

#: Scripts, ends of attributes and of elements, a template's expression, and a text that is written from right to left.
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}\u202eevil\x1b[2J"

#: What the templates use; nothing of it runs anything.
_ATTRIBUTES_THAT_LEAD = {"href", "src", "action", "hx-get", "content"}


class Seen(HTMLParser):
    """What a browser would make of a page: its elements, where they lead, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.leads: list[str] = []
        self.text = self.shown = ""
        self.feed(page)
        self.shown += self.text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element."""
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name != "value":  # what was typed stays as it is, to be corrected and sent again
                self.shown += f"{value}\n"
            if name in _ATTRIBUTES_THAT_LEAD:
                self.leads.append(value or "")

    def handle_data(self, data: str) -> None:
        """A text."""
        self.text += data


def require_harmless(page: str) -> Seen:
    """Raise if a page holds something that runs, leads elsewhere, or turns the text around it."""
    seen = Seen(page)
    assert not seen.tags & {"img", "iframe", "object", "embed", "base", "style", "template"}
    assert page.count("<script") == page.count('<script src="/static/')
    assert not [name for name in seen.attributes if name.startswith("on") or name in {"style", "srcdoc"}]
    assert not [value for value in seen.leads if value.lower().lstrip().startswith(("javascript:", "data:", "//"))]
    assert "<img src=x onerror=alert(1)>49" not in seen.text
    acting = {character for character in seen.shown if not character.isprintable() and character not in "\n\u00a0"}
    assert not acting
    return seen


def furnish(estate: Estate) -> None:
    """A ledger in which everything that others can name is hostile."""
    batch = {"id": HOSTILE, "size": 1}
    ticket = {"system": HOSTILE, "id": HOSTILE, "url": "javascript:alert(1)//" + HOSTILE}
    lease = estate.order(
        "CHG1",
        user_id=HOSTILE,
        job={"name": HOSTILE},
        repository={"name": HOSTILE},
        requested_by=HOSTILE,
        reason=HOSTILE,
        ticket=ticket,
        labels={HOSTILE: HOSTILE},
        correlation_id=HOSTILE,
        batch=batch,
    )
    join(estate, lease, HOSTILE, 1, HOSTILE)
    estate.send(lease, HOSTILE, Link(JOB_ID, JOB_ID, HOSTILE))
    cancelled = CancelRequest("CHG1", "default", HOSTILE, HOSTILE, estate.clock.now(), user_id=HOSTILE)
    estate.work(lambda ledger: ledger.cancel(cancelled))
    estate.end(
        lease,
        Outcome.FAILED,
        summary=HOSTILE,
        reason={"code": "task_failed", "message": HOSTILE},
        task={"message": HOSTILE},
        evidence=HOSTILE,
    )
    manager = ManagerState(up=False, since=estate.clock.now(), problem=HOSTILE)
    worker = WorkerState(
        HOSTILE, HOSTILE, 0, draining=False, enterprise_managers={"default": manager, HOSTILE: manager}
    )
    estate.work(lambda ledger: ledger.report_status(worker))
    Inspection(estate.settings, estate.clock).pause("default", HOSTILE, HOSTILE)


def path_of(text: str) -> str:
    """A key or a batch in a path."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def test_what_others_wrote_is_text_in_every_field(guarded: Console, estate: Estate) -> None:
    """A job's, a worker's or a requester's name would run a script, or turn the line around in which it stands."""
    furnish(estate)
    log_in(guarded, "operateer")
    shown = {
        "/": 5,
        "/unlinks": 4,
        f"/unlinks/{path_of('CHG1')}": 13,
        f"/unlinks/{path_of(HOSTILE)}": 1,
        f"/batches/{path_of(HOSTILE)}": 5,
        "/enterprise-managers": 5,
    }
    for path, least in shown.items():
        seen = require_harmless(guarded.get(path).text)
        assert seen.text.count("alert(1)") >= least, (path, seen.text.count("alert(1)"))
    given = dict.fromkeys(("key", "ticket", "job", "since", "next", "did", "repository", "reason", "name"), HOSTILE)
    for path in (
        "/unlinks",
        "/login",
        "/dead-letters",
        "/enterprise-managers/default",
        f"/{quote(HOSTILE)}",
        "/login/callback",
    ):
        require_harmless(guarded.get(path, params=given).text)
    form = given | {"csrf": csrf_of(guarded)}
    for path in ("/enterprise-managers/default/plan", "/login", f"/unlinks/{path_of('CHG1')}/{path_of(HOSTILE)}"):
        require_harmless(guarded.client.post(path, data=form, headers={"Origin": guarded.url}).text)


def test_what_is_typed_is_sent_as_it_was_typed(guarded: Console) -> None:
    """A name with an unusual character would be searched, or unlinked, under another name."""
    log_in(guarded, "operateer")
    page = guarded.get("/enterprise-managers/default", params={"job": "Copy \u202ex & y"}).text
    assert 'value="Copy \u202ex &amp; y"' in page


# --- what stands in a URL -------------------------------------------------------------------------------------------

#: Targets that lead to another place for a program that decodes, joins or normalises them in another way.
TARGETS = [
    "/login/../unlinks",
    "/login/%2e%2e/unlinks",
    "/login%2f..%2funlinks",
    "/login/..;/unlinks",
    "/loginx",
    "/static/../templates/base.html",
    "/static/%2e%2e/app.py",
    "/static/..%2fapp.py",
    "/static/..%5capp.py",
    "/static//etc/passwd",
    "/static/%00",
    "/static/%2fetc%2fpasswd",
    "/static/" + "x" * 5000,
    "//unlinks",
    "/./unlinks",
    "/%2funlinks",
    "/%61pi/v1/nowhere",
    "/api%2fv1%2funlinks",
    "/API/v1/unlinks",
    "/livez/../unlinks",
    "/livez%2f..%2funlinks",
    "/unlinks/%00",
    "/unlinks/..%2f..%2fetc%2fpasswd",
    "/unlinks/" + "A" * 12_000,
    "/unlinks/%ff%fe",
    "/unlinks;x=1",
    "http://evil.example/unlinks",
    "*",
    "/\u00e9",
]


def request(console: Console, target: str, *lines: str) -> bytes:
    """The answer to a GET, of a target that no client library would send."""
    host = console.url.removeprefix("http://")
    head = "\r\n".join([f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""])
    return send_slowly(console, head.encode("utf-8"))


def test_a_path_leads_nowhere_else(guarded: Console) -> None:
    """A file of the console, or a page, would be had without signing in."""
    token = f"Authorization: {bearer('read')['Authorization']}"
    for target in TARGETS:
        status = int(request(guarded, target).split()[1])
        assert status in {303, 400, 401, 404, 405, 421}, (target, status)
        status = int(request(guarded, target, token).split()[1])
        assert status < 500, (target, status)
        assert status != 200 or target == "/api%2fv1%2funlinks", (target, status)


#: Texts that a database, or JSON, cannot hold.
IMPOSSIBLE = ["\0", "a\0b", "\ud800"]


def _cursor(*parts: str | None) -> str:
    return path_of(json.dumps(parts))


def impossible_requests(text: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """A request for each place where a caller may write such a text."""
    if "\0" in text:  # the others cannot be encoded
        yield "GET", f"/api/v1/unlinks/{path_of(text)}", {}
        yield "GET", f"/unlinks/{path_of(text)}", {}
        yield "GET", f"/api/v1/batches/{path_of(text)}", {}
        yield "POST", f"/batches/{path_of(text)}/retry", {}
        for field in ("key", "ticket", "requester", "job", "repository", "batch", "reason", "since", "outcome"):
            yield "GET", "/api/v1/unlinks", {"params": {field: text}}
            yield "GET", "/unlinks", {"params": {field: text}}
        yield "GET", "/unlinks.csv", {"params": {"job": text}}
        yield "POST", "/enterprise-managers/default/pause", {"data": {"reason": text}}
    yield "GET", "/api/v1/unlinks", {"params": {"cursor": _cursor("2026-01-01T00:00:00+00:00", text)}}
    yield "GET", f"/api/v1/batches/{path_of('B')}", {"params": {"cursor": _cursor("default", text, "B", text)}}
    yield "POST", "/api/v1/enterprise-managers/default/pause", {"content": json.dumps({"reason": text})}
    yield "POST", f"/api/v1/unlinks/{path_of('CHG1')}/cancel", {"content": json.dumps({"reason": text, "x": 1})}
    yield "POST", f"/api/v1/unlinks/{path_of('CHG1')}/cancel", {"content": json.dumps({text: 1})}


@pytest.mark.parametrize("url", ["sqlite_url", "postgresql_url"])
def test_what_no_database_can_hold_is_refused(url: str, users_file: Path, request: pytest.FixtureRequest) -> None:
    """A caller could fill the log with faults, or take a slip of theirs for an outage."""
    estate = Estate(str(request.getfixturevalue(url)))
    estate.report_status()
    estate.order("CHG1")
    console = ConsoleSettings(users_file=users_file)
    with served(ConsoleProgramSettings(ledger=estate.settings, broker=None, console=console), estate.clock) as guarded:
        for text in IMPOSSIBLE:
            for method, path, options in impossible_requests(text):
                answer = guarded.client.request(method, path, headers=bearer("operate"), **options)
                assert 400 <= answer.status_code < 500, (method, path, options, answer.status_code)


def test_what_a_proxy_sends_without_a_header_is_refused(console: Console) -> None:
    """Nginx before 1.29.7 adds no header and names its own target as the host: everybody would be let in.

    A later nginx speaks HTTP/1.1: then the browser's own headers remain, see `test_access.py`.
    """
    line = "GET / HTTP/1.{}\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert send_slowly(console, line.format(1).encode()).startswith(b"HTTP/1.1 200")
    assert send_slowly(console, line.format(0).encode()).split()[1] == b"403"


# --- what is too large or too slow ----------------------------------------------------------------------------------


ODD_HEADERS = [
    ["X-Long: " + "x" * 100_000],
    [f"X-{number}: x" for number in range(20_000)],
    ["Cookie: " + "unlink-session=x; " * 5_000],
    ["Content-Length: 99999999999999999999"],
    ["Content-Length: -1"],
    ["Content-Length: 1", "Content-Length: 2"],
    ["Content-Length: 5", "Transfer-Encoding: chunked"],
    ["Host: another"],
]


def test_headers_that_no_client_sends_are_refused(guarded: Console) -> None:
    """One request would fill the memory, or hide a second one behind a proxy."""
    for lines in ODD_HEADERS:
        try:
            status = int(request(guarded, "/unlinks", *lines).split()[1])
        except (ConnectionResetError, BrokenPipeError):
            status = 400  # it was closed while it was sent
        assert status in {303, 400, 421, 431}, (lines[0][:40], status)
        assert guarded.get("/livez").status_code == 200


def test_headers_that_trickle_are_not_waited_for(guarded: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends one byte at a time would hold a connection without limit."""
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", int(guarded.url.rpartition(":")[2]))) as client:
        client.settimeout(0.02)
        client.sendall(b"GET /livez HTTP/1.1\r\nX-Slow: ")

        def is_closed() -> bool:
            try:
                client.sendall(b"x")
                return client.recv(1) == b""
            except TimeoutError:
                return False
            except (ConnectionResetError, BrokenPipeError):
                return True

        wait_until(is_closed)


def test_many_idle_connections_keep_nobody_out(guarded: Console) -> None:
    """One host that opens connections, and sends nothing, would take the console from all others."""
    port = int(guarded.url.rpartition(":")[2])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    assert guarded.get("/api/v1/unlinks", headers=bearer("read")).status_code == 200
    for each in idle:
        each.close()


class Hanging:
    """A broker that takes connections and says nothing, until it is let go."""

    def __init__(self) -> None:
        self.connections = threading.Semaphore(0)
        self._over = threading.Event()

    def connect(self) -> NoReturn:
        """What an attempt to connect comes to."""
        self.connections.release()
        self._over.wait(60)
        raise BrokerClientError("the broker did not answer")

    def let_go(self) -> None:
        """Fail all attempts."""
        self._over.set()


@pytest.fixture
def hanging(estate: Estate, users_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Console, Hanging]]:
    """The console, whose broker hangs."""
    broker = Hanging()
    monkeypatch.setattr(BrokerClient, "__enter__", lambda _client: broker.connect())
    settings = ConsoleProgramSettings(
        ledger=estate.settings,
        broker=BrokerSettings.model_validate({"url": "amqp://guest:guest@127.0.0.1:1/"}),
        console=ConsoleSettings(users_file=users_file),
    )
    with served(settings, estate.clock) as console:
        yield console, broker
        broker.let_go()


def test_orders_that_hang_keep_no_page_from_coming(hanging: tuple[Console, Hanging]) -> None:
    """A few programs that wait for an answer would take the pages from all people."""
    console, broker = hanging
    command = {"command": "unlink.v1", "job": {"name": "a"}, "repository": {"name": "b"}}
    with ThreadPoolExecutor(24) as programs:
        for number in range(24):
            headers = bearer("submit") | ({"Prefer": "wait=60"} if number < 16 else {})
            content = json.dumps(command | {"idempotency_key": f"CHG{number}"})
            programs.submit(httpx.post, f"{console.url}/api/v1/unlinks", content=content, headers=headers, timeout=90)
        try:
            for _ in range(24):
                assert broker.connections.acquire(timeout=30)
            assert console.get("/api/v1/unlinks", headers=bearer("read")).status_code == 200
        finally:
            broker.let_go()


def test_who_waits_for_the_dead_letters_waits_for_nobody_else(hanging: tuple[Console, Hanging]) -> None:
    """A few readers, gone by then, would keep an operator from the queue for minutes."""
    console, broker = hanging
    with ThreadPoolExecutor(1) as program:
        first = program.submit(httpx.get, f"{console.url}/api/v1/dead-letters", headers=bearer("read"), timeout=90)
        try:
            assert broker.connections.acquire(timeout=30)
            second = console.get("/api/v1/dead-letters", headers=bearer("operate"), timeout=15)
            assert (second.status_code, second.headers["retry-after"]) == (503, "5")
            assert "Somebody else reads" in second.json()["detail"]
        finally:
            broker.let_go()
        assert first.result().status_code == 503


def test_a_broker_that_hangs_is_said_at_once(hanging: tuple[Console, Hanging]) -> None:
    """People would look at an empty window for twenty seconds, each time that they open the overview."""
    console, broker = hanging
    for _ in range(2):
        page = console.get("/", headers=bearer("read"), timeout=15).text
        assert "cannot be counted: the broker has not answered yet" in page
    broker.let_go()
    wait_until(lambda: "the broker did not answer" in console.get("/", headers=bearer("read")).text)


# --- what is tried too often ----------------------------------------------------------------------------------------


def test_somebody_who_guesses_locks_nobody_out(guarded: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever knows an operator's name could keep them out of the console while something goes wrong."""
    monkeypatch.setattr(SystemClock, "monotonic", lambda _clock: 1000.0)
    assert log_in(guarded, "operateer").status_code == 303
    del guarded.client.cookies["unlink-session"]
    with httpx.Client(base_url=guarded.url) as stranger:
        strange = Console(guarded.url, stranger, guarded.server)
        for number in range(8):
            log_in(strange, "operateer", f"guess {number}")
        assert log_in(strange, "operateer").status_code == 429
        # The browser in which they have signed in before is known, and counted by itself.
        assert log_in(guarded, "operateer").status_code == 303
        del guarded.client.cookies["unlink-session"]
        # Its mark is of this user alone, and nobody else can make one.
        known = guarded.client.cookies["unlink-known"]
        for forged in (known[:-1] + ("0" if known[-1] != "0" else "1"), "x", known.partition(".")[0]):
            assert log_in(strange, "operateer", Cookie=f"unlink-known={forged}").status_code == 429
        for number in range(8):
            log_in(strange, "reader", f"guess {number}")
        assert log_in(strange, "reader", Cookie=f"unlink-known={known}").status_code == 429
    # It is not a way to guess without a limit.
    statuses = [log_in(guarded, "operateer", f"guess {number}").status_code for number in range(7)]
    assert statuses[-1] == 429


def test_a_mark_of_a_known_browser_opens_nothing(guarded: Console) -> None:
    """A cookie that lasts for months would be a session."""
    log_in(guarded, "operateer")
    known = guarded.client.cookies["unlink-known"]
    for name in ("unlink-known", "unlink-session"):
        assert httpx.get(f"{guarded.url}/api/v1/unlinks", headers={"Cookie": f"{name}={known}"}).status_code == 401


def test_what_was_refused_leaves_one_audit_line(
    guarded: Console, estate: Estate, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody would see that somebody tries what they may not do."""
    estate.order("CHG1")
    wrong = {"Authorization": "Bearer guess"}
    cases: list[tuple[Callable[[], httpx.Response], list[str]]] = [
        (lambda: guarded.get("/api/v1/unlinks", headers=wrong), ["of no user"]),
        (lambda: guarded.client.post("/unlinks/Q0hHMQ/cancel"), ["/unlinks/Q0hHMQ/cancel", "401"]),
        (lambda: cancel(guarded, "read"), ["read-program", "Q0hHMQ/cancel", "change nothing"]),
        (lambda: cancel(guarded, "submit"), ["submit-program", "cancel", "CHG1", "ordered itself"]),
        (lambda: order(guarded, if_absent="fail"), ["submit-program", "unlink", "CHG1", "another command"]),
        (lambda: order(guarded, nonsense=1), ["submit-program", "POST", "/api/v1/unlinks", "nonsense"]),
        (lambda: pause(guarded, "submit"), ["submit-program", "pause", "default", "operate` alone"]),
        (lambda: pause(guarded, "operate", "nobody"), ["operate-program", "pause", "nobody", "No worker"]),
        (lambda: discard(guarded, "submit"), ["submit-program", "discard", "0" * 64, "operate` alone"]),
        (lambda: discard(guarded, "operate"), ["operate-program", "discard", "0" * 64, "BROKER__URL"]),
        (lambda: log_in(guarded, "reader", Origin="https://evil.example"), ["/login", "page of this console"]),
        (lambda: press_from(guarded, "https://evil.example"), ["operateer", "cancel", "page of this console"]),
    ]
    for send, parts in cases:
        capsys.readouterr()
        assert send().status_code >= 400
        said = capsys.readouterr().out.splitlines()
        lines = [line for line in said if "console.action" in line or "request_refused" in line]
        assert len(lines) == 1, (parts, lines)
        for part in [*parts, "127.0.0.1"]:
            assert part in lines[0], lines


def cancel(console: Console, role: str) -> httpx.Response:
    """Cancel what another has ordered."""
    return console.client.post("/api/v1/unlinks/Q0hHMQ/cancel", headers=bearer(role))


def order(console: Console, **fields: Any) -> httpx.Response:
    """Order with the key of another command, or with fields that there are not."""
    command = {"command": "unlink.v1", "idempotency_key": "CHG1", "job": {"name": "a"}, "repository": {"name": "b"}}
    return console.client.post("/api/v1/unlinks", json=command | fields, headers=bearer("submit"))


def pause(console: Console, role: str, name: str = "default") -> httpx.Response:
    """Pause an Enterprise Manager."""
    return console.client.post(f"/api/v1/enterprise-managers/{name}/pause", headers=bearer(role))


def discard(console: Console, role: str) -> httpx.Response:
    """Discard a dead letter that is not there."""
    return console.client.post(f"/api/v1/dead-letters/{'0' * 64}/discard", headers=bearer(role))


def press_from(console: Console, origin: str) -> httpx.Response:
    """Press a button from another site, in the browser of a signed-in user."""
    log_in(console, "operateer")
    return console.client.post("/unlinks/Q0hHMQ/cancel", headers={"Origin": origin})


@pytest.mark.parametrize("name", ["x\n[info] console.login user=operateer", "\x1b[2J", "\u202egnp", "\x9b2J"])
@pytest.mark.parametrize("render", [_console(), _as_json])
def test_no_name_can_forge_a_line_of_the_log(name: str, render: Any) -> None:
    """A guessed name would write a line that tells of another's login, or clear the reader's terminal."""
    line = render(None, "warning", {"event": "console.login_refused", "level": "warning", "user": name})
    assert line.isprintable(), line
    assert "console.login_refused" in line


def test_an_audit_line_is_written_at_every_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discarded dead letter, whose only record is a line of the log, would vanish at the level `error`."""
    monkeypatch.setenv("UNLINK_LEDGER__URL", "sqlite:///x")
    for level, found in (("error", "info"), ("warning", "info"), ("info", "info"), ("debug", "debug")):
        monkeypatch.setenv("UNLINK_LOG__LEVEL", level)
        assert load(ConsoleProgramSettings).log.level == found


def test_an_open_page_goes_to_the_login_when_its_session_ends(guarded: Console) -> None:
    """The form would stand in the middle of the page, and lead to a part of a page after signing in."""
    answer = guarded.get("/?part=true", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers.get("hx-refresh")) == (401, "true")
