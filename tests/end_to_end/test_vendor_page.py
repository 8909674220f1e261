"""The example of the vendor's page on the DELETE of a linked repository, replayed through a whole worker."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.in_process import worker_for
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_LINK_ID,
    VENDOR_REPOSITORY_UID,
    SimulatedEnterpriseManager,
)

RECORDING = Path(__file__).parents[1] / "recordings" / "vendor-page.json"


async def test_the_example_of_the_vendors_page_succeeds() -> None:
    """Else the worker would not understand the very documents that the vendor shows."""
    with SimulatedEnterpriseManager.start(replay=RECORDING) as em:
        async with worker_for(em) as worker:
            end = await worker.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
        assert (end["outcome"], end["evidence"], end["verified"], end["changed"]) == ("succeeded", "task", True, True)
        assert end["job"] == {"id": VENDOR_JOB_ID, "name": "Backup Copy Job"}
        assert (end["repository"]["link_id"], end["repository"]["uid"]) == (VENDOR_LINK_ID, VENDOR_REPOSITORY_UID)
        assert (end["task"]["id"], end["task"]["operation"], end["task"]["message"]) == ("task-1", "UpdateJob", "Ok")
        assert end["linked_backups_removed"] == []
        assert em.deletes_of(VENDOR_LINK_ID) == 1
        missing = [request.path.partition("?")[0] for request in em.requests if request.status == 404]
        assert missing == ["/api/repositories"]  # not on the page: the names, without which the unlink succeeds as well
