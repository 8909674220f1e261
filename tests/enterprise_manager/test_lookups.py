"""A host name that is not resolved, and one that has many addresses: a request ends within its time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from worker.enterprise_manager import lookups
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.transport import NotConnectedError, Request, Transport

#: What a test waits for that must not last so long, in seconds.
FAR_TOO_LONG = 30.0


class Resolver:
    """A resolver that answers when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = threading.Event()
        self.found: list[str] = ["127.0.0.1"]
        self.asked = 0
        #: How many questions it loses before it answers at once.
        self.lost = 10**6
        self._true = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, port: int, *arguments: Any, **options: Any) -> list[Any]:
        """Resolve a name; an address is no name."""
        if host != "em.example.com":
            return self._true(host, port, *arguments, **options)
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "it is a name")
        self.asked += 1
        if self.asked <= self.lost:
            self.answers.wait(FAR_TOO_LONG)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, port)) for found in self.found]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """A resolver that does not answer yet."""
    resolver = Resolver(monkeypatch)
    yield resolver
    resolver.answers.set()


def _transport(settings_for: Any, port: int, seconds: float = 1.0) -> Transport:
    settings = settings_for(port, url=f"http://em.example.com:{port}", request_timeout_seconds=seconds)
    return Transport(settings, Remedies("lab", settings))


def test_a_name_that_is_not_resolved_ends_a_request_in_time(resolver: Resolver, settings_for: Any) -> None:
    """A request would hold its slot, and its unlink, for the time-outs of the resolver; so would each one after it."""
    transport = _transport(settings_for, 9)
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(NotConnectedError, match="cannot be reached"):
            transport.exchange(Request("GET", "/api/"))
    assert time.monotonic() - began < FAR_TOO_LONG / 2
    assert resolver.asked == 1


def test_a_lookup_that_never_ends_is_not_waited_for_without_end(
    resolver: Resolver, settings_for: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver's daemon that lost one question kept an Enterprise Manager away until the worker was restarted."""

    def script(connection: Any) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    monkeypatch.setattr(lookups, "SHARED_SECONDS", 0.0)
    transport = _transport(settings_for, serve(script, tls=None).port)
    for _ in range(lookups.MOST_AT_ONCE + 1):
        with pytest.raises(NotConnectedError):
            transport.exchange(Request("GET", "/api/"))
    assert resolver.asked == lookups.MOST_AT_ONCE
    monkeypatch.setattr(lookups, "MOST_AT_ONCE", lookups.MOST_AT_ONCE + 1)
    resolver.lost = resolver.asked
    assert transport.exchange(Request("GET", "/api/")).body == b"ok"


def test_a_request_that_must_not_be_repeated_is_not_permitted_after_its_time(
    resolver: Resolver, settings_for: Any
) -> None:
    """A DELETE would leave long after its unlink was given back."""
    permitted: list[bool] = []
    with pytest.raises(NotConnectedError):
        _transport(settings_for, 9).exchange_once(Request("DELETE", "/api/"), lambda: permitted.append(True))
    resolver.answers.set()
    assert permitted == []


def test_all_addresses_of_a_name_share_the_time_of_one_request(resolver: Resolver, settings_for: Any) -> None:
    """A name with ten addresses that do not answer would take ten times as long."""
    resolver.answers.set()
    listeners: list[socket.socket] = []
    try:
        for number in range(2, 8):
            listener = socket.socket()
            listener.bind((f"127.0.0.{number}", 0 if not listeners else listeners[0].getsockname()[1]))
            listener.listen(0)
            listeners.append(listener)
        port = listeners[0].getsockname()[1]
        resolver.found = [f"127.0.0.{number}" for number in range(2, 8)]
        fillers = [_fill(address, port) for address in resolver.found]
        began = time.monotonic()
        with pytest.raises(NotConnectedError, match="cannot be reached"):
            _transport(settings_for, port).exchange(Request("GET", "/api/"))
        assert time.monotonic() - began < len(listeners) - 1
        for filler in (each for filled in fillers for each in filled):
            filler.close()
    finally:
        for listener in listeners:
            listener.close()


def _fill(address: str, port: int) -> list[socket.socket]:
    """Fill the backlog of a listener, so that it does not answer a further connection."""
    fillers = []
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex((address, port))
        fillers.append(filler)
    return fillers


def test_the_next_address_is_tried_if_the_first_refuses(resolver: Resolver, settings_for: Any, serve: Any) -> None:
    """A host with an address of each kind could not be reached if one of them has no server."""
    resolver.answers.set()
    resolver.found = ["127.0.0.9", "127.0.0.1"]

    def script(connection: Any) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    server = serve(script, tls=None)
    answer = _transport(settings_for, server.port, seconds=20.0).exchange(Request("GET", "/api/"))
    assert (answer.status, answer.body) == (200, b"ok")
