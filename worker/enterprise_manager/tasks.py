"""Reads the state of many tasks with few requests.

The time of each read is calculated from the durations of earlier tasks (`durations`). Up to `FEW` tasks are read one by
one. With more tasks, one query names all tasks that are due at about the same time. If the server does not answer such
a query, it is asked once per interval for all unfinished tasks, and a second query names the tasks that are missing
from the result. A task that no query returns is read by itself. The absence of a task from a result proves nothing: if
the list shifts between two pages, or if the server interprets the query differently, the only cost is another request.

A result is valid for the logon session of its request only, and only for tasks that began and were last read before
that request.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from worker.enterprise_manager import paths
from worker.enterprise_manager.calls import Calls
from worker.enterprise_manager.documents.records import Clean, TaskPage, TaskRecord, read_task, read_tasks
from worker.enterprise_manager.documents.tree import UnexpectedDocumentError
from worker.enterprise_manager.durations import Durations
from worker.enterprise_manager.logon import LogonSession
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import TaskTicket

#: Up to this many tasks are read one by one.
FEW = 8

#: A query waits for this long, so that it names all tasks that become due meanwhile: as a share of the poll interval,
#: and the longest wait in seconds.
GATHER_SHARE = 0.15
LONGEST_GATHERING = 0.15

#: The requested page size; servers may return fewer tasks per page (100 were seen).
PAGE_SIZE = 200
MOST_PAGES = 50

#: The largest number of tasks named in one query. It keeps the URL below two kilobytes.
MOST_NAMED = 40

#: How long such a query is not repeated after the server did not answer it, in seconds.
QUERY_AGAIN_SECONDS = 600.0

#: A task that was not requested for this long, in seconds, is no longer followed.
ABANDONED_SECONDS = 1800.0

#: The largest number of tasks that are remembered. The oldest is forgotten first; it is then read by itself.
_MOST_FOLLOWED = 20_000

_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,40}")

log = structlog.get_logger()


@dataclass(slots=True)
class _Followed:
    """A task whose end was not returned to the caller yet. `seen` is its last known state, from the round `seen_in`.

    `known_since` and `asked_at`, by `Clock.monotonic`: when it was first known, and when the caller last asked for it.
    `only_alone`: no query returned it, so it is read by itself.
    """

    hrefs: tuple[str, ...]
    known_since: float
    asked_at: float
    seen: TaskRecord | None = None
    seen_in: _Round | None = None
    only_alone: bool = False
    #: Its age at the last read that showed it unfinished; None for a task that this worker did not begin.
    running_at: float | None = None


@dataclass(slots=True)
class _Round:
    """The results of the queries of one interval, by task ID."""

    session: str
    began: float
    records: dict[str, TaskRecord] = field(default_factory=dict)


@dataclass(slots=True)
class _Batch:
    """Tasks that are due at about the same time, and the query that names them."""

    session: str
    due: dict[str, None] = field(default_factory=dict)
    query: asyncio.Task[dict[str, TaskRecord] | None] = field(init=False)


class Tasks:
    """The tasks of the current logon session.

    Args:
        interval: the poll interval, in seconds: the shortest time between two rounds of queries.
        clean: removes secrets from the tasks' messages.
    """

    def __init__(self, name: str, calls: Calls, clock: Clock, interval: float, clean: Clean) -> None:
        self._name = name
        self._clean = clean
        self._calls = calls
        self._clock = clock
        self._interval = interval
        self._durations = Durations(interval)
        self._followed: OrderedDict[TaskTicket, _Followed] = OrderedDict()
        self._batch: _Batch | None = None
        self._most_named = MOST_NAMED
        self._name_again_at = float("-inf")
        self._round: _Round | None = None
        self._asking: asyncio.Task[_Round | None] | None = None
        self._asking_in = ""
        self._query_again_at = float("-inf")

    def under_way(self, session: LogonSession) -> int:
        """The number of unfinished tasks of the session that this worker began or read recently."""
        self._forget_the_abandoned(session)
        return len(self._followed)

    def begun(self, session: LogonSession, record: TaskRecord) -> TaskTicket:
        """Begin to follow a task that Enterprise Manager returned for a request."""
        ticket = TaskTicket(record.task_id, session.name)
        now = self._clock.monotonic()
        seen = None if record.finished else record
        self._followed[ticket] = _Followed(record.hrefs, now, now, seen=seen, running_at=0)
        if len(self._followed) > _MOST_FOLLOWED:
            self._followed.popitem(last=False)
        return ticket

    def forget(self, ticket: TaskTicket) -> None:
        """Stop following a task."""
        self._followed.pop(ticket, None)

    def path(self, ticket: TaskTicket) -> str:
        """The path of the task."""
        followed = self._followed.get(ticket)
        return paths.task(ticket.task_id, followed.hrefs if followed is not None else ())

    def pause(self, ticket: TaskTicket) -> float:
        """The seconds until the task is due to be read."""
        followed = self._followed.get(ticket)
        age = self._clock.monotonic() - followed.known_since if followed is not None else 0
        return self._durations.pause(age)

    async def look(self, session: LogonSession, ticket: TaskTicket) -> TaskRecord:
        """The task's state. An unfinished state may be as old as the interval.

        Raises:
            NotFound, Unauthorized, Refused, Unavailable, UnexpectedDocumentError: as for a GET in the session.
        """
        now = self._clock.monotonic()
        followed = self._followed.setdefault(ticket, _Followed((), now, now))
        followed.asked_at = now
        if followed.seen is not None and followed.seen.finished:
            self.forget(ticket)
            return followed.seen
        record = await self._named(session, ticket, followed) or await self._alone(session, ticket)
        followed.seen = record
        if record.finished:
            self.forget(ticket)
            if followed.running_at is not None:
                self._durations.ended(followed.running_at, self._clock.monotonic() - followed.known_since)
        elif followed.running_at is not None:
            followed.running_at = now - followed.known_since
        return record

    async def close(self) -> None:
        """Stop querying."""
        querying: list[asyncio.Task[Any]] = [self._asking] if self._asking is not None else []
        if self._batch is not None:
            querying.append(self._batch.query)
        for task in querying:
            task.cancel()
        if querying:
            await asyncio.wait(querying)

    # --- one task -----------------------------------------------------------------------------------------------------

    async def _alone(self, session: LogonSession, ticket: TaskTicket) -> TaskRecord:
        return read_task(await self._calls.low_priority.get(self.path(ticket), session=session), self._clean)

    # --- the tasks that are due ---------------------------------------------------------------------------------------

    async def _named(self, session: LogonSession, ticket: TaskTicket, followed: _Followed) -> TaskRecord | None:
        """The task's state, read together with others that are due; None if it has to be read by itself."""
        now = self._clock.monotonic()
        if len(self._followed) <= FEW or now < self._query_again_at or _PLAIN_ID.fullmatch(ticket.task_id) is None:
            return None
        if now >= self._name_again_at:
            batch = self._batch
            if batch is None or batch.session != session.name:
                batch = self._batch = _Batch(session.name)
                batch.query = asyncio.create_task(self._query(session, batch), name=f"read the tasks of {self._name}")
                batch.query.add_done_callback(_failed)
            batch.due[ticket.task_id] = None
            records = await asyncio.shield(batch.query)
            if records is not None:
                return records.get(ticket.task_id)
        return await self._from_round(session, ticket, followed)

    async def _query(self, session: LogonSession, batch: _Batch) -> dict[str, TaskRecord] | None:
        """The states of the tasks that become due within a short time; None if the server does not answer the query."""
        await self._clock.sleep(min(GATHER_SHARE * self._interval, LONGEST_GATHERING))
        if self._batch is batch:
            self._batch = None
        self._forget_the_abandoned(session)
        records: dict[str, TaskRecord] = {}
        left = list(batch.due)
        while left:
            named, left = left[: self._most_named], left[self._most_named :]
            page = await self._page_of(session, named)
            found = {record.task_id for record in page.tasks} if page is not None else set()
            if page is None or not found or found - set(named):
                self._name_again_at = self._clock.monotonic() + QUERY_AGAIN_SECONDS
                return None
            if page.pages > 1:
                self._most_named = len(found)
            records.update(_believed(page))
        return records

    # --- all unfinished tasks -----------------------------------------------------------------------------------------

    async def _from_round(self, session: LogonSession, ticket: TaskTicket, followed: _Followed) -> TaskRecord | None:
        """The task's state from the current round; None if it has to be read by itself."""
        present = await self._fresh_round(session)
        if present is None:
            return None
        if followed.seen_in is present or followed.known_since >= present.began:
            return followed.seen
        followed.seen_in = present
        return present.records.get(ticket.task_id)

    async def _fresh_round(self, session: LogonSession) -> _Round | None:
        """The last round if it is no older than the interval, else a new one, shared by all concurrent callers."""
        if self._asking is None:
            last = self._round
            oldest = self._clock.monotonic() - self._interval
            if last is not None and last.session == session.name and last.began > oldest:
                return last
            self._asking_in = session.name
            self._asking = asyncio.create_task(self._ask(session), name=f"query the tasks of {self._name}")
            self._asking.add_done_callback(self._asked)
        if self._asking_in != session.name:
            return None
        return await asyncio.shield(self._asking)

    def _asked(self, task: asyncio.Task[_Round | None]) -> None:
        self._asking = None
        if not _failed(task):
            self._round = task.result()

    async def _ask(self, session: LogonSession) -> _Round | None:
        """A round, or None if the server does not answer the query."""
        self._forget_the_abandoned(session)
        this = _Round(session.name, self._clock.monotonic())
        if not await self._ask_for_the_unfinished(session, this):
            self._query_again_at = self._clock.monotonic() + QUERY_AGAIN_SECONDS
            log.warning(
                "enterprise_manager.tasks_not_queried",
                enterprise_manager=self._name,
                problem="it does not answer a query for unfinished tasks; each task is read by itself",
                next_try_seconds=QUERY_AGAIN_SECONDS,
            )
            return None
        await self._look_at_those_that_left(session, this)
        return this

    async def _ask_for_the_unfinished(self, session: LogonSession, this: _Round) -> bool:
        number, pages = 1, 1
        while number <= min(pages, MOST_PAGES):
            page = await self._page(session, "State!=Finished", number)
            if number == 1 and (page is None or _unfiltered(page)):
                return False
            if page is None:
                return True  # the tasks of the other pages are read below
            this.records.update((record.task_id, record) for record in page.tasks if not record.finished)
            number, pages = number + 1, page.pages
        return True

    async def _look_at_those_that_left(self, session: LogonSession, this: _Round) -> None:
        left = [ticket.task_id for ticket, followed in self._followed.items() if _has_left(ticket, followed, this)]
        for first in range(0, len(left), MOST_NAMED):
            named = left[first : first + MOST_NAMED]
            page = await self._page_of(session, named)
            answered = _believed(page) if page is not None else {}
            this.records.update((task_id, answered[task_id]) for task_id in named if task_id in answered)
            for task_id in named:
                self._keep(TaskTicket(task_id, this.session), this.records.get(task_id))

    def _keep(self, ticket: TaskTicket, record: TaskRecord | None) -> None:
        """Store the end of a task until the caller asks for it, or note that both queries did not return the task."""
        followed = self._followed.get(ticket)
        if followed is not None:
            followed.only_alone = record is None
            if record is not None and record.finished:
                followed.seen = record

    async def _page_of(self, session: LogonSession, named: Sequence[str]) -> TaskPage | None:
        return await self._page(session, ",".join(f'TaskId=="{task_id}"' for task_id in named), 1)

    async def _page(self, session: LogonSession, condition: str, number: int) -> TaskPage | None:
        query = {"type": "Task", "filter": condition, "pageSize": str(PAGE_SIZE)}
        if number > 1:
            query["page"] = str(number)
        document = await self._calls.ask_in(session, paths.QUERY, query)
        try:
            return read_tasks(document, self._clean) if document is not None else None
        except UnexpectedDocumentError:
            return None

    def _forget_the_abandoned(self, session: LogonSession) -> None:
        oldest = self._clock.monotonic() - ABANDONED_SECONDS
        for ticket, followed in list(self._followed.items()):
            if ticket.session != session.name or followed.asked_at < oldest:
                self.forget(ticket)


def _has_left(ticket: TaskTicket, followed: _Followed, this: _Round) -> bool:
    known_to_be_finished = followed.seen is not None and followed.seen.finished
    return (
        ticket.session == this.session
        and followed.known_since < this.began
        and ticket.task_id not in this.records
        and not followed.only_alone
        and not known_to_be_finished
        and _PLAIN_ID.fullmatch(ticket.task_id) is not None
    )


def _believed(page: TaskPage) -> dict[str, TaskRecord]:
    """The tasks of a page by ID, without finished tasks that have no result: these are read again by themselves."""
    return {record.task_id: record for record in page.tasks if not record.finished or record.success is not None}


def _unfiltered(page: TaskPage) -> bool:
    """Whether the server seems to ignore the filter. Its answer would then grow with every task that ends."""
    return sum(record.finished for record in page.tasks) * 2 > len(page.tasks)


def _failed(task: asyncio.Task[Any]) -> bool:
    """Whether it has no result. Asked of each task, so that asyncio reports none whose callers have all gone away."""
    return task.cancelled() or task.exception() is not None
