"""Server-sent events: every recorded step, as the workers write it. One poll of the ledger serves all streams."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from worker.console.api import Known
from worker.console.keys import to_path
from worker.console.models import StepEvent
from worker.console.problems import Problem
from worker.console.readings import Readings
from worker.ledger.search_terms import whole_of
from worker.ledger.step_feed import FedStep

router = APIRouter()

#: How many streams may be open, and how many steps one may be behind before it is ended.
MOST_STREAMS: Final = 1000
MOST_BEHIND: Final = 2000
#: How long a stream lasts, in seconds. The client then connects again, and its access is checked again.
_STREAM_SECONDS: Final = 600.0
_POLL_SECONDS: Final = 1.0
#: After this long without a step, in seconds, a comment is sent, so that no proxy ends the stream.
_QUIET_SECONDS: Final = 15.0
#: How many steps are read at once.
_AT_ONCE: Final = 500
#: A step may be committed so many seconds after one with a higher ID; and so many of the missing ones are looked for.
_LATE_SECONDS: Final = 15.0
_MOST_MISSING: Final = 500
#: The most decimal digits of a step's ID.
_DIGITS: Final = 18


class Missing:
    """The IDs between recorded steps that no step has yet: it is late, or was rolled back and never comes."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    @property
    def ids(self) -> list[int]:
        """Those that may still come."""
        oldest = time.monotonic() - _LATE_SECONDS
        self._since = {number: since for number, since in self._since.items() if since > oldest}
        return list(self._since)[-_MOST_MISSING:]

    def passed(self, before: int, steps: Sequence[FedStep]) -> None:
        """Note the gaps between the step `before` and these, the lowest ID first."""
        now = time.monotonic()
        for low, high in itertools.pairwise((before, *(step.id for step in steps))):
            self._since |= dict.fromkeys(range(max(low + 1, high - _MOST_MISSING), high), now)

    def found(self, steps: Sequence[FedStep]) -> None:
        """Note that these have come."""
        for step in steps:
            self._since.pop(step.id, None)


@dataclass(frozen=True, slots=True)
class Sent:
    """A step as it is sent, made once for all streams."""

    key: str
    text: str


class Streams:
    """The open streams, and the task that polls the ledger while there is one."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._queues: set[asyncio.Queue[Sent | None]] = set()
        self._opening = asyncio.Lock()
        self._poll: asyncio.Task[None] | None = None

    async def open(self) -> asyncio.Queue[Sent | None]:
        """A queue of all steps from now on; None after the last one, because the reader was too slow.

        Raises:
            Problem: too many are open, or the ledger cannot be read; 503.
        """
        if len(self._queues) >= MOST_STREAMS:
            raise Problem(503, "Too many streams are open.", headers={"Retry-After": "60"})
        queue: asyncio.Queue[Sent | None] = asyncio.Queue()
        async with self._opening:
            if self._poll is None or self._poll.done():
                newest = await self._readings.newest_step()
                recent = await self._readings.steps_after(newest - _MOST_MISSING, _MOST_MISSING)
                self._queues.add(queue)
                self._poll = asyncio.create_task(self._publish_from(newest, recent))
        self._queues.add(queue)
        return queue

    def close(self, queue: asyncio.Queue[Sent | None]) -> None:
        """End a stream."""
        self._queues.discard(queue)

    async def _publish_from(self, newest: int, recent: Sequence[FedStep]) -> None:
        missing = Missing()
        missing.passed(recent[0].id if recent else newest, recent[1:])
        while self._queues:
            ids = missing.ids
            try:
                late = await self._readings.steps_with(ids) if ids else ()
                steps = await self._readings.steps_after(newest, _AT_ONCE)
            except Problem:
                late = steps = ()  # the ledger is away: what was written meanwhile is sent when it is back
            missing.found(late)
            missing.passed(newest, steps)
            newest = steps[-1].id if steps else newest
            new = [sent(step) for step in (*late, *steps)]
            for queue in list(self._queues):
                self._put(queue, new)
            if len(steps) < _AT_ONCE:
                await asyncio.sleep(_POLL_SECONDS)

    def _put(self, queue: asyncio.Queue[Sent | None], steps: Sequence[Sent]) -> None:
        if queue.qsize() + len(steps) > MOST_BEHIND:
            self.close(queue)
            queue.put_nowait(None)
            return
        for step in steps:
            queue.put_nowait(step)


@router.get(
    "/api/v1/events",
    operation_id="streamEvents",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/StepEvent"}}}}},
)
async def stream_events(
    request: Request,
    readings: Known,
    key: Annotated[str | None, Query(max_length=200, description="Only the steps of this key.")] = None,
    last_event_id: Annotated[str | None, Header(max_length=30)] = None,
) -> StreamingResponse:
    """Server-sent events: each step of every unlink, as it is recorded; with an end, the terminal event.

    The data is a `StepEvent`. A stream ends after ten minutes, or if its reader is too slow: connect again with
    `Last-Event-ID`, as browsers do, and what was missed follows. A step may come twice, with the same ID.
    """
    streams: Streams = request.app.state.streams
    after = None
    if last_event_id:
        if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > _DIGITS:
            said = "must be the id of an event"
            raise Problem(400, f"Last-Event-ID: {said}", [{"field": "Last-Event-ID", "message": said}])
        after = int(last_event_id)
    queue = await streams.open()
    # nginx, as a proxy, would keep the steps until it has a page full of them.
    headers = {"X-Accel-Buffering": "no"}
    text = _text(streams, queue, readings, after, key)
    return StreamingResponse(text, media_type="text/event-stream", headers=headers)


async def _text(
    streams: Streams, queue: asyncio.Queue[Sent | None], readings: Readings, after: int | None, key: str | None
) -> AsyncIterator[str]:
    over = time.monotonic() + _STREAM_SECONDS
    try:
        yield ": open\n\n"
        if after is not None:
            for each in await _late(readings, after, key):
                yield sent(each).text
        while after is not None and time.monotonic() < over:
            missed = await readings.steps_after(after, _AT_ONCE, key)
            for each in missed:
                yield sent(each).text
            after = missed[-1].id if len(missed) == _AT_ONCE else None
        while (left := over - time.monotonic()) > 0:
            try:
                step = await asyncio.wait_for(queue.get(), min(left, _QUIET_SECONDS))
            except TimeoutError:
                yield ": quiet\n\n"
                continue
            if step is None:
                return
            if key in {None, step.key}:
                yield step.text
    except Problem:
        return  # the client connects again
    finally:
        streams.close(queue)


async def _late(readings: Readings, last: int, key: str | None) -> list[FedStep]:
    """The steps before the client's `last` one that may have been committed after it, and so not have been sent."""
    before = [each for each in await readings.steps_after(last - _MOST_MISSING, _MOST_MISSING, key) if each.id <= last]
    if not before:
        return []
    earliest = before[-1].step.at - timedelta(seconds=_LATE_SECONDS)
    return [each for each in before if each.step.at >= earliest and each.id < last]


def sent(fed: FedStep) -> Sent:
    """A step as it is sent."""
    content = StepEvent(
        idempotency_key=fed.key,
        href=f"/api/v1/unlinks/{to_path(fed.key)}",
        at=fed.step.at,
        step=fed.step.step,
        detail=fed.step.detail,
        worker=fed.step.worker,
        event=whole_of(fed.event),
    )
    return Sent(fed.key, f"id: {fed.id}\nevent: step\ndata: {content.model_dump_json()}\n\n")
