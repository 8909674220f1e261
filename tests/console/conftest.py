"""The console on a ledger of its own, and a browser that looks at it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import uvicorn
from argon2 import PasswordHasher
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy import make_url

from contracts.events import Outcome
from tests.private_servers.chromium import private_chromium
from tests.waiting import wait_until
from worker.clock import SystemClock
from worker.console.addresses import networks_of
from worker.console.app import create_app
from worker.console.server import configuration_for, listening
from worker.ledger import ManagerState, WorkerState
from worker.ledger.sql_ledger import SqlLedger
from worker.settings import ConsoleProgramSettings, ConsoleSettings, LedgerSettings
from worker.unlinks.ports.enterprise_manager import Link, TaskTicket
from worker.unlinks.ports.ledger import Claimed, Intended, Intent, Lease, NewClaim, Settled, Submitted

T = TypeVar("T")

expect.set_options(timeout=30_000)

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
JOB_ID = "d1b85018-2769-45be-89bc-03f66b60e6cb"
LINK = Link("27a1d57f-7c15-43c6-9162-d05aff1c9bb9", "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec", "Scale-out 3")


#: Of every person.
PASSWORD = "correct horse battery staple"


class Estate:
    """A ledger, and what a worker writes into it."""

    def __init__(self, url: str) -> None:
        self.settings = LedgerSettings.model_validate({"url": url})
        self.clock = SystemClock()
        self.key = ""

    def work(self, work: Callable[[SqlLedger], Coroutine[Any, Any, T]]) -> T:
        """Let a worker do something."""

        async def done() -> T:
            ledger = SqlLedger(self.settings, "worker-a", self.clock, trace_id=lambda: TRACE_ID)
            await ledger.start()
            try:
                return await work(ledger)
            finally:
                await ledger.close()

        # Playwright's loop runs in this thread.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(done())).result()

    def report_status(self, *, up: bool = True, in_flight: int = 0, worker: str = "worker-a") -> None:
        """Write a worker's status row."""
        problem = None if up else "https://em.example.com:9398 cannot be reached"
        manager = ManagerState(up, self.clock.now() - timedelta(minutes=3), problem)
        state = WorkerState(worker, "0.1.0", in_flight, False, {"default": manager})
        self.work(lambda ledger: ledger.report_status(state))

    def order(self, key: str, *, user_id: str = "servicenow", fingerprint: str = "f" * 64, **fields: Any) -> Lease:
        """Take a command up."""
        content = {"job": {"name": "Copy to Frankfurt"}, "repository": {"name": "Scale-out 3"}, **fields}
        body = json.dumps({"command": "unlink.v1", "idempotency_key": key, **content}).encode()

        async def claim(ledger: SqlLedger) -> Lease:
            result = await ledger.claim(NewClaim(key, fingerprint, "default", body, self.clock.now(), user_id))
            assert isinstance(result, Claimed)
            return result.entry.lease

        return self.work(claim)

    def send(self, lease: Lease, job: str = "Copy to Frankfurt", link: Link = LINK) -> None:
        """Have its DELETE answered with a task."""

        async def send(ledger: SqlLedger) -> None:
            await ledger.record(lease, Intended(Intent(JOB_ID, job, link), self.clock.now()))
            await ledger.record(lease, Submitted(TaskTicket("task-1", "session"), self.clock.now()))

        self.work(send)

    def end(self, lease: Lease, outcome: Outcome = Outcome.SUCCEEDED, **data: Any) -> None:
        """End it."""
        content = {"outcome": outcome, "summary": f"It {outcome}.", **data}
        event = json.dumps({"specversion": "1.0", "id": "event-1", "data": content}).encode()
        self.work(lambda ledger: ledger.record(lease, Settled(outcome, event, self.clock.now())))

    def write(self, statement: str, rows: Iterable[tuple[Any, ...]] = ((),)) -> None:
        """Write what takes workers long: a statement of SQLite, for each of these rows."""
        file = make_url(self.settings.url.get_secret_value()).database
        with closing(sqlite3.connect(str(file))) as connection, connection:
            connection.executemany(statement, rows)


@pytest.fixture
def estate(sqlite_url: str) -> Estate:
    """An empty ledger."""
    estate = Estate(sqlite_url)
    estate.report_status()
    return estate


@dataclass(frozen=True, slots=True)
class Console:
    """The console while it serves."""

    url: str
    client: httpx.Client
    server: uvicorn.Server

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Ask it."""
        return self.client.get(path, **options)


@contextmanager
def served(settings: ConsoleProgramSettings, clock: SystemClock) -> Iterator[Console]:
    """The console with these settings, over HTTP; its own address stands in for `PUBLIC_URL`, if there are users."""
    with listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        where = settings.console.model_copy(update={"port": port})
        settings = settings.model_copy(update={"console": where})
        proxies = networks_of(where.trusted_proxies)
        server = uvicorn.Server(configuration_for(create_app(settings, clock), proxies))
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        wait_until(lambda: server.started)
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                yield Console(url, client, server)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def console(estate: Estate) -> Iterator[Console]:
    """The console on the ledger, without users."""
    with served(ConsoleProgramSettings(ledger=estate.settings, broker=None), estate.clock) as console:
        yield console


@pytest.fixture(scope="session")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person and a program of each role; see `PASSWORD` and `token_of`."""
    # Sixty logins of the usual strength would take seconds of two cores.
    digest = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    lines = []
    for role in ("read", "submit", "operate"):
        token = hashlib.sha256(token_of(role).encode()).hexdigest()
        lines += ["[[users]]", f'name = "{role}er"', f'role = "{role}"', f'password_argon2 = "{digest}"']
        lines += ["[[users]]", f'name = "{role}-program"', f'role = "{role}"', f'token_sha256 = "{token}"']
    file = tmp_path_factory.mktemp("users") / "users.toml"
    file.write_text("\n".join(lines))
    return file


def token_of(role: str) -> str:
    """The token of the program of this role."""
    return f"token-of-{role}"


def bearer(role: str) -> dict[str, str]:
    """The header of the program of this role."""
    return {"Authorization": f"Bearer {token_of(role)}"}


@pytest.fixture
def guarded(estate: Estate, users_file: Path) -> Iterator[Console]:
    """The console on the ledger, with users, and without a broker."""
    settings = ConsoleProgramSettings(
        ledger=estate.settings, broker=None, console=ConsoleSettings(users_file=users_file)
    )
    with served(settings, estate.clock) as console:
        yield console


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser."""
    with private_chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@contextmanager
def browsing(chromium: Browser, console: Console) -> Iterator[Callable[..., Page]]:
    """Opens a page of the console, in a reader's zone; what the browser complains of fails the test."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_page(path: str, **options: Any) -> Page:
        context = chromium.new_context(
            **{"timezone_id": "Asia/Kolkata", "locale": "en-GB", "base_url": console.url, **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    # A test may type into a form before its first field has taken the focus.
    expected = ("the server responded with a status of 4", "Autofocus processing was blocked")
    assert [each for each in complaints if not any(text in each for text in expected)] == []


@pytest.fixture
def browse(chromium: Browser, console: Console) -> Iterator[Callable[..., Page]]:
    """Opens a page of the console without users."""
    with browsing(chromium, console) as browse:
        yield browse


def sign_in(page: Page, name: str) -> None:
    """Fill in the form, as the person of this name."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
