"""Enterprise Manager: what is true, what it lists, its sessions and tasks; and a worker's gateway to it.

Each thing that the vendor's documentation leaves open is decided by the weather, one way or the other.

More than 400 lines: one simulated server and its gateway, whose faults depend on each other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from contracts.commands import JobReference, RepositoryReference
from contracts.events import ReasonCode
from tests.simulation.astray import POISON
from tests.simulation.promises import Observer
from tests.simulation.scenario import Weather
from tests.simulation.world import Process, World
from worker.unlinks.ports.enterprise_manager import (
    AnswerLost,
    Job,
    Link,
    LinkedBackup,
    LinkNotFound,
    NotSent,
    Refused,
    Task,
    TaskNotFound,
    TaskTicket,
    Unavailable,
)

#: How long a gateway waits for an answer, in seconds.
REQUEST_SECONDS = 30.0
#: How long it waits for a request that hangs, where requests may, and how long at most for a DELETE, in seconds.
HANGING_SECONDS = 900.0
DELETE_SECONDS = 60.0
#: How many requests it has under way at once, where requests may hang.
SLOTS = 1
#: How long it waits between two looks whether the server is back, in seconds.
PROBE_SECONDS = 5.0
#: How often it asks again where that is safe.
TRIES = 3
#: A session that is not used for so long is over, in seconds.
IDLE_SECONDS = 900.0

Answer = TypeVar("Answer")


class NotReachedError(Exception):
    """The connection was refused: nothing was done."""


class NoAnswerError(Exception):
    """No answer in time: nobody knows."""


class UnauthorizedError(Exception):
    """401: the session is over; nothing was done."""


@dataclass(slots=True)
class Span:
    """From when until when (`None`: until now)."""

    start: float
    end: float | None = None

    def covers(self, start: float, end: float) -> bool:
        """Whether it was so during all of that time."""
        return self.start <= start and (self.end is None or self.end > end)


@dataclass(slots=True)
class TrueLink:
    """A link: when it was there, and when it was listed."""

    object_in_job_id: str
    uid: str
    present: list[Span] = field(default_factory=list)
    listed: list[Span] = field(default_factory=list)

    @property
    def there(self) -> bool:
        """Whether it is there now."""
        return bool(self.present) and self.present[-1].end is None

    @property
    def shown(self) -> bool:
        """Whether it is listed now."""
        return bool(self.listed) and self.listed[-1].end is None


@dataclass(slots=True)
class TrueJob:
    """A job. `backups` says since when each linked backup is there."""

    id: str
    name: str
    copies: bool = True
    links: dict[str, TrueLink] = field(default_factory=dict)
    backups: dict[str, float] = field(default_factory=dict)

    def lacked_repository(self, uid: str, start: float, end: float) -> bool:
        """Whether at some instant of that time no link of the repository was there."""
        instants = [start, end]
        spans = [span for link in self.links.values() if link.uid == uid for span in link.present]
        instants += [span.end for span in spans if span.end is not None and start <= span.end <= end]
        return any(
            all(instant < span.start or (span.end is not None and instant >= span.end) for span in spans)
            for instant in instants
        )


@dataclass(eq=False, slots=True)
class TrueTask:
    """A task. `key`, `run` and `sender` are what the server cannot know, for the promises."""

    ticket: TaskTicket
    job: TrueJob
    link_id: str
    key: str
    run: int
    sender: Process
    began: float
    fate: str
    state: str = "Running"
    success: bool | None = None
    message: str | None = None
    applied_at: float | None = None
    known: bool = False
    forgotten: bool = False
    stopped: bool = False

    @property
    def finished(self) -> bool:
        """Whether it is over."""
        return self.state == "Finished"

    def seen(self) -> Task:
        """As the server shows it."""
        return Task(self.ticket, "UpdateJob", self.finished, self.success, self.message)


class Server:
    """Enterprise Manager itself."""

    def __init__(self, world: World, observer: Observer, weather: Weather) -> None:
        self._world = world
        self._observer = observer
        self._weather = weather
        self.down = False
        self.jobs: dict[str, TrueJob] = {}
        self.repositories: dict[str, str] = {}
        self.sessions: dict[str, float] = {}
        self.tasks: dict[tuple[str, str], TrueTask] = {}
        self._last_task: dict[str, int] = {}

    # --- what others do ---------------------------------------------------------------------------------------------

    def add_link(self, job: TrueJob, uid: str) -> TrueLink:
        """Link a repository, under an ID that was never used."""
        link = TrueLink(f"{self._world.serial():08x}-1111-4000-8000-000000000000", uid)
        job.links[link.object_in_job_id] = link
        self._put_there(link)
        self._world.note("EM", f"link {link.object_in_job_id[:8]} of {uid[:8]} added to job {job.name}")
        return link

    def add_again_by_others(self, job: TrueJob, uid: str) -> None:
        """Somebody links a repository that is not linked."""
        if not any(link.uid == uid and link.there for link in job.links.values()):
            self.add_link(job, uid)

    def remove_by_others(self, job: TrueJob, uid: str) -> None:
        """Somebody removes a repository's link."""
        for link in list(job.links.values()):
            if link.uid == uid and link.there:
                self._remove(job, link)

    def _put_there(self, link: TrueLink) -> None:
        link.present.append(Span(self._world.now))
        if not link.shown:
            link.listed.append(Span(self._world.now))

    def _remove(self, job: TrueJob, link: TrueLink, *, at_once: bool = False) -> None:
        link.present[-1].end = self._world.now
        lag = 0.0 if at_once else self._weather.list_lag()
        self._world.note("EM", f"link {link.object_in_job_id[:8]} gone from job {job.name}, listed {lag:.0f} s more")

        def vanish() -> None:
            if link.shown and not link.there:
                link.listed[-1].end = self._world.now

        if lag:
            self._world.after(lag, vanish)
        else:
            vanish()

    # --- requests ---------------------------------------------------------------------------------------------------

    def log_on(self) -> str:
        """A new session."""
        session = f"session-{self._world.serial()}"
        self.sessions[session] = self._world.now
        return session

    def end_sessions(self) -> None:
        """All sessions are over: the server was restarted, or somebody deleted them."""
        self.sessions.clear()
        self._world.note("EM", "all sessions are over")

    def check(self, session: str) -> None:
        """Refuse a session that is over."""
        used = self.sessions.get(session)
        if used is None or self._world.now - used > IDLE_SECONDS:
            self.sessions.pop(session, None)
            raise UnauthorizedError
        self.sessions[session] = self._world.now

    def find_job(self, reference: JobReference) -> Job:
        """By ID or name."""
        for job in self.jobs.values():
            if reference.id == job.id or (reference.name is not None and reference.name == job.name):
                if not job.copies:
                    raise Refused(ReasonCode.NOT_A_COPY_JOB, "this job is no backup copy job")
                return Job(job.id, job.name)
        raise Refused(ReasonCode.JOB_NOT_FOUND, "no such job")

    def find_repository(self, reference: RepositoryReference) -> str:
        """By UID or name."""
        if reference.uid is not None:
            return reference.uid
        for uid, name in self.repositories.items():
            if name == reference.name:
                return uid
        raise Refused(ReasonCode.REPOSITORY_NOT_FOUND, "no such repository")

    def links(self, job_id: str) -> list[Link]:
        """As listed, which may be late."""
        return [
            Link(link.object_in_job_id, link.uid, self.repositories.get(link.uid))
            for link in self._job(job_id).links.values()
            if link.shown
        ]

    def linked_backups(self, job_id: str) -> list[LinkedBackup]:
        """What any edit drops."""
        return [LinkedBackup(backup) for backup in self._job(job_id).backups]

    def _job(self, job_id: str) -> TrueJob:
        if job_id not in self.jobs:
            raise Refused(ReasonCode.JOB_NOT_FOUND, "no such job")
        return self.jobs[job_id]

    def delete(self, session: str, job_id: str, link_id: str, key: str, run: int, sender: Process) -> Task:
        """Start the task that removes a link."""
        job = self._job(job_id)
        link = job.links.get(link_id)
        self._world.note("EM", f"DELETE {link_id[:8]} of job {job.name} for {key} from {sender.name}")
        if self._weather.refuses():
            raise Refused(ReasonCode.ENTERPRISE_MANAGER_ERROR, "the job is open in a console")
        if (link is None or not link.there) and self._weather.absent_is_404:
            raise LinkNotFound
        self._last_task[session] = number = self._last_task.get(session, 0) + 1
        ticket = TaskTicket(f"task-{number}", session)
        task = TrueTask(ticket, job, link_id, key, run, sender, self._world.now, self._weather.fate_of_task())
        self._observer.delete_arrived(task)
        self.tasks[session, ticket.task_id] = task
        self._world.after(self._weather.task_seconds(), lambda: self._operate(task))
        return task.seen()

    def task(self, session: str, task_id: str) -> Task:
        """Look at a task of this session."""
        task = self.tasks.get((session, task_id))
        if task is None or task.forgotten:
            raise TaskNotFound
        return task.seen()

    def stop(self, session: str, task_id: str) -> None:
        """Stop a task, or only forget it, or neither."""
        self.task(session, task_id)
        task = self.tasks[session, task_id]
        task.stopped = self._weather.stop_works and task.state == "Running"
        task.forgotten = task.forgotten or self._weather.stop_forgets

    # --- tasks ------------------------------------------------------------------------------------------------------

    def _operate(self, task: TrueTask) -> None:
        """What happens on the backup server, from where the task's edit is written."""
        link = task.job.links.get(task.link_id)
        there = link is not None and link.there
        if task.stopped or (not there and not self._weather.absent_is_ok):
            self._finish(task, False, "stopped" if task.stopped else "no such object")
            return
        if task.fate == "fails":
            self._finish(task, False, "the job is locked")
            return
        if task.fate in {"succeeds", "fails_but_did", "no_result_but_did"}:
            self._apply(task, link if there else None)
        task.state = "OperationFinished"
        task.success, task.message = True, "OperationFinished"
        result = {"succeeds": True, "no_result": None, "no_result_but_did": None}.get(task.fate, False)
        if result is False and not there:
            result = True
        self._world.after(self._weather.collect_seconds(), lambda: self._finish(task, result, "Ok"))

    def _apply(self, task: TrueTask, link: TrueLink | None) -> None:
        """Write the job as it was read when the task began, without the link: edits since then are lost."""
        now = self._world.now
        if link is not None:
            task.applied_at = now
            # With a failed task, and a list that still shows the link, no worker could know of the removal.
            self._remove(task.job, link, at_once=task.fate == "fails_but_did")
            self._observer.link_removed(task)
            task.job.backups.clear()
            if (seconds := self._weather.added_again_after()) is not None:
                self._world.after(seconds, lambda: self.add_again_by_others(task.job, link.uid))
        for other in self.tasks.values():
            if other.job is task.job and other.link_id != task.link_id and task.began < (other.applied_at or 0) < now:
                lost = task.job.links[other.link_id]
                if not lost.there:
                    self._world.note("EM", f"LOST UPDATE: link {lost.object_in_job_id[:8]} is back")
                    self._put_there(lost)

    def _finish(self, task: TrueTask, success: bool | None, message: str) -> None:
        task.state, task.success, task.message = "Finished", success, None if success is None else message
        self._world.note("EM", f"{task.ticket.task_id} of {task.ticket.session} for {task.key} finished: {success}")
        if (seconds := self._weather.forgets_after()) is not None:

            def forget() -> None:
                task.forgotten = True

            self._world.after(seconds, forget)


class SimulatedGateway:
    """`worker.unlinks.ports.enterprise_manager.EnterpriseManager`: one worker's sessions and requests."""

    def __init__(self, server: Server, process: Process, observer: Observer, weather: Weather) -> None:
        self._server = server
        self._process = process
        self._observer = observer
        self._weather = weather
        self._log_on = asyncio.Lock()
        self.session: str | None = None
        self._up = asyncio.Event()
        self._up.set()
        self._probing: asyncio.Task[None] | None = None
        self._polls: Counter[TaskTicket] = Counter()
        self._slots = asyncio.Semaphore(SLOTS) if weather.hanging else None

    async def find_job(self, reference: JobReference) -> Job:
        """As the port has it. Poison ends the process."""
        if reference.name == POISON:
            self._process.kill()
            await self._process.create_future()
        return await self._ask(lambda _: self._server.find_job(reference))

    async def find_repository(self, reference: RepositoryReference) -> str:
        """As the port has it."""
        return await self._ask(lambda _: self._server.find_repository(reference))

    async def repository_name(self, uid: str) -> str | None:
        """As the port has it."""
        return self._server.repositories.get(uid)

    async def links(self, job_id: str) -> Sequence[Link]:
        """As the port has it."""
        return await self._ask(lambda _: self._server.links(job_id))

    def links_read_with(self, job: Job) -> Sequence[Link]:
        """None: each job is one whose entity has no list of them."""
        del job
        return ()

    async def linked_backups(self, job: Job) -> Sequence[LinkedBackup]:
        """As the port has it."""

        def look(_: str) -> list[LinkedBackup]:
            self._observer.looked_for_backups(self._process, job.id)
            return self._server.linked_backups(job.id)

        return await self._ask(look)

    def pause_before_task(self, ticket: TaskTicket) -> float:
        """As the port has it: longer and longer."""
        self._polls[ticket] += 1
        return float(min(0.5 * 1.5 ** self._polls[ticket], 16))

    async def task(self, ticket: TaskTicket) -> Task:
        """As the port has it."""
        if ticket.session != self.session:
            raise TaskNotFound
        return await self._ask(lambda session: self._server.task(session, ticket.task_id), only_in=ticket.session)

    async def stop_task(self, ticket: TaskTicket) -> None:
        """As the port has it."""
        if ticket.session != self.session:
            raise TaskNotFound
        await self._ask(lambda session: self._server.stop(session, ticket.task_id), only_in=ticket.session)

    async def delete_link(
        self,
        job_id: str,
        object_in_job_id: str,
        may_send: Callable[[], Awaitable[float]],
        unsent: Callable[[], None] = lambda: None,
    ) -> Task:
        """As the port has it."""
        # The core names the key in its log context; the port has no need of it.
        key = str(structlog.contextvars.get_contextvars().get("idempotency_key"))
        run = self._observer.delete_called(self._process, key, job_id, object_in_job_id)
        for _ in range(TRIES):
            session = await self._session()
            left = False

            async def permitted() -> None:
                nonlocal left
                last_moment = await may_send()
                if self._process.time() > last_moment:
                    raise NotSent("the last moment has passed")
                self._observer.delete_permitted(self._process, key)
                left = True

            try:
                task = await self._exchange(
                    session,
                    lambda session: self._server.delete(session, job_id, object_in_job_id, key, run, self._process),
                    permitted,
                )
            except UnauthorizedError:
                left = False
                unsent()
                self._forget(session)
            except NotReachedError:
                left = False
                raise self._unavailable() from None
            except NoAnswerError:
                raise AnswerLost("no answer") from None
            else:
                self._server.tasks[session, task.ticket.task_id].known = True
                return task
            finally:
                if left:
                    self._observer.delete_left(key)
        raise self._unavailable()

    async def until_available(self) -> None:
        """As the port has it."""
        await self._up.wait()

    # --- how --------------------------------------------------------------------------------------------------------

    async def _ask(self, question: Callable[[str], Answer], *, only_in: str | None = None) -> Answer:
        for _ in range(TRIES):
            session = await self._session()
            if only_in is not None and session != only_in:
                raise TaskNotFound
            try:
                return await self._exchange(session, question)
            except UnauthorizedError:
                self._forget(session)
            except NotReachedError:
                break
            except NoAnswerError:
                continue
        raise self._unavailable()

    async def _session(self) -> str:
        async with self._log_on:
            if self.session is None:
                try:
                    self.session = await self._exchange(None, lambda _: self._server.log_on())
                except (NotReachedError, NoAnswerError):
                    raise self._unavailable() from None
            return self.session

    def _forget(self, session: str) -> None:
        if self.session == session:
            self.session = None

    async def _exchange(
        self,
        session: str | None,
        act: Callable[[str], Answer],
        permitted: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """One request. It waits for a slot, and keeps it until it ends, also if nobody waits for it any more."""
        if self._slots is None:
            if permitted is not None:
                await permitted()
            return await self._request(session, act, REQUEST_SECONDS)
        await self._slots.acquire()
        try:
            if permitted is not None:
                await permitted()
            most = HANGING_SECONDS if permitted is None else DELETE_SECONDS
            exchange = self._process.create_task(self._request(session, act, most))
        except BaseException:
            self._slots.release()
            raise
        exchange.add_done_callback(self._leave)
        return await asyncio.shield(exchange)

    def _leave(self, exchange: asyncio.Task[Any]) -> None:
        if self._slots is not None:
            self._slots.release()
        if not exchange.cancelled():
            exchange.exception()

    async def _request(self, session: str | None, act: Callable[[str], Answer], seconds: float) -> Answer:
        server = self._server

        def arrive() -> Answer:
            if server.down:
                raise NotReachedError
            if session is None:
                return act("")
            server.check(session)
            answer = act(session)
            if self._weather.surprises():
                raise ValueError("an answer that cannot be read")
            return answer

        there, back, lost = self._weather.way_to_enterprise_manager()
        hangs = self._weather.hangs()
        try:
            async with asyncio.timeout(seconds if hangs else REQUEST_SECONDS):
                return await self._process.request(arrive, there, back, lost="request" if hangs else lost)
        except TimeoutError:
            raise NoAnswerError from None

    def _unavailable(self) -> Unavailable:
        self._up.clear()
        if self._probing is None or self._probing.done():
            self._probing = self._process.create_task(self._probe())
        return Unavailable("Enterprise Manager does not answer")

    async def _probe(self) -> None:
        while not self._up.is_set():
            await asyncio.sleep(PROBE_SECONDS)
            try:
                await self._exchange(None, lambda _: None)
            except (NotReachedError, NoAnswerError):
                continue
            self._up.set()
