"""The steps of the demo, in order. A step's docstring is printed as its title; each step checks what it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from contracts.events import Outcome, event_id
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, Fault

if TYPE_CHECKING:
    from worker.cli.demo.script import DemoScript

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


def vendor_page(script: DemoScript) -> None:
    """The example of the vendor's page."""
    script.send(_command(VENDOR_PAGE_KEY, VENDOR_JOB_ID, VENDOR_LINK_ID))
    submitted, ended = script.events_until_the_end(VENDOR_PAGE_KEY)
    script.expect("the first event", seen=submitted.outcome, wanted="submitted")
    script.expect("the outcome", seen=ended.outcome, wanted="succeeded")
    script.expect("the evidence", seen=ended.data["evidence"], wanted="task")
    script.expect_deletes(VENDOR_LINK_ID, 1)


def duplicate(script: DemoScript) -> None:
    """The same message once more."""
    script.until_acknowledged()
    script.send(_command(VENDOR_PAGE_KEY, VENDOR_JOB_ID, VENDOR_LINK_ID))
    (again,) = script.events_until_the_end(VENDOR_PAGE_KEY)
    script.expect("the event's ID", seen=again.id, wanted=event_id(VENDOR_PAGE_KEY, Outcome.SUCCEEDED))
    script.expect_deletes(VENDOR_LINK_ID, 1)
    script.report("the same event ID, no second DELETE")


def absent(script: DemoScript) -> None:
    """A link that is not there."""
    script.send(_command("demo:absent", VENDOR_JOB_ID, "00000000-0000-4000-8000-000000000000"))
    (ended,) = script.events_until_the_end("demo:absent")
    script.expect("the evidence", seen=ended.data["evidence"], wanted="absent")
    script.expect("whether anything changed", seen=ended.data["changed"], wanted=False)


def failing_task(script: DemoScript) -> None:
    """A task that fails on the server."""
    job_id, link_id = _new_job(script, "Copy to Oslo")
    script.enterprise_manager.inject(
        Fault(kind="task_fails", method="DELETE", path=link_id, message="The job is being edited by another user.")
    )
    script.send(_command("demo:failing-task", job_id, link_id))
    *_, ended = script.events_until_the_end("demo:failing-task")
    script.expect("the reason", seen=ended.data["reason"]["code"], wanted="task_failed")


def misspelt(script: DemoScript) -> None:
    """A command with a misspelt field."""
    job_id, link_id = _new_job(script, "Copy to Bern")
    script.send(_command("demo:misspelt", job_id, link_id, dry_rnu=True))
    (ended,) = script.events_until_the_end("demo:misspelt")
    script.expect("the reason", seen=ended.data["reason"]["code"], wanted="invalid_message")
    script.expect_dead_letters(1)
    script.expect_deletes(link_id, 0)


def linked_backups(script: DemoScript) -> None:
    """A job whose linked backups would go."""
    job_id, link_id = _new_job(script, "Copy to Lyon", linked_backups=[BACKUP_UID])
    script.send(_command("demo:linked-backups", job_id, link_id))
    (ended,) = script.events_until_the_end("demo:linked-backups")
    script.expect("the reason", seen=ended.data["reason"]["code"], wanted="linked_backups_at_risk")
    script.expect_deletes(link_id, 0)


def killed(script: DemoScript) -> None:
    """A worker killed while its task runs."""
    job_id, link_id = _new_job(script, "Copy to Turin")
    script.enterprise_manager.behaviour.edits_held = True
    script.send(_command("demo:killed", job_id, link_id))
    script.expect("the first event", seen=script.next_event("demo:killed").outcome, wanted="submitted")
    script.worker.kill()
    script.report("SIGKILL; a second worker starts")
    script.enterprise_manager.behaviour.edits_held = False
    script.replace_worker()
    *_, ended = script.events_until_the_end("demo:killed")
    script.expect("the outcome", seen=ended.outcome, wanted="succeeded")
    script.expect("the evidence", seen=ended.data["evidence"], wanted="links")
    script.expect_deletes(link_id, 1)
    script.expect_silence()


STEPS: tuple[Callable[[DemoScript], None], ...] = (
    vendor_page,
    duplicate,
    absent,
    failing_task,
    misspelt,
    linked_backups,
    killed,
)


def _new_job(script: DemoScript, name: str, linked_backups: list[str] | None = None) -> tuple[str, str]:
    """A copy job with one link; its ID, and the link's."""
    em = script.enterprise_manager
    repository = em.add_repository(name=f"Repository of {name}")
    job_id = em.add_job(name=name, links=[repository], linked_backups=linked_backups or [])
    (link,) = em.links(job_id)
    return job_id, link.object_in_job_id
