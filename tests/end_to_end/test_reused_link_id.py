"""An Enterprise Manager that gives the ID of a link that went to the link of another repository.

The vendor says nothing about how long an `ObjectInJobId` means the same link.
"""

from __future__ import annotations

from typing import Any

from tests.end_to_end.in_process import worker_for
from tests.waiting import until
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_LINK_ID,
    Fault,
    SimulatedEnterpriseManager,
)
from worker.unlinks.rules import Pace

OTHER_REPOSITORY = "00000000-0000-4000-8000-000000000001"
LISTS = "/linkedBackupRepositories"

#: Whatever waits for minutes in production waits for a second here.
HURRIED = Pace(poll_interval=0.05, verify=1.0, settling=1.0)


def give_the_id_to_another(simulated: SimulatedEnterpriseManager) -> None:
    """Somebody removes the link and links another repository; nobody can read the list in between."""
    simulated.inject(Fault("status", method="GET", path=LISTS, status=500, times=None))
    simulated.remove_link(VENDOR_JOB_ID, VENDOR_LINK_ID)
    simulated.add_link(VENDOR_JOB_ID, OTHER_REPOSITORY, VENDOR_LINK_ID)
    simulated.clear_faults()


def linked(simulated: SimulatedEnterpriseManager) -> list[str]:
    """What is truly linked to the job."""
    return [link.repository_uid for link in simulated.links(VENDOR_JOB_ID)]


def said(event: dict[str, Any]) -> tuple[str, bool | None, str]:
    """Outcome, changed, reason."""
    return event["outcome"], event["changed"], event["reason"]["code"]


async def test_a_delete_is_not_sent_again_to_the_link_of_another_repository(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """A DELETE whose answer was lost would be repeated, and remove a link that nobody named."""
    simulated_enterprise_manager.inject(Fault("drops_connection", method="DELETE", path=VENDOR_LINK_ID))
    async with worker_for(simulated_enterprise_manager, pace=HURRIED, poll_interval_seconds=0.05) as worker:
        worker.send({"job": {"id": VENDOR_JOB_ID}, "repository": {"link_id": VENDOR_LINK_ID}})
        await until(lambda: simulated_enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1)
        give_the_id_to_another(simulated_enterprise_manager)
        end = await worker.end_of()
    assert said(end) == ("failed", None, "enterprise_manager_error")
    assert OTHER_REPOSITORY in end["reason"]["message"]
    assert linked(simulated_enterprise_manager) == [OTHER_REPOSITORY]


async def test_a_retry_does_not_remove_the_link_of_another_repository(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """A run keeps the link that the first run recorded, and this one is another."""
    simulated_enterprise_manager.inject(Fault("task_fails", method="DELETE", path=VENDOR_LINK_ID))
    async with worker_for(simulated_enterprise_manager, pace=HURRIED, poll_interval_seconds=0.05) as worker:
        await worker.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
        give_the_id_to_another(simulated_enterprise_manager)
        worker.send({"command": "retry.v1", "run": 1})
        await until(lambda: worker.received.events[-1]["run"] == 2)
        end = worker.received.events[-1]
    assert said(end) == ("failed", False, "enterprise_manager_error")
    assert OTHER_REPOSITORY in end["reason"]["message"]
    assert linked(simulated_enterprise_manager) == [OTHER_REPOSITORY]
