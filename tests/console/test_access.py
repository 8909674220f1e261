"""Without users nobody is served but this host, by its own name, directly, and to read."""

from __future__ import annotations

import asyncio
import re
from unittest.mock import AsyncMock

import httpx
import pytest

from tests.console.conftest import Console, Estate
from tests.preloaded.preloaded import run_program
from worker.console.app import create_app
from worker.settings import ConsoleProgramSettings


def status(estate: Estate, peer: str, headers: list[tuple[str, str]], method: str = "GET", path: str = "/") -> int:
    """How a request from this peer is answered."""
    app = create_app(ConsoleProgramSettings(ledger=estate.settings, broker=None), estate.clock)

    async def ask() -> int:
        transport = httpx.ASGITransport(app, client=(peer, 40000))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.request(method, path, headers=headers)
        # A server that starts and stops: the application closes its connections.
        receive = AsyncMock(side_effect=[{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        await app({"type": "lifespan", "state": {}}, receive, AsyncMock())
        return answer.status_code

    return asyncio.run(ask())


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9465", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:9465"])
def test_this_host_is_served(estate: Estate, peer: str, host: str) -> None:
    """An administrator would have to set up users before they see anything."""
    assert status(estate, peer, [("Host", host)]) == 200


@pytest.mark.parametrize("peer", ["10.0.0.1", "192.168.1.7", "2001:db8::1", "::ffff:10.0.0.1", "unknown", ""])
def test_no_other_host_is_served(estate: Estate, peer: str) -> None:
    """Whoever reaches the port would read who asked for what."""
    assert status(estate, peer, [("Host", "localhost")]) == 403


@pytest.mark.parametrize(
    "host",
    [
        "console.example.com",
        "evil.example:9465",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "evil.example#localhost",
        "localhost:9465@evil.example",
        "localhost:evil",
        "[::1].evil.example",
        "[::1",
        "2130706433",
        "0x7f.1",
        "10.0.0.1",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/v1/unlinks", "/static/console.js", "/nowhere"])
def test_a_name_that_is_not_this_hosts_is_refused(estate: Estate, host: str, path: str) -> None:
    """A web site that lets its name point to 127.0.0.1 would read everything through its visitor's browser."""
    assert status(estate, "127.0.0.1", [("Host", host)], path=path) == 403


def test_two_names_are_refused(estate: Estate) -> None:
    """Two programs would each take another one for the right one."""
    assert status(estate, "127.0.0.1", [("Host", "localhost"), ("Host", "evil.example")]) == 403


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded",
        "X-Forwarded-For",
        "x-forwarded-host",
        "X-Forwarded-Proto",
        "X-Forwarded-Anything",
        "X-Real-IP",
        "Via",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-Original-Forwarded-For",
        "X-Envoy-External-Address",
        "X-Amzn-Trace-Id",
        "X-ARR-LOG-ID",
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", "", "for=127.0.0.1"])
def test_what_came_through_a_proxy_is_refused(estate: Estate, header: str, value: str) -> None:
    """Behind a proxy on the same host everybody would be a local client."""
    assert status(estate, "127.0.0.1", [("Host", "localhost"), (header, value)]) == 403


#: What browsers send when the page is at another address: behind a proxy on this host, or on another site.
FOREIGN = [
    ("Referer", "https://unlinks.example.com/unlinks"),
    ("Referer", "http://127.0.0.1.evil.example/"),
    ("Referer", "http://[::1"),
    ("Referer", "about:blank"),
    ("Origin", "http://192.168.1.7"),
    ("Origin", "null"),
    ("HX-Current-URL", "http://unlinks.example.com/"),
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Site", "same-site"),
]


@pytest.mark.parametrize(("header", "value"), FOREIGN)
@pytest.mark.parametrize("path", ["/", "/api/v1/unlinks"])
def test_a_browser_whose_page_is_elsewhere_is_refused(estate: Estate, header: str, value: str, path: str) -> None:
    """Nginx 1.29.7 and later adds no header and speaks HTTP/1.1: everybody behind it would read every ticket."""
    assert status(estate, "127.0.0.1", [("Host", "localhost"), (header, value)], path=path) == 403


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Referer", "http://localhost:9465/unlinks?ticket=x"),
        ("Referer", "http://[::1]:9465/"),
        ("Origin", "http://127.0.0.1:9465"),
        ("HX-Current-URL", "http://127.0.0.1:9465/"),
        ("Sec-Fetch-Site", "none"),
        ("Sec-Fetch-Site", "same-origin"),
    ],
)
def test_a_browser_on_this_host_is_served(estate: Estate, header: str, value: str) -> None:
    """A page would come, and its updates and links would not."""
    assert status(estate, "127.0.0.1", [("Host", "localhost"), (header, value)]) == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(estate: Estate, method: str) -> None:
    """Any program on the host could order an unlink, and nobody know who."""
    assert status(estate, "127.0.0.1", [("Host", "localhost")], method, "/api/v1/unlinks") == 403


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/unlinks", "/api/v1/unlinks", "/static/console.css"])
def test_the_headers_alone_can_be_asked_for(console: Console, path: str) -> None:
    """A monitor that asks with HEAD, as many do, would take the console for broken."""
    answer = console.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == console.get(path).headers["content-type"]


def test_every_answer_forbids_what_is_not_its_own(console: Console) -> None:
    """A text that somebody ordered could run as a script in the reader's browser."""
    for path in ("/", "/unlinks", "/nowhere", "/api/v1/unlinks", "/static/console.js"):
        headers = console.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    for path in ("/", "/unlinks", "/nowhere"):
        text = console.get(path).text
        assert "<script>" not in text
        assert "style=" not in text
        assert " on" not in text.split("<body>")[0]


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", *(pytest.param(each, marks=pytest.mark.slow) for each in ("::", "10.0.0.1", "console.example.com"))],  # noqa: S104
)
def test_without_users_it_is_not_served_to_others(estate: Estate, host: str) -> None:
    """A mistake in one variable would open it to the network."""
    settings = {"UNLINK_LEDGER__URL": estate.settings.url.get_secret_value(), "UNLINK_CONSOLE__HOST": host}
    ended = run_program("console", settings=settings)
    assert (ended.returncode, "UNLINK_CONSOLE__HOST: without users" in ended.stderr) == (2, True)


def test_static_files_are_sent_once(console: Console) -> None:
    """Each page would load 66 kB that the browser has."""
    page = console.get("/").text
    files = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(files) == 4
    for file in files:
        answer = console.get(file)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "max-age=31536000, immutable")
        # Under another name, as after an upgrade of one of several consoles, it is asked for again.
        for other in (file.partition("?")[0], file + "0"):
            asked = console.get(other, headers={"If-None-Match": answer.headers["etag"]})
            assert (asked.status_code, asked.headers["cache-control"]) == (304, "no-cache")
    assert console.get("/").headers["cache-control"] == "no-store"
