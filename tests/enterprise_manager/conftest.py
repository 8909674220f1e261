"""What the tests of the Enterprise Manager client share: a clock that does not wait, and a server that misbehaves."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from worker.enterprise_manager import Gateway
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_LINK_ID,
    Behaviour,
    LinkedRepository,
    SimulatedEnterpriseManager,
)
from worker.settings import EnterpriseManagerSettings
from worker.unlinks.ports.enterprise_manager import Task, TaskTicket


class QuickClock:
    """A clock whose waits are over at once, but are counted. Jitter changes nothing."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self._counted, self._ahead = 0, 0.0

    def now(self) -> dt.datetime:
        """The time of day."""
        return dt.datetime.now(dt.UTC)

    def monotonic(self) -> float:
        """Real seconds, and those that were waited."""
        self._ahead += sum(self.waited[self._counted :])  # those since the last look: a test may wait a million times
        self._counted = len(self.waited)
        return time.monotonic() + self._ahead

    async def sleep(self, seconds: float) -> None:
        """Count the wait, and let others have a turn."""
        self.waited.append(seconds)
        await asyncio.sleep(0)

    def jitter(self, seconds: float) -> float:
        """No jitter."""
        return seconds


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them keep one certificate."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
def clock() -> QuickClock:
    """A clock that does not wait."""
    return QuickClock()


class Connection:
    """One connection to the scripted server, before its TLS handshake unless `secure` is called."""

    def __init__(self, raw: socket.socket, tls: ssl.SSLContext | None, requests: list[bytes]) -> None:
        self._socket = raw
        self._tls = tls
        self._requests = requests

    def secure(self) -> None:
        """Do the TLS handshake."""
        if self._tls is not None:
            self._socket = self._tls.wrap_socket(self._socket, server_side=True)

    def request(self) -> bytes:
        """Read one request without a body; empty if the other side closed."""
        received = b""
        while not received.endswith(b"\r\n\r\n") and (piece := self._socket.recv(4096)):
            received += piece
        if received:
            self._requests.append(received)
        return received

    def send(self, answer: bytes) -> None:
        """Send bytes."""
        self._socket.sendall(answer)

    def reset(self) -> None:
        """Close with a TCP reset."""
        raw = socket.socket(fileno=self._socket.detach())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()

    def close(self) -> None:
        """Close."""
        with suppress(OSError):
            self._socket.close()


class ScriptedServer:
    """Does with each connection what the next script says; the last script is repeated."""

    def __init__(self, *scripts: Callable[[Connection], None], tls: ssl.SSLContext | None) -> None:
        self._scripts = list(scripts)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.requests: list[bytes] = []
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            raw.settimeout(10)
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            self._start(self._serve, raw, script)

    def _serve(self, raw: socket.socket, script: Callable[[Connection], None]) -> None:
        connection = Connection(raw, self._tls, self.requests)
        try:
            with suppress(OSError):
                script(connection)
        finally:
            connection.close()

    def close(self) -> None:
        """Stop listening."""
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority of the tests' own."""
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its certificate."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def _server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
def tls_of() -> Callable[[trustme.LeafCert], ssl.SSLContext]:
    """Makes what a server serves a certificate with."""
    return _server_context


@pytest.fixture
def serve(authority: trustme.CA) -> Iterator[Callable[..., ScriptedServer]]:
    """Start scripted servers, by default with a certificate for 127.0.0.1; `tls=None` for plain HTTP."""
    servers: list[ScriptedServer] = []
    default = _server_context(authority.issue_cert("127.0.0.1"))

    def start(*scripts: Callable[[Connection], None], tls: ssl.SSLContext | None = default) -> ScriptedServer:
        servers.append(ScriptedServer(*scripts, tls=tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def settings_for(ca_file: Path) -> Callable[..., EnterpriseManagerSettings]:
    """Settings for a server on this machine's port; any of them can be given otherwise."""

    def make(port: int, **others: Any) -> EnterpriseManagerSettings:
        given = {"url": f"https://127.0.0.1:{port}", "ca_file": ca_file, "request_timeout_seconds": 5.0} | others
        return EnterpriseManagerSettings(username="svc-unlink", password=SecretStr("correct horse"), **given)

    return make


@pytest.fixture
def spelling() -> tuple[str, dict[str, Any]]:
    """The format asked for, and how the server spells it; files of tests choose others."""
    return "xml", {}


@pytest.fixture
def em(spelling: tuple[str, dict[str, Any]]) -> Iterator[SimulatedEnterpriseManager]:
    """A simulated Enterprise Manager with one copy job that has two links."""
    with SimulatedEnterpriseManager.start(behaviour=Behaviour(**spelling[1])) as simulated:
        links = [
            LinkedRepository(VENDOR_LINK_ID, "da49abfc-838a-40a1-90a3-40acd2bc7000"),
            LinkedRepository("961c9350-dc5a-43d6-8efa-867995e9404e", "5ef453b0-f3c3-4fe7-be52-2106b6d79ca6"),
        ]
        simulated.add_job(id=VENDOR_JOB_ID, name="Copy to Frankfurt", links=links)
        yield simulated


@pytest.fixture
async def gateway_with(
    em: SimulatedEnterpriseManager, spelling: tuple[str, dict[str, Any]], clock: Any
) -> AsyncIterator[Callable[..., Gateway]]:
    """Makes gateways to it; any setting can be given otherwise."""
    gateways: list[Gateway] = []

    def make(**others: Any) -> Gateway:
        given = {
            "url": em.url,
            "username": em.username,
            "password": SecretStr(em.password),
            "ca_file": em.ca_file,
            "format": spelling[0],
            "request_timeout_seconds": 5,
        }
        gateways.append(Gateway("lab", EnterpriseManagerSettings(**given | others), clock))
        return gateways[-1]

    yield make
    for gateway in gateways:
        await gateway.close(log_off=False)


@pytest.fixture
def gateway(gateway_with: Callable[..., Gateway]) -> Gateway:
    """A gateway to it."""
    return gateway_with()


@pytest.fixture
def finish() -> Callable[[Gateway, TaskTicket], Awaitable[Task]]:
    """Follows a task to its end."""

    async def follow(gateway: Gateway, ticket: TaskTicket) -> Task:
        async with asyncio.timeout(10):
            while not (task := await gateway.task(ticket)).finished:  # noqa: ASYNC110 - the server's time passes
                await asyncio.sleep(0.01)
        return task

    return follow
