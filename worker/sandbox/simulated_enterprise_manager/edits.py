"""Edits of jobs: when each edit begins and ends, and how it changes the links.

Nothing here waits. Each call passes the current time, and `advance` first executes the events that are due.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from worker.sandbox.simulated_enterprise_manager.behaviour import Behaviour
from worker.sandbox.simulated_enterprise_manager.model import OPERATION_FINISHED, Change, Edit, Ending, Job, Linked

_Event = tuple[float, int, "Callable[[Edit, float], None]", Edit]


class Edits:
    """All edits that have not ended."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._due: list[_Event] = []
        self._order = itertools.count()
        self._held_until = float("-inf")
        self._successes = itertools.count()

    def submit(self, edit: Edit, now: float) -> None:
        """Begin an edit, or queue it after the previous edit of the job."""
        if self._behaviour.edits_of_one_job == "second_fails" and edit.job.edits:
            edit.ending, edit.failure = Ending.FAILURE, f"Job {edit.job.name} is being edited by another user."
            self._begin(edit, now)
            return
        edit.job.edits.append(edit)
        self._begin_next(edit.job, now)

    def advance(self, now: float) -> None:
        """Execute all events that are due at `now`."""
        if self._behaviour.edits_held:
            self._held_until = now
            return
        while self._due and self._due[0][0] <= now:
            at, _, what_happens, edit = heapq.heappop(self._due)
            if not edit.stopped:
                what_happens(edit, max(at, self._held_until))

    def stop(self, edit: Edit, now: float) -> None:
        """Stop an edit that has not ended. It does not change the job."""
        if edit.task.operation_ended_at is None:
            edit.stopped = True
            self._leave(edit, now)

    def job_stopped_running(self, job: Job, now: float) -> None:
        """Begin the edit that waited for the job to stop running."""
        self._begin_next(job, now)

    def _begin_next(self, job: Job, now: float) -> None:
        overlapping = self._behaviour.edits_of_one_job == "overlapping"
        if job.running and self._behaviour.running_job == "waits":
            return
        for edit in list(job.edits) if overlapping else list(job.edits)[:1]:
            if not edit.begun:
                edit.read = job.linked if overlapping else None
                self._begin(edit, now)

    def _begin(self, edit: Edit, now: float) -> None:
        edit.begun = True
        if edit.ending is not Ending.NEVER:
            self._at(now + edit.seconds, self._operation_ends, edit)

    def _at(self, when: float, what_happens: Callable[[Edit, float], None], edit: Edit) -> None:
        heapq.heappush(self._due, (when, next(self._order), what_happens, edit))

    def _operation_ends(self, edit: Edit, now: float) -> None:
        behaviour, task = self._behaviour, edit.task
        failure = self._failure(edit)
        task.operation_ended_at = now
        task.success = failure is None
        task.message = failure if failure is not None else self._success_message()
        lingers = failure is None or behaviour.failing_task_seems_successful
        task.finished_at = now + (behaviour.operation_finished_seconds if lingers else 0)
        if lingers:
            task.looks_left[OPERATION_FINISHED] = behaviour.operation_finished_looks
        if behaviour.unknown_state is not None:
            task.looks_left[behaviour.unknown_state] = behaviour.unknown_state_looks
        if failure is not None:
            self._leave(edit, now)
        elif behaviour.link_goes_at == "finished":
            self._at(task.finished_at, self._apply, edit)
        else:
            self._apply(edit, now)

    def _failure(self, edit: Edit) -> str | None:
        if edit.ending is Ending.FAILURE:
            return edit.failure
        linked = self._linked_before(edit)
        if edit.change is Change.ADD:
            return None
        link_id = edit.link.object_in_job_id
        if linked.link(link_id) is None:
            absent = f"Cannot find linked repository [{link_id}] in job {edit.job.name}."
            return None if self._behaviour.absent_link == "task_succeeds" else absent
        if len(linked.sources) == 1 and self._behaviour.only_link == "task_fails":
            return f"Unable to remove the last source of job {edit.job.name}."
        return None

    def _apply(self, edit: Edit, now: float) -> None:
        before = self._linked_before(edit)
        removes = edit.change is Change.REMOVE
        after = before.without(edit.link.object_in_job_id) if removes else before.plus(edit.link)
        if self._behaviour.edit_drops_linked_backups:
            after = after.without_backups()
        edit.job.relink(after, now)
        self._leave(edit, now)

    def _linked_before(self, edit: Edit) -> Linked:
        return edit.job.linked if edit.read is None else edit.read

    def _leave(self, edit: Edit, now: float) -> None:
        if edit in edit.job.edits:
            edit.job.edits.remove(edit)
        self._begin_next(edit.job, now)

    def _success_message(self) -> str:
        messages = self._behaviour.success_messages or ("",)
        return messages[next(self._successes) % len(messages)]
