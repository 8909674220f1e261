"""Server-sent events: each step as it is recorded, one poll for all streams, and an end for who does not read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from contracts.events import Outcome
from tests.console.conftest import Console, Estate, bearer
from worker.console import streams
from worker.console.problems import Problem
from worker.console.readings import Readings
from worker.console.streams import Streams

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
        assert next(events)["step"] == "settled"
    answer = console.get(URL, headers={"Last-Event-ID": "nonsense"})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


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
