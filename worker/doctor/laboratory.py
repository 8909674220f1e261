"""The link of a laboratory: found, removed, and put back. The only part of the doctor that changes anything.

Only this one link is ever edited. `restore` brings the job back to exactly one link of the repository, whatever
happened before, as far as Enterprise Manager answers. The link then has another ID in the job: the server chooses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from worker.doctor.edits import FORMS, OF_ANOTHER_FORM, Edit, asked_for, succeeded
from worker.doctor.probe import TROUBLE, Noted
from worker.enterprise_manager import names, paths
from worker.enterprise_manager.calls import Calls
from worker.enterprise_manager.documents.records import (
    JobRecord,
    LinkRecord,
    bare_id,
    read_job,
    read_links,
    read_task,
)
from worker.enterprise_manager.documents.tree import DocumentError, UnexpectedDocumentError
from worker.enterprise_manager.gateway import COPY_JOBS
from worker.enterprise_manager.logon import TOKEN_HEADER, Logon, LogonSession
from worker.enterprise_manager.responses import (
    UNAUTHORIZED,
    Again,
    NotFound,
    Unauthorized,
    is_definite_no,
)
from worker.enterprise_manager.transport import Answer, Request, TransportError
from worker.enterprise_manager.wire import Wire
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import Refused, Unavailable

#: The exceptions of a request that failed, at whatever level.
FAILED = (*TROUBLE, Again, NotFound, Refused, Unauthorized, Unavailable)

#: How long the list of links and a finished task are watched, in seconds, where nothing else is asked for.
WATCH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class LaboratoryLink:
    """The link that may be removed and put back: a backup copy job and a repository, each by its name or UUID."""

    job: str
    repository: str


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long is waited, in seconds."""

    #: Between two looks.
    look: float = 1.0
    #: For the answer to an edit.
    edit: float = 60.0
    #: For the end of one task.
    task: float = 300.0
    #: For the list to show a finished edit, and for the absence of a change to be expected.
    links: float = WATCH_SECONDS
    #: How old the first finished task is at its last look.
    kept: float = WATCH_SECONDS
    #: For the restoration, at most.
    restore: float = 900.0


class RefusedError(Exception):
    """No trial is made, and nothing was changed; the text says why."""


class Laboratory:
    """One link, and the edits of it. Call `find` first."""

    def __init__(
        self, calls: Calls, wire: Wire, logon: Logon, differences: Noted, clock: Clock, limits: TimeLimits
    ) -> None:
        self._calls = calls
        self._wire = wire
        self._logon = logon
        self._differences = differences
        self._clock = clock
        self.limits = limits
        #: The edits whose end was not seen.
        self._open: list[Edit] = []
        self._last: Edit | None = None
        #: The IDs of links whose DELETE may have been made.
        self._deleted: set[str] = set()
        self._forms = FORMS
        self.job_id = ""
        self.repository_uid = ""
        self.only_link = False
        #: How many edits were sent.
        self.edits = 0

    async def find(self, link: LaboratoryLink) -> None:
        """Find the link, and check that it may be removed.

        Raises:
            RefusedError: it is not exactly one link, or removing it could drop linked backups, or it cannot be read.
        """
        try:
            job = await self._job(link.job)
            links = await self._calls.get_list(paths.links(job.id), {}, read_links)
            uids = await self._repositories(link.repository)
        except (*FAILED, names.NameNotFound, names.NameAmbiguous) as error:
            raise RefusedError(str(error)) from None
        found = [each for each in links if each.repository_uid in uids]
        if len(found) != 1:
            raise RefusedError(f"the job has {len(found)} links to that repository, and the trial needs exactly one")
        self.job_id, self.repository_uid = job.id, found[0].repository_uid
        self.only_link = len(links) == 1

    async def _job(self, name: str) -> JobRecord:
        job_id = _id(name) or (await names.find(self._calls, "Job", name, None)).id
        job = read_job(await self._calls.get(paths.job(job_id), {"format": "Entity"}))
        if (job.job_type or "").casefold() not in COPY_JOBS:
            raise RefusedError("that job is no backup copy job")
        if job.linked_backups is None:
            raise RefusedError("the job does not say whether it has linked backups, which any edit would drop")
        if job.linked_backups:
            raise RefusedError(f"the job has {len(job.linked_backups)} linked backups, which any edit would drop")
        return job

    async def _repositories(self, name: str) -> set[str]:
        if (uid := _id(name)) is not None:
            return {uid}
        return {each.id for each in await names.everything(self._calls, "Repository") if each.name == name}

    # --- looking ------------------------------------------------------------------------------------------------------

    async def links(self) -> list[LinkRecord]:
        """The links of the repository to the job, as listed now. Raises one of `FAILED`."""
        listed = await self._calls.get_list(paths.links(self.job_id), {}, read_links)
        return [each for each in listed if each.repository_uid == self.repository_uid]

    async def until(self, wanted: Callable[[list[LinkRecord]], bool], seconds: float) -> int | None:
        """Read the list until it is as wanted; how many looks before were not, or None if it did not come to that."""
        deadline = self._clock.monotonic() + seconds
        looks = 0
        while not wanted(await self.links()):
            if self._clock.monotonic() > deadline:
                return None
            looks += 1
            await self.pause()
        return looks

    async def stays(self, object_in_job_id: str) -> bool:
        """Whether a link stays in the list although its DELETE was accepted."""
        gone = await self.until(
            lambda links: all(each.object_in_job_id != object_in_job_id for each in links), self.limits.links
        )
        if gone is None:
            self._deleted.discard(object_in_job_id)
        return gone is None

    async def pause(self) -> None:
        """Wait until the next look."""
        await self._clock.sleep(self.limits.look)

    def now(self) -> float:
        """The time by which edits are measured."""
        return self._clock.monotonic()

    async def look(self, edit: Edit) -> int | None:
        """Read the task of an edit once, in its session; the status of the answer, None if there is none."""
        if edit.task is None:
            return None
        asked_at = self.now()
        answer = await self._in(edit.session, Request("GET", paths.task(edit.task.task_id, edit.task.hrefs)))
        if answer is None:
            return None
        if not succeeded(answer.status):
            edit.lost = not edit.finished
            return answer.status
        if await self._read(edit, answer) and edit.is_in("Running"):
            edit.running_at = asked_at
        return answer.status

    async def _read(self, edit: Edit, answer: Answer) -> bool:
        """Read the document of a task; whether it is that of the edit's task, or of its first answer."""
        try:
            document = await self._wire.read(answer)
            task = read_task(document)
        except DocumentError:
            return False
        if edit.task is not None and edit.task.task_id != task.task_id:
            return False
        self._differences.look_at_body(answer.body)
        self._differences.look_at_task(task)
        record = next(document.records("taskid"))
        edit.task, edit.names_result, edit.asks = task, record.has("result"), asked_for(record)
        if edit.is_in("OperationFinished"):
            edit.success_before = task.success
        if task.finished and edit in self._open:
            edit.finished_at = self.now()
            self._open.remove(edit)
        return True

    async def follow(self, edit: Edit) -> bool:
        """Read the task of an edit until it is finished; whether that was seen in time."""
        deadline = self.now() + self.limits.task
        while edit.open and self.now() <= deadline:
            await self.look(edit)
            if edit.open:
                await self.pause()
        return edit.finished

    async def sees(self, session: LogonSession, edit: Edit) -> int | None:
        """The status with which this session is answered to a GET of the task of another one."""
        assert edit.task is not None  # noqa: S101 - there is nothing to be seen otherwise
        answer = await self._in(session, Request("GET", paths.task(edit.task.task_id)))
        return answer.status if answer is not None else None

    async def knows_session(self, session: LogonSession) -> bool | None:
        """Whether that session has not ended; None if there is no answer."""
        answer = await self._in(session, Request("GET", paths.job(self.job_id)))
        return answer.status != UNAUTHORIZED if answer is not None else None

    async def at_risk(self) -> bool:
        """Whether an edit could drop linked backups by now. Raises one of `FAILED`."""
        job = read_job(await self._calls.get(paths.job(self.job_id), {"format": "Entity"}))
        return job.linked_backups != ()

    async def runs(self) -> bool:
        """Whether a backup session of the job is working. False if that is not known."""
        condition = f'JobUid=="urn:veeam:Job:{self.job_id}";State!=Stopped'
        query = {"type": "BackupJobSession", "format": "Entities", "filter": condition, "pageSize": "100"}
        answer = await self._in(await self._logon.session(), Request("GET", paths.QUERY, query))
        if answer is None or not succeeded(answer.status):
            return False
        try:
            records = list((await self._wire.read(answer)).records("jobuid"))
        except DocumentError:
            return False
        return any(
            (each.value("state") or "").casefold() == "working" and _id(each.value("jobuid") or "") == self.job_id
            for each in records
        )

    # --- editing ------------------------------------------------------------------------------------------------------

    async def delete(self, object_in_job_id: str) -> Edit:
        """DELETE of a link of this job. Raises `Again` or `Unavailable` if there is no session."""
        edit = await self._edit(Request("DELETE", paths.link(self.job_id, object_in_job_id)))
        if edit.status is None or not is_definite_no(edit.status):
            self._deleted.add(object_in_job_id)
        return edit

    async def post(self) -> Edit:
        """POST of the repository to this job, in the first form that the server takes. Raises as `delete`."""
        for form in self._forms:
            edit = await self._edit(form(self.job_id, self.repository_uid))
            if edit.accepted:
                self._forms = (form,)
            if edit.status not in OF_ANOTHER_FORM:
                break
        return edit

    async def stop(self, edit: Edit) -> int | None:
        """DELETE of the task of an edit; the status of the answer."""
        assert edit.task is not None  # noqa: S101 - as in `sees`
        answer = await self._in(edit.session, Request("DELETE", paths.task(edit.task.task_id, edit.task.hrefs)))
        return answer.status if answer is not None else None

    async def _edit(self, request: Request) -> Edit:
        session = await self._logon.session()
        edit = self._last = Edit(None, session, self._clock.monotonic(), adds=request.method == "POST")
        self.edits += 1
        self._open.append(edit)
        answer = await self._in(session, replace(request, timeout=self.limits.edit))
        if answer is None:
            return edit
        edit.status, edit.location = answer.status, "Location" in answer.headers
        if is_definite_no(answer.status):
            self._open.remove(edit)
        if not edit.accepted:
            return edit
        await self._read(edit, answer)
        return edit

    async def _in(self, session: LogonSession, request: Request) -> Answer | None:
        """The answer in that session; None if there is none. A session that has ended is replaced by the next call."""
        headers = {TOKEN_HEADER: session.token, **request.headers}
        try:
            answer = await self._wire.exchange(replace(request, headers=headers))
        except TransportError:
            return None
        if answer.status == UNAUTHORIZED:
            self._logon.drop(session)
        else:
            self._logon.used(session)
        return answer

    # --- restoring ----------------------------------------------------------------------------------------------------

    async def restore(self) -> bool:
        """Bring the job back to exactly one link of the repository; whether the list has shown that at the end."""
        if self.edits == 0:
            return True
        deadline = self._clock.monotonic() + self.limits.restore
        while self._clock.monotonic() < deadline:
            try:
                if await self._restored():
                    return True
            except FAILED:
                pass
            await self._clock.sleep(self.limits.look)
        return False

    async def _restored(self) -> bool:
        """Make one step towards one link; whether none was necessary."""
        for edit in list(self._open):
            await self.follow(edit)
        links = await self.links()
        if len(links) != 1 and self._awaits(adds=not links):
            # The list may lag behind the last edit.
            await self.until(lambda now: len(now) == 1, self.limits.links)
            self._last = None
            return False
        if len(links) == 1:
            if any(edit.open for edit in self._open):
                return False  # a task that is under way may still remove it
            if not self._open and links[0].object_in_job_id not in self._deleted:
                return True
            # An edit whose end was not seen may still be made, and a list that lags may still show what was removed.
            changed = await self.until(lambda now: now != links, self.limits.links)
            self._open.clear()
            return changed is None
        if links:
            excess = next((each for each in links if each.object_in_job_id in self._deleted), links[0])
            edit = await self.delete(excess.object_in_job_id)
        else:
            edit = await self.post()
        await self.follow(edit)
        return False

    def _awaits(self, *, adds: bool) -> bool:
        """Whether the last edit was one that adds, or one that removes, and may show in the list later."""
        last = self._last
        return last is not None and last.adds is adds and (last.accepted or last.status is None) and not last.failed


def _id(name: str) -> str | None:
    try:
        return bare_id(name)
    except UnexpectedDocumentError:
        return None
