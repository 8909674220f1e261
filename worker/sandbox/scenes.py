"""The scenes of the demo, in order. A docstring is what the audience reads; each checks what it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contracts.events import Outcome, event_id
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.sandbox.stage import Stage

BACKUP_UID = "3b1f2d4c-0c55-4a0e-8a52-1d0f9fd3f7a4"
VENDOR_PAGE_KEY = "demo:vendor-page"


def _command(key: str, job_id: str, link_id: str, **more: Any) -> dict[str, Any]:
    return {
        "command": "unlink.v1",
        "idempotency_key": key,
        "job": {"id": job_id},
        "repository": {"link_id": link_id},
        "ticket": {"system": "demo", "id": "DEMO-1"},
        **more,
    }


def vendor_page(stage: Stage) -> None:
    """The example of the vendor's page."""
    stage.send(_command(VENDOR_PAGE_KEY, VENDOR_JOB_ID, VENDOR_LINK_ID))
    submitted, ended = stage.events_until_the_end(VENDOR_PAGE_KEY)
    stage.expect("the first event", seen=submitted.outcome, wanted="submitted")
    stage.expect("the outcome", seen=ended.outcome, wanted="succeeded")
    stage.expect("the evidence", seen=ended.data["evidence"], wanted="task")
    stage.expect_deletes(VENDOR_LINK_ID, 1)


def duplicate(stage: Stage) -> None:
    """The same message once more."""
    stage.send(_command(VENDOR_PAGE_KEY, VENDOR_JOB_ID, VENDOR_LINK_ID))
    (again,) = stage.events_until_the_end(VENDOR_PAGE_KEY)
    stage.expect("the event's ID", seen=again.id, wanted=event_id(VENDOR_PAGE_KEY, Outcome.SUCCEEDED))
    stage.expect_deletes(VENDOR_LINK_ID, 1)
    stage.tell("the same event ID, no second DELETE")


def absent(stage: Stage) -> None:
    """A link that is not there."""
    stage.send(_command("demo:absent", VENDOR_JOB_ID, "00000000-0000-4000-8000-000000000000"))
    (ended,) = stage.events_until_the_end("demo:absent")
    stage.expect("the evidence", seen=ended.data["evidence"], wanted="absent")
    stage.expect("whether anything changed", seen=ended.data["changed"], wanted=False)


def failing_task(stage: Stage) -> None:
    """A task that fails on the server."""
    job_id, link_id = _new_job(stage, "Copy to Oslo")
    stage.enterprise_manager.inject(
        Fault(kind="task_fails", method="DELETE", path=link_id, message="The job is being edited by another user.")
    )
    stage.send(_command("demo:failing-task", job_id, link_id))
    *_, ended = stage.events_until_the_end("demo:failing-task")
    stage.expect("the reason", seen=ended.data["reason"]["code"], wanted="task_failed")


def misspelt(stage: Stage) -> None:
    """A command with a misspelt field."""
    job_id, link_id = _new_job(stage, "Copy to Bern")
    stage.send(_command("demo:misspelt", job_id, link_id, dry_rnu=True))
    (ended,) = stage.events_until_the_end("demo:misspelt")
    stage.expect("the reason", seen=ended.data["reason"]["code"], wanted="invalid_message")
    stage.expect("dead letters", seen=stage.dead_letters(), wanted=1)
    stage.expect_deletes(link_id, 0)


def linked_backups(stage: Stage) -> None:
    """A job whose linked backups would go."""
    job_id, link_id = _new_job(stage, "Copy to Lyon", linked_backups=[BACKUP_UID])
    stage.send(_command("demo:linked-backups", job_id, link_id))
    (ended,) = stage.events_until_the_end("demo:linked-backups")
    stage.expect("the reason", seen=ended.data["reason"]["code"], wanted="linked_backups_at_risk")
    stage.expect_deletes(link_id, 0)


def killed(stage: Stage) -> None:
    """A worker killed while its task runs."""
    job_id, link_id = _new_job(stage, "Copy to Turin")
    stage.enterprise_manager.behaviour.edits_held = True
    stage.send(_command("demo:killed", job_id, link_id))
    stage.expect("the first event", seen=stage.next_event("demo:killed").outcome, wanted="submitted")
    stage.worker.kill()
    stage.tell("SIGKILL; a second worker starts")
    stage.enterprise_manager.behaviour.edits_held = False
    stage.replace_worker()
    *_, ended = stage.events_until_the_end("demo:killed")
    stage.expect("the outcome", seen=ended.outcome, wanted="succeeded")
    stage.expect("the evidence", seen=ended.data["evidence"], wanted="links")
    stage.expect_deletes(link_id, 1)
    stage.expect_silence()


SCENES: tuple[Callable[[Stage], None], ...] = (
    vendor_page,
    duplicate,
    absent,
    failing_task,
    misspelt,
    linked_backups,
    killed,
)


def _new_job(stage: Stage, name: str, linked_backups: list[str] | None = None) -> tuple[str, str]:
    """A copy job with one link; its ID, and the link's."""
    em = stage.enterprise_manager
    repository = em.add_repository(name=f"Repository of {name}")
    job_id = em.add_job(name=name, links=[repository], linked_backups=linked_backups or [])
    (link,) = em.links(job_id)
    return job_id, link.object_in_job_id
