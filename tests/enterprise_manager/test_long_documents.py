"""Long documents: how many are in memory at once, and that no request waits for one for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.enterprise_manager.test_hostile_answers import LOGON, Answers, framed
from tests.garbage import alive, without_search
from tests.waiting import wait_until
from worker.enterprise_manager import Gateway, wire
from worker.enterprise_manager.documents import reading
from worker.enterprise_manager.documents.from_xml import read_xml
from worker.enterprise_manager.documents.reading import read_document
from worker.enterprise_manager.documents.tree import DocumentError, Node
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.responses import Again, NotFound, judge
from worker.enterprise_manager.transport import Answer, Request, Transport
from worker.enterprise_manager.wire import Wire
from worker.unlinks.ports.enterprise_manager import Refused

_REFERENCES = '<Ref UID="urn:veeam:Repository:%08d-0000-4000-8000-000000000000" Name="Scale-out"/>'
_LONG = "".join(_REFERENCES % number for number in range(1000)).encode()
#: The server closes each connection: a client that is not told so might use it again.
_CLOSES = b"Connection: close\r\n"

_DOCUMENT = b"<Refs>" + _LONG + b"</Refs>"
_CUT = b"<Refs>" + _LONG

#: How many requests may be in progress.
_PLACES = 4


class Parsing:
    """Counts what is parsed at the same time. Each document takes until more than two are, or a moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._third = threading.Event()
        self._now = 0
        self.begun = threading.Event()
        self.ended = 0
        self.most = 0

    def __call__(self, body: bytes) -> Node:
        """Parse it."""
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        if self._now > 2:
            self._third.set()
        self.begun.set()
        try:
            self._third.wait(0.1)
            return read_document(body)
        finally:
            with self._lock:
                self._now -= 1
                self.ended += 1


@pytest.fixture
def parsing(monkeypatch: pytest.MonkeyPatch) -> Parsing:
    """Counts what is parsed."""
    parsing = Parsing()
    monkeypatch.setattr(wire, "read_document", parsing)
    return parsing


@pytest.fixture
def wire_to(settings_for: Any, clock: Any) -> Iterator[Callable[..., Wire]]:
    """Makes wires to a server on this machine."""
    wires: list[Wire] = []

    def make(port: int, places: int) -> Wire:
        settings = settings_for(port, url=f"http://127.0.0.1:{port}", max_requests=places)
        wires.append(Wire("lab", Transport(settings, Remedies("lab", settings)), clock, places))
        return wires[-1]

    yield make
    for each in wires:
        each.close()


async def _read(wire: Wire) -> Node:
    return await wire.read(await wire.exchange(Request("GET", "/api/repositories")))


async def test_few_are_parsed_at_once_and_few_wait_for_it(
    serve: Any, wire_to: Callable[..., Wire], parsing: Parsing
) -> None:
    """Seventeen trees of 50 MB were made at the same time, and none of them faster."""
    unread: list[int] = []
    lock = threading.Lock()

    class Counted(Answers):
        def __call__(self, connection: Any) -> None:
            with lock:
                unread.append(len(unread) + 1 - parsing.ended)
            super().__call__(connection)

    answers = Counted()
    answers.next = framed(200, _DOCUMENT, _CLOSES)
    wire = wire_to(serve(answers, tls=None).port, _PLACES)
    documents = await asyncio.gather(*(_read(wire) for _ in range(12)))
    assert [len(document.children) for document in documents] == [1000] * 12
    assert parsing.most == 2
    assert max(unread) == _PLACES


async def test_no_place_is_lost_with_a_long_document(
    serve: Any, wire_to: Callable[..., Wire], parsing: Parsing
) -> None:
    """Else after some cancelled unlinks every request would wait for ever for a place."""
    answers = Answers()
    wire = wire_to(serve(answers, tls=None).port, 1)
    for _ in range(3):
        answers.next = framed(200, _CUT, _CLOSES)
        with pytest.raises(DocumentError):
            await asyncio.wait_for(_read(wire), 10)
        answers.next = framed(200, _DOCUMENT, _CLOSES)
        answer = await wire.exchange(Request("GET", "/api/repositories"))
        parsing.begun.clear()
        reads = [asyncio.create_task(wire.read(answer)) for _ in range(5)]  # two of them are parsed
        await asyncio.to_thread(parsing.begun.wait)
        for each in reads:
            each.cancel()
        await asyncio.wait(reads)
    assert len((await asyncio.wait_for(_read(wire), 10)).children) == 1000


async def test_one_page_of_a_list_is_in_memory_at_a_time(serve: Any, settings_for: Any, clock: Any) -> None:
    """The first page and the one before were kept while the next was read: three trees for each list."""
    asked: list[int] = []

    class Pages(Answers):
        def __call__(self, connection: Any) -> None:
            if connection.request().startswith(b"POST"):
                connection.send(LOGON)
                return
            with suppress(AssertionError):  # a thread may not have come back to its queue yet
                wait_until(lambda: alive(Node) < before + 100, seconds=20)
            asked.append(alive(Node))
            paging = b'<PagingInfo PageNum="%d" PagesCount="5"/>' % (1 + (len(asked) - 1) % 5)
            connection.send(framed(200, b"<Refs>" + _LONG + paging + b"</Refs>"))

    server = serve(Pages(), tls=None)
    gateway = Gateway("lab", settings_for(server.port, url=f"http://127.0.0.1:{server.port}"), clock)
    with without_search():
        before = alive(Node)
        assert len(await gateway.names("Repository")) == 1000
        await gateway.close(log_off=False)
    assert len(asked) == 10
    assert max(asked) < before + 100


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_long_error_is_no_error_document(settings_for: Any, status: int) -> None:
    """An error of any length was parsed on the event loop, while every other unlink waited."""
    body = b'<Error StatusCode="404" Message="It is not there">' + _LONG + b"</Error>"
    with pytest.raises((Again, Refused)) as error:
        judge(Answer(status, {}, body), Remedies("lab", settings_for(1)))
    assert "It is not there" not in str(error.value)


def test_the_error_of_a_404_is_parsed_once(settings_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was parsed twice, on the event loop."""
    parsed: list[bytes] = []

    def counting(body: bytes) -> Node:
        parsed.append(body)
        return read_xml(body)

    monkeypatch.setattr(reading, "read_xml", counting)
    with pytest.raises(NotFound, match="It is not there"):
        judge(Answer(404, {}, b'<Error StatusCode="404" Message="It is not there"/>'), Remedies("lab", settings_for(1)))
    assert len(parsed) == 1
