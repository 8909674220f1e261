"""Reading ledger and broker for pages: a slow or missing part of them costs only itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy import make_url

from tests.console.conftest import Console, Estate, bearer, served
from tests.console.test_users import log_in
from tests.waiting import until, wait_until
from worker.broker.client import BrokerClient, BrokerClientError
from worker.clock import SystemClock
from worker.console import readings as module
from worker.console.keys import to_path
from worker.console.readings import Readings, Shared
from worker.ledger import Inspection
from worker.settings import BrokerSettings, ConsoleProgramSettings, ConsoleSettings

BROKER = BrokerSettings.model_validate({"url": "amqp://guest:guest@127.0.0.1:1/"})
COUNTS = {"unlink.commands.default": 7, "unlink.dead": 3}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The ready messages of each queue of a broker; a queue that is not here does not exist."""
    counts = COUNTS | {f"unlink.delay.{seconds}s": 1 for seconds in (5, 30, 120, 600)}

    def count(_client: BrokerClient, queue: str) -> int:
        if queue not in counts:
            raise BrokerClientError(f"there is no queue {queue}")
        return counts[queue]

    monkeypatch.setattr(BrokerClient, "__enter__", lambda client: client)
    monkeypatch.setattr(BrokerClient, "__exit__", lambda *_: None)
    monkeypatch.setattr(BrokerClient, "count", count)
    monkeypatch.setattr(BrokerClient, "ready", lambda _client, queue: counts.get(queue))
    monkeypatch.setattr(BrokerClient, "waiting", lambda _client, name: counts.get(f"unlink.commands.{name}"))
    monkeypatch.setattr(BrokerClient, "delayed", lambda _client: 4)
    return counts


@pytest.fixture
def informed(estate: Estate, users_file: Path, counts: dict[str, int]) -> Iterator[Console]:
    """The console on the ledger, with users and that broker."""
    assert counts
    settings = ConsoleProgramSettings(
        ledger=estate.settings, broker=BROKER, console=ConsoleSettings(users_file=users_file)
    )
    with served(settings, estate.clock) as console:
        yield console


def test_without_the_ledger_the_overview_shows_what_the_broker_knows(informed: Console, estate: Estate) -> None:
    """The counts of the broker are known, and what is missing would not be said."""
    assert "updates by itself" in informed.get("/", headers=bearer("read")).text
    file = Path(str(make_url(estate.settings.url.get_secret_value()).database))
    away = file.rename(file.with_suffix(".away"))
    wait_until(lambda: informed.get("/", headers=bearer("read")).status_code == 503)
    page = informed.get("/", headers=bearer("read")).text
    for part in (
        "there is no file",
        "Unlinks, workers and the state of each Enterprise Manager are missing here",
        "<dt>Waiting for default</dt><dd>7</dd>",
        "<dt>Delayed</dt><dd>4</dd>",
        "Dead letters</a></dt><dd>3</dd>",
        'http-equiv="refresh"',
    ):
        assert part in page
    # An open page keeps what it shows, and says that it is old.
    assert informed.get("/?part=true", headers=bearer("read")).status_code == 503
    away.rename(file)
    wait_until(lambda: "updates by itself" in informed.get("/", headers=bearer("read")).text)


def test_a_queue_that_is_missing_hides_no_other_count(estate: Estate, counts: dict[str, int]) -> None:
    """Whoever has deleted `unlink.dead` would not see how many commands wait, either."""
    del counts["unlink.dead"]
    readings = Readings(estate.settings, BROKER, SystemClock())
    queues = asyncio.run(readings.queues())
    readings.close()
    assert (queues.waiting, queues.delayed, queues.dead, queues.problem) == ({"default": 7}, 4, None, None)


def test_a_reading_that_takes_long_is_shown_when_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker whose host name has a dead first address would never be shown: each reading was old when it ended."""
    now = 1000.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))

    async def slow() -> None:
        nonlocal now
        let_go = asyncio.Event()
        readings = 0

        async def read() -> int:
            nonlocal readings
            readings += 1
            await let_go.wait()
            return readings

        shared = Shared(read, 5.0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(shared.get(), 0.01)
        now += 20.0
        let_go.set()
        await until(lambda: shared.last(60.0) == 1)
        assert await shared.get() == 1

    asyncio.run(slow())


def test_while_the_broker_is_slow_the_last_counts_are_shown(
    estate: Estate, counts: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The overview would change between figures and "not known" every few seconds."""
    monkeypatch.setattr(module, "_MOST_WAIT_SECONDS", 60.0)
    monkeypatch.setattr(module, "QUEUES_SECONDS", 0.0)
    over = threading.Event()

    async def looked() -> None:
        readings = Readings(estate.settings, BROKER, SystemClock())
        before = await readings.queues()
        assert before.waiting == {"default": 7}
        monkeypatch.setattr(module, "_MOST_WAIT_SECONDS", 0.05)
        monkeypatch.setattr(BrokerClient, "__enter__", lambda client: over.wait(60) and client)
        assert await readings.queues() is before
        monkeypatch.setattr(module, "_MOST_AGE_SECONDS", -1.0)
        assert (await readings.queues()).problem == "the broker has not answered yet"
        over.set()
        readings.close()

    assert counts
    asyncio.run(looked())


class HangingLedger:
    """A database that takes questions and does not answer, until it is let go."""

    def __init__(self) -> None:
        self.questions = 0
        self.over = threading.Event()

    def ask(self, answer: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Ask it."""
        self.questions += 1
        self.over.wait(60)
        return answer(*arguments, **options)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingLedger]:
    """The ledger's histories and batches hang."""
    ledger = HangingLedger()
    for name in ("history", "batch_page"):
        answer = getattr(Inspection, name)
        monkeypatch.setattr(
            Inspection, name, lambda *each, answer=answer, **options: ledger.ask(answer, *each, **options)
        )
    yield ledger
    ledger.over.set()


@pytest.mark.parametrize("path", ["/unlinks/{}?part=true", "/batches/{}?part=true"])
async def test_open_pages_of_a_ledger_that_hangs_delay_no_login(
    guarded: Console, hanging: HangingLedger, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Each open page would take a thread: nobody could sign in while the database hangs."""
    monkeypatch.setattr(module, "TURN_SECONDS", 0.5)
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=guarded.url, headers=bearer("read"), timeout=90, limits=limits) as client:
        pages = [asyncio.create_task(client.get(path.format(to_path(f"CHG{number}")))) for number in range(70)]
        await until(lambda: hanging.questions > 0)
        done, _ = await asyncio.wait(pages, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        # Those that get no turn are told so, and the threads of the others are few.
        assert hanging.questions == 8
        answer = done.pop().result()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "The ledger is busy" in answer.text
        assert (await asyncio.to_thread(log_in, guarded, "operateer")).status_code == 303
        assert hanging.questions == 8
        hanging.over.set()
        statuses = {(await page).status_code for page in pages}
    assert statuses == {404, 503}


def test_none_waiting_is_not_said_to_be_none(informed: Console, counts: dict[str, int]) -> None:
    """While somebody reads them by the command line, the page would say that every command could be read."""
    counts["unlink.dead"] = 0
    page = informed.get("/dead-letters", headers=bearer("read")).text
    assert "None is waiting in" in page
    assert "What somebody reads at this moment" in page
    assert "every command" not in page


def test_dead_letters_that_cannot_be_counted_are_explained(informed: Console, counts: dict[str, int]) -> None:
    """The page would say that the number is not known, because of nothing."""
    del counts["unlink.dead"]
    page = informed.get("/dead-letters", headers=bearer("read")).text
    assert "not known: unlink.dead does not exist" in page
