"""Server-sent events: each step as it is recorded, one poll for all streams, and an end for who does not read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, insert

from contracts.events import Outcome
from tests.console.conftest import Console, Estate, bearer, served
from worker.console import streams
from worker.console.problems import Problem
from worker.console.readings import Readings
from worker.console.streams import Streams
from worker.ledger.tables import steps
from worker.settings import ConsoleProgramSettings

URL = "/api/v1/events"


@contextmanager
def opened(console: Console, last: str | None = None, **query: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a stream that is open."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with console.client.stream("GET", URL, params=query, headers=headers) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines) == ": open"
        yield events_in(lines)


def events_in(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Each event with its ID."""
    number = ""
    for line in lines:
        if line.startswith("id: "):
            number = line.removeprefix("id: ")
        if line.startswith("data: "):
            yield {**json.loads(line.removeprefix("data: ")), "id": number}


def test_each_step_is_sent_as_it_is_recorded(console: Console, estate: Estate) -> None:
    """A program would have to ask again and again."""
    estate.order("CHG0")
    with opened(console) as events:
        lease = estate.order("CHG1")
        taken_up = next(events)
        assert (taken_up["idempotency_key"], taken_up["step"], taken_up["event"]) == ("CHG1", "claimed", None)
        estate.end(lease, Outcome.FAILED)
        end = next(events)
        assert (end["step"], end["event"]["data"]["outcome"]) == ("settled", "failed")
        assert console.get(end["href"]).json()["outcome"] == "failed"


def test_what_was_missed_is_sent_again(console: Console, estate: Estate) -> None:
    """A program that was disconnected would never learn of an end."""
    with opened(console) as events:
        lease = estate.order("CHG1")
        last = next(events)["id"]
    estate.order("CHG2")
    estate.end(lease)
    with opened(console, last, key="CHG1") as events:
        assert [next(events)["step"]] == ["settled"]
    answer = console.get(URL, headers={"Last-Event-ID": "nonsense"})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


@contextmanager
def recorded(engine: Engine, key: str) -> Iterator[None]:
    """A step that is written now, and committed at the end."""
    now = datetime.now(UTC)
    with engine.begin() as connection:
        connection.execute(insert(steps).values(key=key, at=now, worker="worker-a", token=1, step="claimed"))
        yield


def test_a_step_that_is_committed_late_is_sent(postgresql_url: str) -> None:
    """A program would wait for ever for the end of an unlink."""
    estate = Estate(postgresql_url)
    estate.report_status()
    engine = create_engine(postgresql_url.replace("postgresql:", "postgresql+psycopg:"))
    with (
        served(ConsoleProgramSettings(ledger=estate.settings, broker=None), estate.clock) as console,
        opened(console) as events,
    ):
        with recorded(engine, "late"):
            with recorded(engine, "early"):
                pass
            early = next(events)
            assert early["idempotency_key"] == "early"
        late = next(events)
        assert late["idempotency_key"] == "late"
        assert int(late["id"]) < int(early["id"])
        # Nor is it lost to those who were away when it was committed.
        with opened(console, early["id"]) as again:
            assert next(again)["idempotency_key"] == "late"
    engine.dispose()


def test_a_stream_of_one_key_reads_no_others(console: Console, estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reconnection would read the whole ledger, and send nothing for minutes."""
    monkeypatch.setattr(streams, "_AT_ONCE", 1)
    for number in range(20):
        estate.order(f"OTHER{number}")
    read: list[int] = []
    steps_after = Readings.steps_after

    async def counted(self: Readings, *arguments: Any) -> Any:
        found = await steps_after(self, *arguments)
        read.append(len(found))
        return found

    monkeypatch.setattr(Readings, "steps_after", counted)
    lease = estate.order("CHG1")
    with opened(console, "0", key="CHG1") as events:
        assert next(events)["step"] == "claimed"
        estate.end(lease)
        assert next(events)["step"] == "settled"
    assert sum(read) < 30


def test_nobody_listens_without_signing_in(guarded: Console) -> None:
    """Whoever reaches the port would read who asked for what."""
    assert guarded.get(URL).status_code == 401
    with guarded.client.stream("GET", URL, headers=bearer("read")) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")


async def test_all_streams_share_one_poll_and_are_bounded(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand open streams would be a thousand queries a second; and ten thousand fill the memory."""
    monkeypatch.setattr(streams, "MOST_BEHIND", 2)
    readings = Readings(estate.settings, None, estate.clock)
    feed = Streams(readings)
    queues = [await feed.open() for _ in range(streams.MOST_STREAMS)]
    with pytest.raises(Problem, match="Too many streams"):
        await feed.open()
    estate.order("CHG1")
    assert {(await queue.get()).key for queue in queues[1:]} == {"CHG1"}  # type: ignore[union-attr]
    for number in range(2, 5):
        estate.order(f"CHG{number}")
    # The first one was not read: it was ended, with what it had.
    while (step := await queues[0].get()) is not None:
        assert step.key == "CHG1"
    for queue in queues:
        feed.close(queue)
    await asyncio.get_running_loop().shutdown_default_executor()
    readings.close()
