"""The names of repositories for events: they cost next to nothing, and no failure of theirs disturbs an unlink."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from worker.enterprise_manager import Gateway
from worker.enterprise_manager.repository_names import BETWEEN_READS_SECONDS, FRESH_SECONDS, MOST_WAIT_SECONDS
from worker.sandbox.simulated_enterprise_manager import Fault, SimulatedEnterpriseManager


async def test_all_names_are_read_together_and_kept_for_a_while(
    em: SimulatedEnterpriseManager, gateway: Gateway, clock: Any
) -> None:
    """Each of a thousand unlinks would take another request; or a repository have its old name for ever."""
    repositories = {em.add_repository(name=f"Scale-out {number}"): f"Scale-out {number}" for number in range(300)}
    names = await asyncio.gather(*(gateway.repository_name(uid) for uid in repositories))
    assert names == list(repositories.values())
    read = em.count("GET", "/repositories")
    assert read <= 4  # pages, which the server may make smaller
    late = em.add_repository(name="Added since")
    assert await gateway.repository_name(late) is None
    assert em.count("GET", "/repositories") == read
    clock.waited.append(BETWEEN_READS_SECONDS)
    assert await gateway.repository_name(late) == "Added since"
    read = em.count("GET", "/repositories")
    clock.waited.append(FRESH_SECONDS)
    assert await gateway.repository_name(late) == "Added since"
    assert em.count("GET", "/repositories") > read


async def test_names_on_later_pages_are_read_too(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Where a server lists a part at a time, most events would lack the repository's name."""
    uids = ["7d6c1f0e-5b0a-4c1e-9a57-2b5a6f3d9c11", "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"]
    for number, where in ((2, "page=2"), (1, "/repositories")):
        reference = f'<Ref UID="urn:veeam:Repository:{uids[number - 1]}" Name="Scale-out {number}"/>'
        body = f'<EntityReferences>{reference}<PagingInfo PageNum="{number}" PagesCount="2"/></EntityReferences>'
        em.inject(Fault("wrong_content", path=where, body=body, content_type="application/xml"))
    assert [await gateway.repository_name(uid) for uid in uids] == ["Scale-out 1", "Scale-out 2"]
    assert em.count("GET", "/repositories") == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", path="/repositories", status=403, times=None),
        Fault("status", path="/repositories", status=404, times=None),
        Fault("status", path="/repositories", status=503, times=None),
        Fault("drops_connection", path="/repositories", times=None),
        Fault("wrong_content", path="/repositories", times=None),
        Fault("truncated", path="/repositories", times=None),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status or ''}".strip(),
)
async def test_a_failure_is_no_failure_of_an_unlink(
    em: SimulatedEnterpriseManager, gateway: Gateway, fault: Fault
) -> None:
    """A server that does not list its repositories would be taken for down, and nothing be unlinked."""
    uid = em.add_repository(name="Scale-out")
    em.inject(fault)
    for _ in range(3):
        assert await gateway.repository_name(uid) is None
    assert gateway.up
    assert em.count("GET", "/repositories") == 1


async def test_a_slow_answer_is_awaited_for_a_moment_only_and_kept(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]
) -> None:
    """Every unlink would wait for names that only people need."""
    gateway = gateway_with()
    uid = em.add_repository(name="Scale-out")
    em.inject(Fault("latency", path="/repositories", seconds=MOST_WAIT_SECONDS + 1))
    began = time.monotonic()
    assert await gateway.repository_name(uid) is None
    assert await asyncio.gather(*(gateway.repository_name(uid) for _ in range(50))) == [None] * 50
    assert time.monotonic() - began < MOST_WAIT_SECONDS + 0.9
    async with asyncio.timeout(10):
        while await gateway.repository_name(uid) is None:  # noqa: ASYNC110 - the server's time passes
            await asyncio.sleep(0.05)
    assert em.count("GET", "/repositories") == 1
