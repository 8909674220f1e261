"""The actions on a job other than edits of its links: `POST /jobs/{ID}?action=...` (helpcenter)."""

from __future__ import annotations

from worker.sandbox.simulated_enterprise_manager.exchange import RefusalError, Request, posted
from worker.sandbox.simulated_enterprise_manager.model import Job, Session, Task
from worker.sandbox.simulated_enterprise_manager.state import State

#: The name of each action's task [?] (`behaviour` explains such marks).
_OPERATIONS = {
    "start": "StartJob",
    "retry": "RetryJob",
    "sync": "SyncJob",
    "stop": "StopJob",
    "clone": "CloneJob",
    "togglescheduleenabled": "ToggleScheduleEnabled",
}


def perform(state: State, session: Session, job: Job, request: Request) -> Task:
    """Perform the action that the request names, at once. A job that was started runs until it is stopped.

    Raises:
        RefusalError: there is no such action, or its body lacks the new job's name.
    """
    action = request.query.get("action", "").lower()
    if action not in _OPERATIONS:
        raise RefusalError(400, f"There is no action {action} of a job.")
    match action:
        case "start" | "retry" | "sync":
            state.set_running(job.id, running=True)
        case "stop":
            state.set_running(job.id, running=False)
        case "clone":
            _clone(state, job, posted(request.body, "JobName"))
        case _:
            job.schedule_enabled = not job.schedule_enabled
    return state.done(session, _OPERATIONS[action])


def _clone(state: State, job: Job, name: str) -> None:
    state.add_job(
        name,
        job_type=job.job_type,
        platform=job.platform,
        backup_server=job.backup_server,
        links=[type(link)(state.new_id(), link.repository_uid) for link in job.linked.repositories],
        linked_jobs=[type(link)(state.new_id(), link.job_uid) for link in job.linked.jobs],
    )
