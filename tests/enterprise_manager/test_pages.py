"""Lists in pages, which change while they are read: a member that moves to another page must not be missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from contracts.commands import JobReference, RepositoryReference
from contracts.events import ReasonCode
from tests.enterprise_manager.ids import JOB, UID
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.calls import MOST_PAGES, MOST_READS
from worker.sandbox.simulated_enterprise_manager import Fault, SimulatedEnterpriseManager
from worker.unlinks.ports.enterprise_manager import Refused, Unavailable

A, B, C, D = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abcd")

#: What is answered when A is removed between the requests for two pages: C has moved to the page that was read.
SHIFTED = [[A, B], [D]]
#: What is answered from then on.
STILL = [[B, C], [D]]


def _links(page: list[str], paging: str) -> str:
    links = "".join(
        f"""<LinkedBackupRepository><ObjectInJobId>{link}</ObjectInJobId>
        <LinkedBackupRepositoryUid>{UID}</LinkedBackupRepositoryUid></LinkedBackupRepository>"""
        for link in page
    )
    return f"<LinkedBackupRepositoryResourceObjects>{links}{paging}</LinkedBackupRepositoryResourceObjects>"


def _references(page: list[str], paging: str) -> str:
    references = "".join(f'<Ref UID="urn:veeam:Job:{job}" Name="Copy"/>' for job in page)
    return f"<QueryResult><Refs>{references}</Refs>{paging}</QueryResult>"


def _paging(number: int, pages: int) -> str:
    return f'<PagingInfo PageNum="{number}" PageSize="2" PagesCount="{pages}"/>'


def answer_in_pages(
    em: SimulatedEnterpriseManager, path: str, document: Callable[[list[str], str], str], *reads: list[list[str]]
) -> None:
    """Let the next requests that match be answered with the pages of one read after the other."""
    for pages in reads:
        for number, page in enumerate(pages, 1):
            body = document(page, _paging(number, len(pages)))
            em.inject(Fault("wrong_content", path=path, body=body, content_type="application/xml"))


async def test_a_list_in_pages_is_read_to_its_end(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else a link on the second page would be reported as gone."""
    answer_in_pages(em, "linkedBackup", _links, STILL, STILL)
    assert [link.object_in_job_id for link in await gateway.links(JOB)] == [B, C, D]
    assert em.count("GET", "linkedBackupRepositories?page=2") == 2
    assert em.faults == []


async def test_a_link_that_moves_to_a_page_that_was_read_is_not_missed(
    em: SimulatedEnterpriseManager, gateway: Gateway
) -> None:
    """Else a link would be reported as gone because another one was removed."""
    answer_in_pages(em, "linkedBackup", _links, SHIFTED, STILL, STILL)
    assert [link.object_in_job_id for link in await gateway.links(JOB)] == [B, C, D]
    assert em.faults == []


async def test_a_job_that_moves_to_a_page_that_was_read_is_not_missed(
    em: SimulatedEnterpriseManager, gateway: Gateway
) -> None:
    """Else of several jobs of one name the only one that was seen would be edited."""
    answer_in_pages(em, "/query", _references, [[A], []], [[B], [C]], [[B], [C]])
    with pytest.raises(Refused, match=f"2 jobs are named .*{B}.*{C}") as refused:
        await gateway.find_job(JobReference(name="Copy"))
    assert refused.value.code is ReasonCode.JOB_AMBIGUOUS


async def test_a_list_that_never_stands_still_is_not_believed(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """As above; the next look may find it at rest."""
    answer_in_pages(em, "linkedBackup", _links, *([SHIFTED, STILL] * MOST_READS)[:MOST_READS])
    with pytest.raises(Unavailable, match="changes it all the time"):
        await gateway.links(JOB)
    await asyncio.wait_for(gateway.until_available(), 10)
    assert len(await gateway.links(JOB)) == 2


@pytest.mark.parametrize("paging", [_paging(1, 2), '<PagingInfo PagesCount="2"/>', ""])
async def test_a_server_that_gives_the_same_page_forevery_number_is_not_believed(
    em: SimulatedEnterpriseManager, gateway: Gateway, paging: str
) -> None:
    """Else all links beyond the first page would be reported as gone."""
    for _ in range(MOST_READS):
        for body in (_links([A, B], _paging(1, 2)), _links([A, B], paging)):
            em.inject(Fault("wrong_content", path="linkedBackup", body=body, content_type="application/xml"))
    with pytest.raises(Unavailable, match="answers with other pages of a list than asked for"):
        await gateway.links(JOB)


async def test_a_list_that_is_too_long_is_not_half_read(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else what is on the pages that are not read would be reported as gone, or as not found."""
    for document in (_links, _references):
        body = document([A], _paging(1, MOST_PAGES + 1))
        em.inject(Fault("wrong_content", path="linkedBackup", body=body, content_type="application/xml", times=None))
        em.inject(Fault("wrong_content", path="/jobs?", body=body, content_type="application/xml", times=None))
        with pytest.raises(Refused, match=f"{MOST_PAGES + 1} pages; at most {MOST_PAGES} are read"):
            await (gateway.links(JOB) if document is _links else gateway.names("Job"))
        em.behaviour.query = "supported" if document is _links else "501"
        em.clear_faults()
    em.inject(Fault("wrong_content", path="/jobs?", body=body, content_type="application/xml", times=None))
    with pytest.raises(Refused, match=f"{MOST_PAGES + 1} pages") as unknown:
        await gateway.find_job(JobReference(name="Copy"))
    assert unknown.value.code is ReasonCode.ENTERPRISE_MANAGER_ERROR
    em.behaviour.query = "supported"
    with pytest.raises(Refused, match="no job is named") as absent:
        await gateway.find_job(JobReference(name="Copy"))
    assert absent.value.code is ReasonCode.JOB_NOT_FOUND


@pytest.mark.parametrize("pages", [True, False])
async def test_all_repositories_are_read_whether_or_not_their_list_has_pages(
    em: SimulatedEnterpriseManager, gateway: Gateway, *, pages: bool
) -> None:
    """The vendor documents no pages of `/repositories`. If there are some, all but the first could be missed."""
    em.change_behaviour(pages_of_collections=pages, page_size=3)
    uids = {em.add_repository(f"Repository {number}") for number in range(10)}
    assert uids <= (await gateway.names("Repository")).keys()


async def test_a_repository_on_the_second_page_is_found(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else a repository of a large site could only be named by its UID."""
    em.behaviour.page_size = 1
    uids = {server: em.add_repository("Twin", backup_server=server) for server in ("vbr01", "vbr02")}
    for server, uid in uids.items():
        assert await gateway.find_repository(RepositoryReference(name="Twin", backup_server=server)) == uid
    with pytest.raises(Refused, match="2 repositories are named"):
        await gateway.find_repository(RepositoryReference(name="Twin"))
