"""Server-sent events: every recorded step, as the workers write it. One poll of the ledger serves all streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
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
#: How many steps are read at once; and how many of the newest are read again, because of those committed late.
_AT_ONCE: Final = 500
_AGAIN: Final = 100
#: The most decimal digits of a step's ID.
_DIGITS: Final = 18


class Streams:
    """The open streams, and the task that polls the ledger while there is one."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._queues: set[asyncio.Queue[FedStep | None]] = set()
        self._opening = asyncio.Lock()
        self._poll: asyncio.Task[None] | None = None

    async def open(self) -> asyncio.Queue[FedStep | None]:
        """A queue of all steps from now on; None after the last one, because the reader was too slow.

        Raises:
            Problem: too many are open, or the ledger cannot be read; 503.
        """
        if len(self._queues) >= MOST_STREAMS:
            raise Problem(503, "Too many streams are open.", headers={"Retry-After": "60"})
        queue: asyncio.Queue[FedStep | None] = asyncio.Queue()
        async with self._opening:
            if self._poll is None or self._poll.done():
                newest = await self._readings.newest_step()
                self._queues.add(queue)
                self._poll = asyncio.create_task(self._publish_from(newest))
        self._queues.add(queue)
        return queue

    def close(self, queue: asyncio.Queue[FedStep | None]) -> None:
        """End a stream."""
        self._queues.discard(queue)

    async def _publish_from(self, begin: int) -> None:
        newest, seen = begin, set[int]()
        while self._queues:
            try:
                steps = await self._readings.steps_after(max(newest - _AGAIN, begin), _AT_ONCE)
            except Problem:
                steps = []  # the ledger is away: what was written meanwhile is sent when it is back
            new = [step for step in steps if step.id not in seen]
            newest = max([newest, *(step.id for step in new)])
            seen = {step_id for step_id in seen | {step.id for step in new} if step_id > newest - _AGAIN}
            for queue in list(self._queues):
                self._put(queue, new)
            if len(steps) < _AT_ONCE:
                await asyncio.sleep(_POLL_SECONDS)

    def _put(self, queue: asyncio.Queue[FedStep | None], steps: Sequence[FedStep]) -> None:
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
    return StreamingResponse(_text(streams, queue, readings, after, key), media_type="text/event-stream")


async def _text(
    streams: Streams, queue: asyncio.Queue[FedStep | None], readings: Readings, after: int | None, key: str | None
) -> AsyncIterator[str]:
    over = time.monotonic() + _STREAM_SECONDS
    try:
        yield ": open\n\n"
        while after is not None:
            missed = await readings.steps_after(after, _AT_ONCE)
            for each in missed:
                if key in {None, each.key}:
                    yield _event(each)
            after = missed[-1].id if len(missed) == _AT_ONCE else None
        while time.monotonic() < over:
            try:
                step = await asyncio.wait_for(queue.get(), _QUIET_SECONDS)
            except TimeoutError:
                yield ": quiet\n\n"
                continue
            if step is None:
                return
            if key in {None, step.key}:
                yield _event(step)
    except Problem:
        return  # the client connects again
    finally:
        streams.close(queue)


def _event(fed: FedStep) -> str:
    content = StepEvent(
        idempotency_key=fed.key,
        href=f"/api/v1/unlinks/{to_path(fed.key)}",
        at=fed.step.at,
        step=fed.step.step,
        detail=fed.step.detail,
        worker=fed.step.worker,
        event=whole_of(fed.event),
    )
    return f"id: {fed.id}\nevent: step\ndata: {content.model_dump_json()}\n\n"
