"""A trial on the link of a laboratory: what Enterprise Manager does when a job is edited.

Each step begins with exactly one link of the repository to the job. Whatever a step finds, the trial ends with the
restoration of the link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from worker.doctor.checks import Check
from worker.doctor.edits import Edit, succeeded
from worker.doctor.laboratory import FAILED, Laboratory, LaboratoryLink, TimeLimits
from worker.doctor.probe import Noted
from worker.doctor.trial_checks import TrialChecks
from worker.enterprise_manager.assumptions import Assumption
from worker.enterprise_manager.documents.records import LinkRecord
from worker.enterprise_manager.logon import RENEWED_AFTER_SECONDS, Logon
from worker.enterprise_manager.responses import FORBIDDEN, NOT_FOUND, UNAUTHORIZED

#: A session that was idle for longer may have ended (vendor, "Authentication").
_DOCUMENTED_IDLE_SECONDS = 15 * 60.0


@dataclass(frozen=True, slots=True)
class TrialOrder:
    """That a trial is to be made, on which link, and whom to tell what becomes of the link.

    `ended` is called once at the end, with whether the job has its link, and how many edits of the job were sent.
    """

    link: LaboratoryLink
    ended: Callable[[bool, int], None]
    limits: TimeLimits = field(default_factory=TimeLimits)


class _OverError(Exception):
    """The trial cannot go on. The text says why, or is empty."""


class Trial:
    """The trial on one link. `other` logs on to a second session of the same account."""

    def __init__(self, laboratory: Laboratory, logon: Logon, other: Logon, differences: Noted) -> None:
        self._laboratory = laboratory
        self._limits = laboratory.limits
        self._logon = logon
        self._other = other
        self._differences = differences
        self._found = TrialChecks()
        self._first: Edit | None = None
        self._removed = ""
        self._over = ""
        #: Since when the other session is idle; None if it is not.
        self._idle_since: float | None = None

    async def checks(self, order: TrialOrder) -> list[Check]:
        """Make the trial. Whatever becomes of it, also if it is cancelled, the link is then restored.

        Raises:
            RefusedError: no trial is made, and nothing was changed.
        """
        await self._laboratory.find(order.link)
        try:
            await self._run()
        finally:
            await _uninterrupted(self._restore(order))
        return self._all()

    async def _restore(self, order: TrialOrder) -> None:
        restored = await self._laboratory.restore()
        order.ended(restored, self._laboratory.edits)

    async def _run(self) -> None:
        try:
            await self._several_sessions()
            await self._removal()
            await self._absent_link()
            await self._put_back()
            await self._two_at_once()
            await self._stopped_task()
            await self._finished_task_kept()
            await self._idle_session()
        except _OverError as over:
            self._over = str(over)
        except FAILED:
            self._over = "there was no complete answer"

    def _all(self) -> list[Check]:
        if (seen := self._differences.noted.get(Assumption.TASK_STATES)) is not None:
            self._found.differs(Assumption.TASK_STATES, seen)
        return self._found.all(self._over)

    # --- steps --------------------------------------------------------------------------------------------------------

    async def _several_sessions(self) -> None:
        """Log on a second time, before anything is changed: it may end the first session."""
        first = await self._logon.session()
        try:
            await self._other.session()
        except FAILED:
            self._found.differs(Assumption.SESSIONS, "a second logon is not accepted")
            return
        self._idle_since = self._laboratory.now()
        if await self._laboratory.knows_session(first) is not False:
            self._found.confirm(Assumption.SESSIONS)
        else:
            self._found.differs(Assumption.SESSIONS, "a second logon ends the first session")

    async def _removal(self) -> None:
        (link,) = await self._one_link()
        self._removed = link.object_in_job_id
        runs = await self._laboratory.runs()
        edit = self._first = await self._laboratory.delete(link.object_in_job_id)
        if not edit.accepted and edit.status not in {None, FORBIDDEN}:
            await self._not_done(f"status {edit.status}", Assumption.DELETE_ACCEPTED, runs=runs)
            raise _OverError("the DELETE was not accepted")
        self._judge_acceptance(edit)
        await self._see_from_another_session(edit)
        await self._follow_with_list(edit, runs=runs)
        self._found.judge_end(edit)
        if edit.failed:
            await self._not_done("its task fails", None, runs=runs)
            raise _OverError("the task of the DELETE failed")
        if runs and edit.finished and await self._laboratory.runs():
            self._found.confirm(Assumption.RUNNING_JOB, "a backup session of it was working before and after")
        looks = await self._laboratory.until(_without(self._removed), self._limits.links)
        self._judge_lag(edit, looks)
        if looks is None:
            raise _OverError("the link is still listed")
        if self._laboratory.only_link:
            self._found.confirm(Assumption.ONLY_LINK)

    async def _not_done(self, seen: str, otherwise: Assumption | None, *, runs: bool) -> None:
        """Note the one possible reason for which the first removal was not made; if there are two, neither is shown."""
        possible = [Assumption.RUNNING_JOB] if runs and await self._laboratory.runs() else []
        possible += [Assumption.ONLY_LINK] if self._laboratory.only_link else []
        reason = possible[0] if possible else otherwise
        if len(possible) > 1:
            for assumption in possible:
                self._found.not_shown(assumption, f"{seen}, on a job that runs and has one link")
        elif reason is not None:
            self._found.differs(reason, seen)

    def _judge_acceptance(self, edit: Edit) -> None:
        if edit.status == FORBIDDEN:
            self._found.refused("status 403 for the DELETE of a link")
            raise _OverError
        if edit.status is None:
            return
        if edit.status != 202:  # noqa: PLR2004 - the documented status
            self._found.differs(Assumption.DELETE_ACCEPTED, f"status {edit.status}")
        elif edit.task is None:
            self._found.differs(Assumption.DELETE_ACCEPTED, "status 202 without a task")
        else:
            self._found.confirm(Assumption.DELETE_ACCEPTED)
            self._found.confirm(Assumption.TASK_STATES)
        if edit.location:
            self._found.differs(Assumption.LOCATION, "a DELETE has one")
        if edit.task is not None and not edit.finished:
            if edit.names_result:
                self._found.differs(Assumption.RUNNING_RESULT, "its result is null")
            else:
                self._found.confirm(Assumption.RUNNING_RESULT)

    async def _see_from_another_session(self, edit: Edit) -> None:
        session = self._other.current
        if session is None or edit.task is None:
            return
        status = await self._laboratory.sees(session, edit)
        self._idle_since = self._laboratory.now()
        if succeeded(status):
            self._found.differs(Assumption.TASK_APART, "another session of the account sees it")
        elif status not in {None, UNAUTHORIZED}:
            self._found.confirm(Assumption.TASK_APART)

    async def _follow_with_list(self, edit: Edit, *, runs: bool) -> None:
        """Follow the first task; while it is `OperationFinished`, read the list of links too."""
        laboratory, listed = self._laboratory, False
        gone = _without(self._removed)
        while edit.open:
            await laboratory.look(edit)
            if edit.is_in("OperationFinished"):
                without_link = gone(await laboratory.links())
                await laboratory.look(edit)
                listed = listed or not without_link
                if without_link and edit.is_in("OperationFinished"):
                    self._found.confirm(Assumption.LINK_GOES)
            if laboratory.now() - edit.sent_at > self._limits.task:
                if runs and await laboratory.runs():
                    seen = f"its task did not end within {self._limits.task:g} s"
                    self._found.differs(Assumption.RUNNING_JOB, seen)
                raise _OverError(f"a task did not end within {self._limits.task:g} s")
            if edit.open:
                await laboratory.pause()
        if listed and not self._found.confirmed(Assumption.LINK_GOES) and gone(await laboratory.links()):
            self._found.differs(Assumption.LINK_GOES, "it was still listed then, and gone when the task was Finished")

    def _judge_lag(self, edit: Edit, looks: int | None) -> None:
        if edit.finished_at is None:
            return
        if looks is None:
            seen = f"the link is still listed {self._limits.links:g} s after its task had finished"
            self._found.differs(Assumption.LIST_IN_TIME, seen)
        elif looks > 0:
            lag = self._laboratory.now() - edit.finished_at
            self._found.differs(Assumption.LIST_IN_TIME, f"the list lagged by {lag:.1f} s")
        else:
            self._found.confirm(Assumption.LIST_IN_TIME)

    async def _absent_link(self) -> None:
        edit = await self._laboratory.delete(self._removed)
        if edit.status == NOT_FOUND:
            self._found.confirm(Assumption.ABSENT_LINK)
        elif edit.task is not None:
            await self._laboratory.follow(edit)
            if edit.finished:
                ends = {True: "that succeeds", False: "that fails", None: "without a result"}[edit.task.success]
                self._found.differs(Assumption.ABSENT_LINK, f"status {edit.status} and a task {ends}")
                if edit.failed:
                    self._found.judge_failure(edit)
        elif edit.status is not None:
            self._found.differs(Assumption.ABSENT_LINK, f"status {edit.status}")

    async def _put_back(self) -> None:
        edit = await self._laboratory.post()
        if edit.status is not None and not edit.accepted:
            raise _OverError(f"the POST of a link was answered with status {edit.status}")
        if edit.accepted and not edit.location:
            self._found.differs(Assumption.LOCATION, "a POST has none")
        elif edit.location:
            self._found.confirm(Assumption.LOCATION)
        await self._laboratory.follow(edit)
        self._found.judge_end(edit)
        await self._one_link()

    async def _two_at_once(self) -> None:
        """Remove the link, and put it back before the removal has ended."""
        (link,) = await self._one_link()
        first = await self._laboratory.delete(link.object_in_job_id)
        second = await self._laboratory.post()
        await self._laboratory.look(first)
        at_once = first.is_in("Running")
        if not first.accepted or second.status is None:
            return
        if not second.accepted:
            self._found.differs(Assumption.EDITS_OF_ONE_JOB, f"the second is answered with status {second.status}")
        for edit in (first, second):
            await self._laboratory.follow(edit)
            self._found.judge_end(edit)
        if first.failed or second.failed:
            self._found.differs(Assumption.EDITS_OF_ONE_JOB, "the task of one of them fails")
        if _successful(first) and _successful(second):
            as_wanted = await self._laboratory.until(_replaced(link), self._limits.links)
            if as_wanted is None:
                self._found.differs(Assumption.EDITS_OF_ONE_JOB, "one of them undoes the other")
            elif at_once:
                self._found.confirm(Assumption.EDITS_OF_ONE_JOB)

    async def _stopped_task(self) -> None:
        """Stop the removal of the link through its task."""
        (link,) = await self._one_link()
        edit = await self._laboratory.delete(link.object_in_job_id)
        if edit.task is None:
            return
        status = await self._laboratory.stop(edit)
        stopped_after = self._laboratory.now() - edit.sent_at
        if not succeeded(status):
            if status is not None:
                self._found.differs(Assumption.TASK_DELETE, f"status {status}")
            return
        known = await self._laboratory.look(edit)
        if succeeded(known):
            self._found.differs(Assumption.TASK_DELETE, "it stays known")
            await self._laboratory.follow(edit)
            if edit.failed:
                self._found.judge_failure(edit)
        elif known is not None:
            self._found.confirm(Assumption.TASK_DELETE)
        if await self._laboratory.stays(link.object_in_job_id):
            self._found.confirm(Assumption.TASK_DELETE_STOPS)
        elif stopped_after < self._shortest_edit() / 2:
            self._found.differs(Assumption.TASK_DELETE_STOPS, "its operation went on")

    def _shortest_edit(self) -> float:
        """How long the first edit was seen running, in seconds: another one can be stopped before it has ended."""
        first = self._first
        return first.running_at - first.sent_at if first is not None and first.running_at is not None else 0.0

    async def _finished_task_kept(self) -> None:
        first = self._first
        if first is None or first.finished_at is None:
            return
        while True:
            status = await self._laboratory.sees(first.session, first)
            age = self._laboratory.now() - first.finished_at
            await self._idle_session(at_least=RENEWED_AFTER_SECONDS)
            if not succeeded(status) or age > self._limits.kept:
                break
            await self._laboratory.pause()
        if succeeded(status):
            self._found.confirm(Assumption.TASK_KEPT, f"for {age:.0f} s")
        elif status not in {None, UNAUTHORIZED}:
            self._found.differs(Assumption.TASK_KEPT, f"{age:.0f} s after its end it is not known any more")

    async def _idle_session(self, at_least: float = 0) -> None:
        """Use the other session once more, if it was idle for that long, in seconds."""
        session, since = self._other.current, self._idle_since
        if session is None or since is None or not self._found.confirmed(Assumption.SESSIONS):
            return
        idle = self._laboratory.now() - since
        if idle < at_least:
            return
        self._idle_since = None
        known = await self._laboratory.knows_session(session)
        if known is False and idle < _DOCUMENTED_IDLE_SECONDS:
            self._found.differs(Assumption.SESSION_IDLE, f"after {idle:.0f} s it had ended")
        elif known and idle >= RENEWED_AFTER_SECONDS:
            self._found.confirm(Assumption.SESSION_IDLE, f"after {idle:.0f} s")
        elif known is not None:
            enough = f"--watch-seconds {_DOCUMENTED_IDLE_SECONDS:.0f} is long enough"
            self._found.not_shown(Assumption.SESSION_IDLE, f"it was used again after {idle:.0f} s; {enough}")

    async def _one_link(self) -> list[LinkRecord]:
        """The one link of the repository, restored if necessary. It may be removed: the job has no linked backups."""
        if not await self._laboratory.restore():
            raise _OverError("the link could not be put back")
        if await self._laboratory.at_risk():
            raise _OverError("a backup was linked to the job meanwhile, which a further edit would drop")
        return (await self._laboratory.links())[:1]


def _without(object_in_job_id: str) -> Callable[[list[LinkRecord]], bool]:
    return lambda links: all(link.object_in_job_id != object_in_job_id for link in links)


def _replaced(link: LinkRecord) -> Callable[[list[LinkRecord]], bool]:
    gone = _without(link.object_in_job_id)
    return lambda links: len(links) == 1 and gone(links)


def _successful(edit: Edit) -> bool:
    return edit.finished and edit.task is not None and edit.task.success is True


async def _uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Do the work to its end, also if the caller is cancelled; then pass the cancellation on."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
