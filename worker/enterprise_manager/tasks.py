"""Looking at many tasks with few requests.

While a few tasks are under way, each is looked at by itself. With many, one query an interval tells of all that have
not finished; those that it leaves out are looked at, several in one further query. A task that neither tells of is
looked at by itself: nothing is ever concluded from its absence, so that a page that shifts while it is read, or a query
that the server answers in a way of its own, costs one look too many and nothing else.

An answer counts for the logon session that it was asked in, and only if it was asked for after the task began and after
the look before.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from worker.enterprise_manager import paths
from worker.enterprise_manager.documents.records import TaskRecord, read_task, read_tasks
from worker.enterprise_manager.documents.tree import UnexpectedDocumentError
from worker.unlinks.ports.enterprise_manager import TaskTicket

if TYPE_CHECKING:
    from worker.enterprise_manager.calls import Calls
    from worker.enterprise_manager.documents.records import Clean, TaskPage
    from worker.enterprise_manager.logon import LogonSession
    from worker.unlinks.ports.clock import Clock

#: Up to so many tasks under way, each is looked at by itself.
FEW = 8

#: How many tasks a page is asked to have; servers may give fewer (100 were seen).
PAGE_SIZE = 200
MOST_PAGES = 50

#: How many tasks are named in one query: the URL stays below two kilobytes.
MOST_NAMED = 40

#: How long tasks are looked at one by one, in seconds, after the server did not answer a query for them.
QUERY_AGAIN_SECONDS = 600.0

#: A task that nobody has asked about for so long, in seconds, is not followed any more.
ABANDONED_SECONDS = 1800.0

#: How many tasks are remembered, the oldest forgotten first: they are then looked at one by one.
_MOST_FOLLOWED = 20_000

_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,40}")

log = structlog.get_logger()


@dataclass(slots=True)
class _Followed:
    """A task that nobody was told the end of yet. `seen` is what was told last, from the round `told_in`."""

    hrefs: tuple[str, ...]
    known_since: float
    asked_at: float
    seen: TaskRecord | None = None
    told_in: _Round | None = None
    only_alone: bool = False


@dataclass(slots=True)
class _Round:
    """What the queries of one interval told, by the tasks' IDs."""

    session: str
    began: float
    told: dict[str, TaskRecord] = field(default_factory=dict)


class Tasks:
    """The tasks of the present logon session.

    Args:
        interval: the shortest time between two rounds, in seconds.
        clean: takes secrets out of the tasks' messages.
    """

    def __init__(self, name: str, calls: Calls, clock: Clock, interval: float, clean: Clean) -> None:
        self._name = name
        self._clean = clean
        self._calls = calls
        self._clock = clock
        self._interval = interval
        self._followed: OrderedDict[TaskTicket, _Followed] = OrderedDict()
        self._round: _Round | None = None
        self._asking: asyncio.Task[_Round | None] | None = None
        self._asking_in = ""
        self._query_again_at = float("-inf")

    def under_way(self, session: LogonSession) -> int:
        """How many tasks of the session were begun here, or asked about of late, and not seen finished."""
        self._forget_the_abandoned(session)
        return len(self._followed)

    def begun(self, session: LogonSession, record: TaskRecord) -> TaskTicket:
        """Follow a task that a request was answered with."""
        ticket = TaskTicket(record.task_id, session.name)
        now = self._clock.monotonic()
        self._followed[ticket] = _Followed(record.hrefs, now, now, seen=None if record.finished else record)
        if len(self._followed) > _MOST_FOLLOWED:
            self._followed.popitem(last=False)
        return ticket

    def forget(self, ticket: TaskTicket) -> None:
        """Follow it no more."""
        self._followed.pop(ticket, None)

    def path(self, ticket: TaskTicket) -> str:
        """Where the task is."""
        followed = self._followed.get(ticket)
        return paths.task(ticket.task_id, followed.hrefs if followed is not None else ())

    async def look(self, session: LogonSession, ticket: TaskTicket) -> TaskRecord:
        """The task as it is now; or, if it was told of a moment ago as not finished, as it was then.

        Raises:
            NotFound, Unauthorized, Refused, Unavailable, UnexpectedDocumentError: as a GET in the session.
        """
        now = self._clock.monotonic()
        followed = self._followed.setdefault(ticket, _Followed((), now, now))
        followed.asked_at = now
        if followed.seen is not None and followed.seen.finished:
            self.forget(ticket)
            return followed.seen
        record = await self._told(session, ticket, followed) or await self._alone(session, ticket)
        followed.seen = record
        if record.finished:
            self.forget(ticket)
        return record

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    # --- one ----------------------------------------------------------------------------------------------------------

    async def _alone(self, session: LogonSession, ticket: TaskTicket) -> TaskRecord:
        return read_task(await self._calls.patiently.get(self.path(ticket), session=session), self._clean)

    # --- many ---------------------------------------------------------------------------------------------------------

    async def _told(self, session: LogonSession, ticket: TaskTicket, followed: _Followed) -> TaskRecord | None:
        """What a round tells of the task; None if it is to be looked at by itself."""
        if len(self._followed) <= FEW or self._clock.monotonic() < self._query_again_at:
            return None
        told_in = await self._fresh_round(session)
        if told_in is None:
            return None
        if followed.told_in is told_in or followed.known_since >= told_in.began:
            return followed.seen
        followed.told_in = told_in
        return told_in.told.get(ticket.task_id)

    async def _fresh_round(self, session: LogonSession) -> _Round | None:
        """The last round if it is no older than the interval, else a new one, shared by all who ask meanwhile."""
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
        if not task.cancelled() and task.exception() is None:
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
                problem="it does not answer a query for unfinished tasks; each is looked at by itself",
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
                return True  # what the rest would have told is looked at
            this.told.update((record.task_id, record) for record in page.tasks if not record.finished)
            number, pages = number + 1, page.pages
        return True

    async def _look_at_those_that_left(self, session: LogonSession, this: _Round) -> None:
        left = [ticket.task_id for ticket, followed in self._followed.items() if _has_left(ticket, followed, this)]
        for first in range(0, len(left), MOST_NAMED):
            named = left[first : first + MOST_NAMED]
            page = await self._page(session, ",".join(f'TaskId=="{task_id}"' for task_id in named), 1)
            for record in page.tasks if page is not None else ():
                # A finished one without its result is not believed yet: the task itself may have it.
                if record.task_id in named and (not record.finished or record.success is not None):
                    this.told[record.task_id] = record
            for task_id in named:
                self._keep(TaskTicket(task_id, this.session), this.told.get(task_id))

    def _keep(self, ticket: TaskTicket, record: TaskRecord | None) -> None:
        """Remember an end, which is told whenever it is asked for; and what no query tells of."""
        followed = self._followed.get(ticket)
        if followed is not None:
            followed.only_alone = record is None
            if record is not None and record.finished:
                followed.seen = record

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
        and ticket.task_id not in this.told
        and not followed.only_alone
        and not known_to_be_finished
        and _PLAIN_ID.fullmatch(ticket.task_id) is not None
    )


def _unfiltered(page: TaskPage) -> bool:
    """Whether the server seems to ignore the filter: its answer would grow with every task that ends."""
    return sum(record.finished for record in page.tasks) * 2 > len(page.tasks)
