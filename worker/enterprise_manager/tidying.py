"""Deletes finished tasks of the logon session, so that a session that lasts for weeks does not collect them.

It is off by default: how many tasks a server keeps is not known, and DELETE of a task is documented both to remove and
to stop it. Only tasks that this worker has seen finished are deleted: the oldest first, one at a time, after all other
requests. A failure does not affect the unlinks.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque

from worker.enterprise_manager.calls import Calls
from worker.enterprise_manager.logon import LogonSession
from worker.enterprise_manager.responses import Unauthorized


class Tidying:
    """The finished tasks of the current session.

    Args:
        keep: how many of the latest finished tasks are kept, so that they can be read again; None keeps all.
    """

    def __init__(self, name: str, calls: Calls, keep: int | None) -> None:
        self._name = name
        self._calls = calls
        self._keep = keep
        self._session: LogonSession | None = None
        self._finished: deque[str] = deque()
        self._deleting: asyncio.Task[None] | None = None

    def finished(self, session: LogonSession, path: str) -> None:
        """Take note that the task at that path was seen finished in that session. Never raises."""
        if self._keep is None:
            return
        if session is not self._session:
            # In another session, the same path is that of another task.
            self._session = session
            self._finished.clear()
        if path not in self._finished:
            self._finished.append(path)
        if len(self._finished) > self._keep and self._deleting is None:
            # The task gets its own context: its log lines must not have one unlink's fields.
            self._deleting = asyncio.create_task(
                self._delete(session, self._keep), name=f"tidy the tasks of {self._name}", context=contextvars.Context()
            )
            self._deleting.add_done_callback(_deleted)

    async def close(self) -> None:
        """Stop deleting."""
        if self._deleting is not None:
            self._deleting.cancel()
            await asyncio.wait([self._deleting])

    async def _delete(self, session: LogonSession, keep: int) -> None:
        """Delete the oldest tasks. It ends at the first failure; the next finished task tries again."""
        try:
            while self._session is session and len(self._finished) > keep:
                gone = await self._calls.low_priority.delete_once(session, self._finished[0])
                if not gone or self._session is not session:
                    return
                self._finished.popleft()
        except Unauthorized:
            return
        finally:
            # Not in a callback: a task that finishes before its turn would find this one and start none.
            self._deleting = None


def _deleted(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.result()
