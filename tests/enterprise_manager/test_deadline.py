"""One deadline for a whole exchange, and interim answers before the answer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.transport import BrokenAnswerError, NotConnectedError, Request, Transport

GET = Request("GET", "/api/")
HEAD = b"HTTP/1.1 202 Accepted\r\n"


@pytest.fixture
def transport_to(serve: Any, settings_for: Any) -> Iterator[Callable[..., Transport]]:
    """Makes a transport to a server that follows a script, with a time-out of half a second."""
    made: list[Transport] = []

    def make(script: Any, *, scheme: str = "https", seconds: float = 0.5) -> Transport:
        port = (serve(script) if scheme == "https" else serve(script, tls=None)).port
        settings = settings_for(port, url=f"{scheme}://127.0.0.1:{port}", request_timeout_seconds=seconds)
        made.append(Transport(settings, Remedies("lab", settings)))
        return made[-1]

    yield make
    for transport in made:
        transport.close()


def _trickle(start: bytes, pieces: Iterator[bytes]) -> Callable[[Any], None]:
    def script(connection: Any) -> None:
        connection.secure()
        connection.request()
        connection.send(start)
        over = time.monotonic() + 8
        for piece in pieces:
            if time.monotonic() > over:
                return
            connection.send(piece)
            time.sleep(0.05)

    return script


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize(
    ("start", "piece"),
    [
        pytest.param(b"HTTP/1.1 202 ", b"A", id="status line"),
        pytest.param(HEAD + b"X-Long: ", b"a", id="one header"),
        pytest.param(HEAD, b"X: y\r\n", id="headers"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="100 Continue"),
        pytest.param(b"", b"HTTP/1.1 102 Processing\r\n\r\n", id="102 Processing"),
        pytest.param(HEAD + b"Content-Length: 1000\r\n\r\n", b"<", id="body"),
        pytest.param(HEAD + b"\r\n", b"<", id="body without length"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n<\r\n", id="chunks"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a", id="chunk extension"),
    ],
)
def test_an_answer_that_trickles_ends_at_the_deadline(
    transport_to: Callable[..., Transport], start: bytes, piece: bytes, scheme: str
) -> None:
    """Else a slow or hostile server could hold every request slot for as long as it likes."""
    transport = transport_to(_trickle(start, itertools.repeat(piece)), scheme=scheme)
    began = time.monotonic()
    with pytest.raises(BrokenAnswerError, match=r"within 0\.5 s"):
        transport.exchange_once(GET, lambda: None)
    assert time.monotonic() - began < 3


def test_a_handshake_that_trickles_ends_at_the_deadline(transport_to: Callable[..., Transport]) -> None:
    """As above; and of that request it is certain that it was not sent."""

    def script(connection: Any) -> None:
        for piece in itertools.chain([b"\x16\x03\x03\x40\x00"], itertools.repeat(b"\x02", 160)):
            connection.send(piece)
            time.sleep(0.05)

    transport = transport_to(script)
    began = time.monotonic()
    with pytest.raises(NotConnectedError):
        transport.exchange_once(GET, lambda: None)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 199 Whatever\r\n\r\n" * 3,
    ],
)
def test_an_interim_answer_is_not_the_answer_and_its_connection_is_not_used_again(
    transport_to: Callable[..., Transport], interim: bytes
) -> None:
    """Else each request would get the answer of the one before: the links of another job, and so a false "gone"."""
    connections: list[int] = []

    def script(connection: Any) -> None:
        connection.secure()
        connections.append(len(connections))
        while request := connection.request():
            body = request.split(b" ", 2)[1]
            connection.send(interim + HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    transport = transport_to(script, seconds=5)
    for name in ("a", "b", "c"):
        answer = transport.exchange(Request("GET", f"/api/{name}"))
        assert (answer.status, answer.body.decode()) == (202, f"/api/{name}")
    assert len(connections) == 3


def test_a_server_that_switches_protocols_is_not_read_further(transport_to: Callable[..., Transport]) -> None:
    """Else what follows, in whatever protocol, would be taken for the answer to the next request."""
    connections: list[int] = []

    def script(connection: Any) -> None:
        connection.secure()
        connections.append(len(connections))
        while connection.request():
            connection.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")

    transport = transport_to(script, seconds=5)
    assert [transport.exchange(GET).status for _ in range(2)] == [101, 101]
    assert len(connections) == 2
