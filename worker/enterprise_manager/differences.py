"""Reports where an Enterprise Manager differs from the assumptions, once for each assumption.

The worker copes with each of these differences. They are logged because other software may depend on them, and because
the worker is developed without a real Enterprise Manager.
"""

from __future__ import annotations

import re

import structlog

from worker.enterprise_manager.assumptions import Assumption
from worker.enterprise_manager.documents.reading import BYTE_ORDER_MARK
from worker.enterprise_manager.documents.records import TaskRecord

#: The documented states of a task.
TASK_STATES = frozenset({"running", "operationfinished", "finished"})

_CAMEL_CASE_KEY = re.compile(rb'"(?:name|uid|href|links|refs|taskId|jobType|objectInJobId)"\s*:')
_HEAD = 2048
_WORD = re.compile(r"\w{1,40}", re.ASCII)

log = structlog.get_logger()


class Differences:
    """The differences of one Enterprise Manager."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reported: set[Assumption] = set()

    def report(self, assumption: Assumption, seen: str) -> None:
        """Log that the assumption does not hold, unless it was logged before."""
        if assumption not in self._reported:
            self._reported.add(assumption)
            log.info("enterprise_manager.differs", enterprise_manager=self._name, assumption=assumption, seen=seen)

    def look_at_body(self, body: bytes) -> None:
        """Compare the format of a JSON document with the assumptions."""
        content = body.removeprefix(BYTE_ORDER_MARK)
        if not content.startswith((b"{", b"[")):
            return
        if content is not body:
            self.report(Assumption.NO_BYTE_ORDER_MARK, "a UTF-8 byte-order mark before a JSON document")
        if (key := _CAMEL_CASE_KEY.search(content[:_HEAD])) is not None:
            self.report(Assumption.PASCAL_CASE, f"the key {key.group().decode().rstrip(': ')}")

    def look_at_task(self, task: TaskRecord) -> None:
        """Compare the state of a task with the documented states, and its end with the documented result."""
        if task.state is None or task.state.casefold() not in TASK_STATES:
            self.report(Assumption.TASK_STATES, _described(task.state))
        if task.finished and task.success is None:
            self.report(Assumption.FINISHED_RESULT, "no result that says whether it succeeded")


def _described(state: str | None) -> str:
    """A description of an unknown state. A text of several words is left out: it may name a job."""
    if not state:
        return "a task without a state"
    return f"the state {state}" if _WORD.fullmatch(state) else "a state of several words"
