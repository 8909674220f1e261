"""One client, or many slow ones, cannot take the console from the others."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator

import pytest

from tests.console.conftest import Console, Estate, bearer, served
from tests.waiting import wait_until
from worker.clock import SystemClock
from worker.console import server
from worker.console.addresses import block_of, is_in, networks_of, without_port
from worker.console.throttle import Throttle
from worker.settings import ConsoleProgramSettings, ConsoleSettings, SettingsInvalidError


def port_of(console: Console) -> int:
    """Where it listens."""
    return int(console.url.rpartition(":")[2])


@pytest.fixture
def few_files() -> Iterator[int]:
    """A soft limit of open files below the hard one, which it gives."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] // 2, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_it_may_open_as_many_files_as_the_system_allows(estate: Estate, few_files: int) -> None:
    """With the usual limit, 1024, a thousand connections would leave no file for the ledger and the broker."""
    settings = ConsoleProgramSettings(ledger=estate.settings, console=ConsoleSettings(host="10.255.255.1"))
    with pytest.raises(SettingsInvalidError):  # as soon as it would listen
        server.serve(settings, SystemClock())
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (few_files, few_files)


def test_an_answer_that_is_not_read_ends_its_connection(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that ask and do not read would hold all connections."""
    monkeypatch.setattr(server, "_UNREAD_SECONDS", 1)
    monkeypatch.setattr(server, "_IDLE_SECONDS", 3600)
    with (
        served(ConsoleProgramSettings(ledger=estate.settings, broker=None), estate.clock) as console,
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", port_of(console)))
        client.sendall(b"GET /static/htmx-2.0.11.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
        mine = client.getsockname()[1]

        def ports() -> set[int]:
            peers = [getattr(each, "client", None) for each in list(console.server.server_state.connections)]
            return {peer[1] for peer in peers if peer}

        wait_until(lambda: mine in ports(), "it is connected")
        wait_until(lambda: mine not in ports(), "it is disconnected")
        assert console.get("/livez").status_code == 200


def test_one_client_cannot_have_all_connections(
    estate: Estate, users_file: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One host that opens connections, and sends nothing, would give everybody else a plain 503."""
    monkeypatch.setattr(server, "_MOST_OF_ONE", 20)
    monkeypatch.setattr(server, "is_loopback", lambda _address: False)
    console = ConsoleSettings.model_validate({"users_file": users_file})
    with served(ConsoleProgramSettings(ledger=estate.settings, broker=None, console=console), estate.clock) as guarded:
        idle = [socket.create_connection(("127.0.0.1", port_of(guarded)), timeout=60) for _ in range(20)]
        with socket.create_connection(("127.0.0.1", port_of(guarded)), timeout=60) as refused:
            answer = b""
            while part := refused.recv(4096):
                answer += part
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"too many connections" in answer
        # Another host is served, and so is this one when it has closed some.
        with socket.create_connection(("127.0.0.1", port_of(guarded)), 60, ("127.0.0.2", 0)) as other:
            other.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert other.recv(4096).startswith(b"HTTP/1.1 200")
        for each in idle:
            each.close()
        wait_until(lambda: guarded.get("/api/v1/unlinks", headers=bearer("read")).status_code == 200)


@pytest.mark.parametrize("exempt", ["proxy", "this host"])
def test_a_proxy_may_have_more_connections(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, exempt: str, users_file: object
) -> None:
    """Everybody behind it would share the connections of one client."""
    monkeypatch.setattr(server, "_MOST_OF_ONE", 5)
    if exempt == "proxy":
        monkeypatch.setattr(server, "is_loopback", lambda _address: False)
    trusted = "10.0.0.1, 127.0.0.0/8" if exempt == "proxy" else ""
    console = ConsoleSettings.model_validate({"users_file": users_file, "trusted_proxies": trusted})
    with served(ConsoleProgramSettings(ledger=estate.settings, broker=None, console=console), estate.clock) as guarded:
        idle = [socket.create_connection(("127.0.0.1", port_of(guarded))) for _ in range(10)]
        assert guarded.get("/api/v1/unlinks", headers=bearer("read")).status_code == 200
        for each in idle:
            each.close()


# --- whose address it is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hop", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:40000", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:40000", "2001:db8::1"),
        ("unknown", "unknown"),
        ("_hidden:1", "_hidden:1"),
    ],
)
def test_the_port_of_a_client_is_not_its_address(hop: str, address: str) -> None:
    """Azure and IIS add it: each connection would be a new address, for the throttle of logins and in the audit."""
    assert without_port(hop) == address


def test_a_client_that_changes_its_port_is_one_client(
    estate: Estate, users_file: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who guesses passwords through such a proxy would never have to wait."""
    monkeypatch.setattr(SystemClock, "monotonic", lambda _clock: 1000.0)
    console = ConsoleSettings.model_validate({"users_file": users_file, "trusted_proxies": "127.0.0.1"})
    with served(ConsoleProgramSettings(ledger=estate.settings, broker=None, console=console), estate.clock) as guarded:
        statuses = [
            guarded.client.post(
                "/login",
                data={"name": "nobody", "password": "x"},
                headers={"Origin": guarded.url, "X-Forwarded-For": f"203.0.113.7:{40000 + number}"},
            ).status_code
            for number in range(7)
        ]
    assert statuses == [401] * 5 + [429] * 2 or statuses == [401] * 6 + [429]
    assert "203.0.113.7:" not in capsys.readouterr().out


def test_an_ipv6_network_is_one_client() -> None:
    """Each host has 2**64 addresses: it could keep both comparisons of passwords busy for ever."""
    throttle = Throttle(SystemClock())
    for number in range(25):
        throttle.failed(f"user-{number}", f"2001:db8:0:1::{number:x}")
    assert throttle.seconds_to_wait("another", "2001:db8:0:1:ffff::1") > 0
    assert throttle.seconds_to_wait("another", "2001:db8:0:2::1") == 0


@pytest.mark.parametrize(
    ("address", "block"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_a_block_is_what_one_client_has(address: str, block: str) -> None:
    """Clients would be mixed up, or one counted as many."""
    assert block_of(address) == block


def test_a_proxy_is_known_by_its_ipv4_address_on_an_ipv6_socket() -> None:
    """With HOST=::, the trusted proxy's own address would stand in the audit for every client."""
    assert is_in("::ffff:10.0.0.1", networks_of("10.0.0.0/8, 2001:db8::/32"))
    assert not is_in("::ffff:11.0.0.1", networks_of("10.0.0.0/8"))
    assert not is_in("unknown", networks_of("10.0.0.0/8"))
