"""Looking through all copy jobs for the links to a repository."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from contracts.commands import RepositoryReference
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.catalogue import links_to_repository
from worker.sandbox.simulated_enterprise_manager import Behaviour, SimulatedEnterpriseManager

#: Requests of a look that do not depend on the number of jobs: the logon, and the names in pages of a hundred.
OTHERS = 40


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_thousand_jobs_take_two_requests_each_and_no_more_at_once_than_are_set(
    em: SimulatedEnterpriseManager, behaviour: Behaviour, gateway_with: Callable[..., Gateway]
) -> None:
    """Whoever offboards a repository would overload Enterprise Manager for everybody, or wait for hours."""
    retired = em.add_repository(name="Retired")
    links = set()
    for number in range(1000):
        job = em.add_job(name=f"Copy {number:04}", links=[retired] if number % 100 == 0 else [])
        links |= {link.object_in_job_id for link in em.links(job)}
    behaviour.requests_at_once = 4
    progress: list[tuple[int, int]] = []
    before = len(em.requests)
    found = await links_to_repository(
        gateway_with(max_requests=4), RepositoryReference(uid=retired), lambda *read: progress.append(read)
    )
    sent = em.requests[before:]
    jobs = progress[-1][1]
    assert {each.link.object_in_job_id for each in found.links} == links
    assert (found.unread, jobs >= 1000) == ((), True)
    assert [done for done, _ in progress] == list(range(1, jobs + 1))
    assert len(sent) <= 2 * jobs + OTHERS
    assert {request.status for request in sent} <= {200, 201}  # none was refused as one too many
