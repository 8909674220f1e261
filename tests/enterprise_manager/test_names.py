"""From names to IDs, with names that nobody should give."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.commands import JobReference, RepositoryReference
from contracts.events import ReasonCode
from tests.enterprise_manager.ids import JOB, UID
from worker.enterprise_manager import Gateway
from worker.sandbox.simulated_enterprise_manager import (
    SimulatedEnterpriseManager,
)
from worker.unlinks.ports.enterprise_manager import Job, Refused


@pytest.fixture(params=["xml", "json"])
def spelling(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The format asked for, and how the server spells it."""
    return request.param, {}


NAMES = [
    "Copy to Köln, Frankfurt; & more",
    'Copy "offsite"',
    '"',
    '""',
    'x",Name!="',
    'x";Name!="y',
    "back\\slash\\",
    '\\",Name!=""',
    "Name==x",
    "(a)",
    "100% + 1 = a/b?c#d&e",
    "  two  spaces  ",
    "<tag> 'single' 日本",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quotes", ["impossible", "backslash", "doubled"])
async def test_hostile_names_find_what_they_name_and_nothing_else(
    em: SimulatedEnterpriseManager, gateway: Gateway, name: str, quotes: Any
) -> None:
    """Else a job's name could select, and so change, another job."""
    em.behaviour.quote_inside_value = quotes
    with pytest.raises(Refused) as refused:
        await gateway.find_job(JobReference(name=name))
    assert refused.value.code is ReasonCode.JOB_NOT_FOUND
    job = em.add_job(name=name)
    repository = em.add_repository(name)
    assert await gateway.find_job(JobReference(name=name)) == Job(job, " ".join(name.split()) if name != job else None)
    assert await gateway.find_repository(RepositoryReference(name=name)) == repository


async def test_names_are_compared_to_the_letter(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else a name that differs by case would edit the wrong job; and the hint spares a person the search."""
    with pytest.raises(Refused, match=rf'no job is named "copy to frankfurt"; there is "Copy to Frankfurt" .*{JOB}'):
        await gateway.find_job(JobReference(name="copy to frankfurt"))
    em.add_repository("Scale-out 3", backup_server="vbr07")
    with pytest.raises(Refused, match=r'no repository is named "Scale-out 4"; there is "Scale-out 3" on "vbr07"'):
        await gateway.find_repository(RepositoryReference(name="Scale-out 4"))


async def test_one_name_on_two_backup_servers(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else one of the two would be edited by chance."""
    jobs = {server: em.add_job(name="Twin", backup_server=server) for server in ("vbr01.example.com", "vbr02")}
    uids = {server: em.add_repository("Twin", backup_server=server) for server in jobs}
    with pytest.raises(Refused, match=r'2 jobs are named "Twin": "Twin" on "vbr01.example.com" \(') as job_refused:
        await gateway.find_job(JobReference(name="Twin"))
    with pytest.raises(Refused, match="2 repositories are named") as repository_refused:
        await gateway.find_repository(RepositoryReference(name="Twin"))
    assert job_refused.value.code is ReasonCode.JOB_AMBIGUOUS
    assert repository_refused.value.code is ReasonCode.REPOSITORY_AMBIGUOUS
    for server, job in jobs.items():
        assert (await gateway.find_job(JobReference(name="Twin", backup_server=server))).id == job
        found = await gateway.find_repository(RepositoryReference(name="Twin", backup_server=server))
        assert found == uids[server]
    with pytest.raises(Refused, match='on the backup server "vbr03"; there is "Twin" on') as absent:
        await gateway.find_job(JobReference(name="Twin", backup_server="vbr03"))
    assert absent.value.code is ReasonCode.JOB_NOT_FOUND


@pytest.mark.parametrize("answer", ["400", "501"])
async def test_names_are_found_without_queries(em: SimulatedEnterpriseManager, gateway: Gateway, answer: Any) -> None:
    """Else a server that answers no queries could only be given IDs."""
    em.behaviour.query = answer
    assert (await gateway.find_job(JobReference(name="Copy to Frankfurt"))).id == JOB


async def test_more_matches_than_a_page(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else the right one could be on a page that nobody reads."""
    em.behaviour.page_size = 3
    for _ in range(8):
        em.add_job(name="copy to frankfurt")
    assert (await gateway.find_job(JobReference(name="Copy to Frankfurt"))).id == JOB
    with pytest.raises(Refused, match=r"8 jobs are named .* and 3 more"):
        await gateway.find_job(JobReference(name="copy to frankfurt"))


async def test_a_repository_uid_needs_no_question(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else each unlink would cost a request more."""
    assert await gateway.find_repository(RepositoryReference(uid=f"urn:veeam:Repository:{UID.upper()}")) == UID
    assert em.count() == 0
