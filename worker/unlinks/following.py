"""Polling a task to its end, and the links until one is gone."""

from __future__ import annotations

from dataclasses import dataclass

from worker.unlinks.back_off import BackOff
from worker.unlinks.meaning import require_same
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import EnterpriseManager, EnterpriseManagerError, Task, TaskTicket
from worker.unlinks.ports.ledger import Intent
from worker.unlinks.ports.steps import Reporter, StepKind
from worker.unlinks.rules import Pace
from worker.unlinks.waiting import Waiting

#: The second poll of the links comes after this share of the poll interval.
FIRST_LOOK = 0.25
#: Each further poll waits longer by this factor, up to this many poll intervals.
SLOWER = 1.5
SLOWEST = 8


@dataclass(slots=True)
class Follower:
    """Polls one unlink's task and links, at growing intervals.

    `resumed`: the task was started some time ago, and is polled before the first pause. `last_seen` is the task as
    last seen, `running_at` is when it was last seen unfinished, by the monotonic clock.
    """

    enterprise_manager: EnterpriseManager
    waiting: Waiting
    clock: Clock
    pace: Pace
    report: Reporter
    resumed: bool = False
    last_seen: Task | None = None
    running_at: float = float("-inf")

    async def to_its_end(self, ticket: TaskTicket) -> Task:
        """Poll the task until its state is `Finished`: only that state is final.

        Raises:
            TaskNotFound: it is of another logon session, or forgotten.
            DeadlinePassedError: the command's time is over.
        """
        self.report(StepKind.FOLLOWING)
        if not self.resumed:
            await self.waiting.wait(self.enterprise_manager.pause_before_task(ticket))
        while True:
            task = await self.waiting.ask(self.enterprise_manager, lambda: self.enterprise_manager.task(ticket))
            self.last_seen = task
            if task.finished:
                return task
            self.running_at = self.clock.monotonic()
            await self.waiting.wait(self.enterprise_manager.pause_before_task(ticket))

    async def is_gone(self, intent: Intent) -> bool | None:
        """Read the job's links once. None if they cannot be read now."""
        try:
            return await self._gone(intent)
        except EnterpriseManagerError as error:
            self.report(StepKind.LINKS_UNREAD, job_id=intent.job_id, problem=str(error))
            return None

    async def until_gone(self, intent: Intent) -> bool | None:
        """Poll until the link is gone from the list, which can lag behind a finished task; for `pace.verify` at most.

        Return False if the link is still listed then, None if the list could not be read. The wait is short and the
        task's result is known, so only the stop of the worker ends it early.
        """
        over = self.clock.monotonic() + self.pace.verify
        pauses = self._pauses(FIRST_LOOK)
        while True:
            gone = await self.is_gone(intent)
            left = over - self.clock.monotonic()
            if gone or left <= 0:
                return gone
            if not await self.waiting.wait_while_staying(min(pauses.pause(), left)):
                return gone

    async def gone_by(self, seconds: float, intent: Intent) -> bool:
        """Poll for `seconds`, in which an old task may still remove the link. Return whether the link is gone by then.

        Raises:
            DeadlinePassedError: the command's time is over.
        """
        over = self.clock.monotonic() + seconds
        pauses = self._pauses()
        while True:
            if await self.waiting.ask(self.enterprise_manager, lambda: self._gone(intent)):
                return True
            left = over - self.clock.monotonic()
            if left <= 0:
                return False
            await self.waiting.wait(min(pauses.pause(), left))

    def _pauses(self, first: float = 1) -> BackOff:
        """The pauses between polls; `first` and `longest` are in poll intervals."""
        interval = self.pace.poll_interval
        return BackOff(self.clock, interval * first, interval * SLOWEST, factor=SLOWER)

    async def _gone(self, intent: Intent) -> bool:
        self.report(StepKind.VERIFYING)
        links = await self.enterprise_manager.links(intent.job_id)
        listed = [link for link in links if link.object_in_job_id == intent.link.object_in_job_id]
        for link in listed:
            require_same(link, intent.link)
        return not listed
