"""The gateway against a simulated Enterprise Manager over HTTPS, in every format that was seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from contracts.commands import JobReference
from contracts.events import ReasonCode
from tests.enterprise_manager.ids import ABSENT, JOB, LINK, OTHER_LINK, OTHER_UID, UID
from tests.enterprise_manager.sending import at_any_time
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.gateway import FRESH_SECONDS
from worker.sandbox.simulated_enterprise_manager import (
    JSON_LINKS_NAMES,
    Fault,
    LinkedBackup,
    SimulatedEnterpriseManager,
)
from worker.unlinks.ports.enterprise_manager import (
    AnswerLost,
    EnterpriseManager,
    Job,
    Link,
    LinkNotFound,
    Refused,
    TaskNotFound,
    Unavailable,
)
from worker.unlinks.ports.enterprise_manager import LinkedBackup as LinkedBackupSeen

FORMATS = {
    "xml": ("xml", {}),
    "json": ("json", {}),
    "json of 13.0": (
        "json",
        {"json_keys": "camel", "json_byte_order_mark": True, "running_result": "null", "json_query_lists": "flat"},
    ),
}


@pytest.fixture(params=FORMATS)
def spelling(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The format asked for, and how the server spells it."""
    return FORMATS[request.param]


def test_the_gateway_is_the_port(gateway: Gateway) -> None:
    """Else the core could not use it."""
    port: EnterpriseManager = gateway
    assert port is gateway


async def test_one_unlink_from_look_to_end(em: SimulatedEnterpriseManager, gateway: Gateway, finish: Any) -> None:
    """Else nothing works: the whole road of one unlink, with one logon and one DELETE."""
    job = await gateway.find_job(JobReference(id=JOB))
    assert job == Job(JOB, "Copy to Frankfurt")
    links = await gateway.links(JOB)
    assert links == [Link(LINK, UID), Link(OTHER_LINK, OTHER_UID)]
    assert await gateway.linked_backups(job) == ()
    task = await gateway.delete_link(JOB, LINK, at_any_time)
    assert (task.finished, task.operation, task.success) == (False, "UpdateJob", None)
    finished = await finish(gateway, task.ticket)
    assert (finished.success, finished.message) == (True, "Ok")
    assert await gateway.links(JOB) == [Link(OTHER_LINK, OTHER_UID)]
    await gateway.close(log_off=True)
    assert em.count("POST", "/sessionMngr") == 1
    assert em.deletes_of(LINK) == 1
    assert em.sessions == []


async def test_a_job_that_is_not_there(gateway: Gateway) -> None:
    """Else a typing error in a ticket would not be told from an outage."""
    for call in (
        gateway.find_job(JobReference(id=ABSENT)),
        gateway.links(ABSENT),
        gateway.linked_backups(Job(ABSENT, None)),
    ):
        with pytest.raises(Refused, match=r"Cannot find job|no job") as refused:
            await call
        assert refused.value.code is ReasonCode.JOB_NOT_FOUND
    assert gateway.up


@pytest.mark.parametrize("job_type", ["Backup", "Replica"])
async def test_a_job_of_another_type(em: SimulatedEnterpriseManager, gateway: Gateway, job_type: str) -> None:
    """Else a backup job could be edited as if it were a copy job."""
    em.add_job(id=ABSENT, name="Nightly", job_type=job_type)
    for reference in (JobReference(id=ABSENT), JobReference(name="Nightly")):
        with pytest.raises(Refused, match=f'"Nightly" is of type {job_type}') as refused:
            await gateway.find_job(reference)
        assert refused.value.code is ReasonCode.NOT_A_COPY_JOB
    with pytest.raises(Refused, match="which backups are linked") as unclear:
        await gateway.linked_backups(Job(ABSENT, None))
    assert unclear.value.code is ReasonCode.ENTERPRISE_MANAGER_ERROR


async def test_a_job_without_a_type_is_not_edited(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else whatever the server does not say would be taken for a copy job."""
    body = f"""<Job UID="urn:veeam:Job:{JOB}" Name="Copy"><JobInfo><BackupCopyJobInfo/></JobInfo></Job>"""
    em.inject(Fault("wrong_content", path="format=Entity", body=body, content_type="application/xml"))
    with pytest.raises(Refused, match="it names no type of job") as refused:
        await gateway.find_job(JobReference(id=JOB))
    assert refused.value.code is ReasonCode.ENTERPRISE_MANAGER_ERROR


async def test_a_server_that_compresses_is_asked_not_to(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else no answer could be read: the size of what it becomes is known only afterwards."""
    em.behaviour.compression = True
    assert (await gateway.find_job(JobReference(name="Copy to Frankfurt"))).id == JOB
    assert len(await gateway.links(JOB)) == 2


@pytest.mark.parametrize("job_type", ["ImmediateBackupCopy", "BackupCopy"])
@pytest.mark.parametrize("platform", ["VMware", "Hyperv", "vCloud"])
async def test_linked_backups_of_both_kinds_of_copy_job(
    em: SimulatedEnterpriseManager, gateway: Gateway, job_type: str, platform: str
) -> None:
    """Else the guard would let backups be dropped that nobody consented to lose."""
    backup = LinkedBackup(LINK, "58c917c7-7b7a-41ff-8676-226656c35c05")
    job_id = em.add_job(name="Copy 2", job_type=job_type, platform=platform, linked_backups=[backup])
    job = await gateway.find_job(JobReference(id=job_id))
    assert job.id == job_id
    assert await gateway.linked_backups(job) == (LinkedBackupSeen(LINK, "58c917c7-7b7a-41ff-8676-226656c35c05"),)


@pytest.mark.parametrize("name", JSON_LINKS_NAMES)
async def test_links_are_found_whatever_json_calls_them(
    em: SimulatedEnterpriseManager, gateway: Gateway, name: str
) -> None:
    """Else links would be missed, and an unlink be told that its link is absent."""
    em.behaviour.json_links_name = name
    assert [link.object_in_job_id for link in await gateway.links(JOB)] == [LINK, OTHER_LINK]
    assert await gateway.links(em.add_job(name="Empty")) == []


@pytest.mark.parametrize("message", ["Ok", "OK", "Backup job has been updated"])
@pytest.mark.parametrize("result", ["full", "without_message", "empty_message", "null_message", "absent", "null"])
async def test_every_way_in_which_a_task_finishes(
    em: SimulatedEnterpriseManager, gateway: Gateway, message: str, result: Any, finish: Any
) -> None:
    """Else a task that ended well would be reported as failed for want of a message."""
    em.behaviour.success_messages = (message,)
    em.behaviour.finished_result = result
    em.behaviour.unknown_state = "Collecting"
    finished = await finish(gateway, (await gateway.delete_link(JOB, LINK, at_any_time)).ticket)
    assert finished.success is (None if result in {"absent", "null"} else True)
    assert finished.message == (message if result == "full" else None)


@pytest.mark.parametrize("asks", ["nothing", "confirmation", "credentials"])
async def test_a_task_that_fails(em: SimulatedEnterpriseManager, gateway: Gateway, asks: Any, finish: Any) -> None:
    """Else a failed unlink would be reported as done, or without the server's reason."""
    em.behaviour.failed_result_asks = asks
    em.inject(Fault("task_fails", method="DELETE", message="Job is locked by another user"))
    finished = await finish(gateway, (await gateway.delete_link(JOB, LINK, at_any_time)).ticket)
    assert (finished.success, finished.message) == (False, "Job is locked by another user")


async def test_a_link_that_is_not_there(gateway: Gateway) -> None:
    """Else an absent link would be taken for an outage."""
    with pytest.raises(LinkNotFound):
        await gateway.delete_link(JOB, ABSENT, at_any_time)
    assert gateway.up


async def test_delete_names_the_link_even_if_the_servers_link_names_another_host(
    em: SimulatedEnterpriseManager, gateway: Gateway, finish: Any
) -> None:
    """Else links with Enterprise Manager's own host name would not be reached."""
    em.behaviour.links_host = "em01.corp.example:9398"
    await gateway.links(JOB)
    ticket = (await gateway.delete_link(JOB, OTHER_LINK, at_any_time)).ticket
    assert (await finish(gateway, ticket)).success is True
    assert [link.object_in_job_id for link in em.links(JOB)] == [LINK]


async def test_a_delete_accepted_without_a_task_is_lost(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else an unlink would follow a task that nobody named."""
    em.behaviour.accepted_body = "empty"
    with pytest.raises(AnswerLost, match=r"accepted the request \(status 202\)"):
        await gateway.delete_link(JOB, LINK, at_any_time)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ReasonCode.ENTERPRISE_MANAGER_ERROR),
        (403, ReasonCode.ACCESS_DENIED),
        (405, ReasonCode.ENTERPRISE_MANAGER_ERROR),
        (409, ReasonCode.ENTERPRISE_MANAGER_ERROR),
        (501, ReasonCode.ENTERPRISE_MANAGER_ERROR),
    ],
)
async def test_a_definite_no_to_a_delete(
    em: SimulatedEnterpriseManager, gateway: Gateway, status: int, code: ReasonCode
) -> None:
    """Else a request that can never succeed would be tried for ever, or end without the server's words."""
    em.inject(Fault("status", method="DELETE", status=status, message="The job is\nrunning " + "x" * 2000))
    with pytest.raises(Refused, match="The job is running x") as refused:
        await gateway.delete_link(JOB, LINK, at_any_time)
    assert refused.value.code is code
    assert len(refused.value.message) < 1300
    assert gateway.up


async def test_log_off_ends_our_session_and_nobody_elses(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]
) -> None:
    """Else a worker that ends would take the running unlinks of another one with it."""
    ours, theirs = gateway_with(), gateway_with()
    await ours.links(JOB)
    await theirs.links(JOB)
    await ours.close(log_off=True)
    assert len(em.sessions) == 1
    await theirs.links(JOB)
    assert em.count("POST", "/sessionMngr") == 2
    assert em.count("GET", "/logonSessions") == 0


async def test_denied_access_is_a_definite_no(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else a missing role would look like an outage, for ever."""
    em.behaviour.role = "Restore Operator"
    with pytest.raises(Refused, match=r"denied access.*__LAB__USERNAME needs the role Portal Administrator") as refused:
        await gateway.links(JOB)
    assert refused.value.code is ReasonCode.ACCESS_DENIED
    assert gateway.up
    em.behaviour.role = "Portal User"
    with pytest.raises(Refused) as denied:
        await gateway.delete_link(JOB, LINK, at_any_time)
    assert denied.value.code is ReasonCode.ACCESS_DENIED


async def test_an_answer_about_another_job_is_not_believed(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else a mixed-up answer could clear the guard for a job whose linked backups would be dropped."""
    body = f"""<Job UID="urn:veeam:Job:{ABSENT}" Name="Another"><JobType>BackupCopy</JobType>
      <JobInfo><BackupCopyJobInfo/></JobInfo></Job>"""
    for call in (lambda: gateway.find_job(JobReference(id=JOB)), lambda: gateway.linked_backups(Job(JOB, None))):
        em.inject(Fault("wrong_content", path="format=Entity", body=body, content_type="application/xml"))
        with pytest.raises(Unavailable, match=f"asked for the job {JOB}, it answered with the job {ABSENT}"):
            await call()
        await gateway.until_available()
        await call()


ONE_LINK = """<LinkedBackupRepositoryResourceObjects><LinkedBackupRepository{own}><Links>{links}</Links>
  <ObjectInJobId>{link}</ObjectInJobId><LinkedBackupRepositoryUid>{uid}</LinkedBackupRepositoryUid>
  </LinkedBackupRepository></LinkedBackupRepositoryResourceObjects>"""


@pytest.mark.parametrize(
    ("own", "links"),
    [
        ("", '<Link Rel="Up" Type="Job" Href="https://em01:9398/api/jobs/{id}?format=Entity"/>'),
        ("", '<Link Rel="Up" Type="JobReference" Href="https://em01:9398/api/jobs/{id}"/>'),
        (
            "",
            '<Link Rel="Up" Href="https://em01/api/backupServers/1"/><Link Rel="Up" Href="https://em01/api/jobs/{id}"/>',
        ),
        ("", '<Link Rel="Delete" Href="https://em01/api/jobs/{id}/linkedBackupRepositories/' + OTHER_LINK + '"/>'),
        (' Href="https://em01/api/jobs/{id}/linkedBackupRepositories/' + OTHER_LINK + '"', ""),
    ],
)
async def test_a_list_of_another_jobs_links_is_not_believed(
    em: SimulatedEnterpriseManager, gateway: Gateway, own: str, links: str
) -> None:
    """Else a mixed-up answer would be evidence that a link is gone, or absent, which is there."""
    for job, sees in ((ABSENT, None), (JOB.upper(), [Link(OTHER_LINK, UID)]), ("", [Link(OTHER_LINK, UID)])):
        body = ONE_LINK.format(own=own.format(id=job), links=links.format(id=job), link=OTHER_LINK, uid=UID)
        em.inject(Fault("wrong_content", path="linkedBackup", body=body, content_type="application/xml"))
        if sees is not None:
            assert await gateway.links(JOB) == sees
            continue
        with pytest.raises(Unavailable, match=f"asked for the job {JOB}, it answered with the job {ABSENT}"):
            await gateway.links(JOB)
        await gateway.until_available()
        assert [link.object_in_job_id for link in await gateway.links(JOB)] == [LINK, OTHER_LINK]


LIST_HREF = "https://em01:9398/api/jobs/{id}/linkedBackupRepositories"
UP_HREF = "https://em01:9398/api/jobs/{id}?format=Entity"
NAME = "LinkedBackupRepositoryResourceObjects"


@pytest.mark.parametrize(
    ("content_type", "empty"),
    [
        ("application/xml", f'<{NAME} Href="{LIST_HREF}"/>'),
        ("application/xml", f'<{NAME}><Links><Link Rel="Up" Type="Job" Href="{UP_HREF}"/></Links></{NAME}>'),
        ("application/json", '{"Href": "' + LIST_HREF + '", "' + NAME + '": []}'),
        ("application/json", '{"Links": [{"Rel": "Up", "Href": "' + UP_HREF + '"}], "' + NAME + '": []}'),
        ("application/json", '{"' + NAME + '": {"Href": "' + LIST_HREF + '", "LinkedBackupRepository": []}}'),
    ],
    ids=["XML, its own", "XML, up", "JSON, its own", "JSON, up", "JSON, its own, inside"],
)
async def test_an_empty_list_of_another_jobs_links_is_not_believed(
    em: SimulatedEnterpriseManager, gateway: Gateway, content_type: str, empty: str
) -> None:
    """Else a mixed-up answer would be evidence that every link of the job is gone."""
    em.inject(
        Fault("wrong_content", path="linkedBackup", body=empty.replace("{id}", ABSENT), content_type=content_type)
    )
    with pytest.raises(Unavailable, match=f"asked for the job {JOB}, it answered with the job {ABSENT}"):
        await gateway.links(JOB)
    await gateway.until_available()
    for job in (JOB.upper(), ""):
        body = empty.replace("{id}", job)
        em.inject(Fault("wrong_content", path="linkedBackup", body=body, content_type=content_type))
        assert await gateway.links(JOB) == []


async def test_an_answer_about_another_task_is_not_believed(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else another task's success would be taken for this one's."""
    ticket = (await gateway.delete_link(JOB, LINK, at_any_time)).ticket
    body = '<Task><TaskId>task-2</TaskId><State>Finished</State><Result Success="true"/></Task>'
    em.inject(Fault("wrong_content", path="/tasks/", body=body, content_type="application/xml"))
    with pytest.raises(TaskNotFound, match="asked for task-1, and received task-2"):
        await gateway.task(ticket)


async def test_a_look_reads_its_job_once(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else each unlink would cost a request that tells nothing new."""
    for _ in range(2):
        em.forget_requests()
        job = await gateway.find_job(JobReference(id=JOB))
        assert await gateway.linked_backups(job) == ()
        assert em.count("GET", "format=Entity") == 1


async def test_the_guard_is_read_anew_wherever_an_edit_may_have_come_between(
    em: SimulatedEnterpriseManager, gateway: Gateway, clock: Any, finish: Any
) -> None:
    """Else backups would be dropped that were linked, or reported as dropped that were not, since the job was read."""

    async def reads(between: Callable[[], Any]) -> int:
        em.forget_requests()
        job = await gateway.find_job(JobReference(id=JOB))
        if (waiting := between()) is not None:
            await waiting
        await gateway.linked_backups(job)
        return em.count("GET", "format=Entity")

    assert await reads(lambda: None) == 1
    assert await reads(lambda: clock.waited.append(FRESH_SECONDS + 1)) == 2
    assert await reads(lambda: gateway.linked_backups(Job(JOB, None))) == 2
    assert await reads(lambda: asyncio.create_task(gateway.find_job(JobReference(id=JOB)))) == 2
    ticket = (await gateway.delete_link(JOB, LINK, at_any_time)).ticket
    assert await reads(lambda: None) == 2
    await finish(gateway, ticket)
    assert await reads(lambda: None) == 2


async def test_links_read_with_the_job_hold_until_an_edit_may_have_come(
    em: SimulatedEnterpriseManager, gateway: Gateway, clock: Any
) -> None:
    """Else a DELETE would be sent for a link that was replaced since the job was read."""
    job = await gateway.find_job(JobReference(id=JOB))
    assert list(gateway.links_read_with(job)) == await gateway.links(JOB)
    assert gateway.links_read_with(Job(JOB, None)) == ()
    clock.waited.append(FRESH_SECONDS + 1)
    assert gateway.links_read_with(job) == ()
    job = await gateway.find_job(JobReference(id=JOB))
    await gateway.delete_link(JOB, LINK, at_any_time)
    assert gateway.links_read_with(job) == ()
    em.change_behaviour(links_in_job_entity="left_out")
    assert (await gateway.find_job(JobReference(id=JOB))).links == ()


async def test_what_one_unlink_has_read_is_no_others(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else an unlink would be judged by what another one saw before it."""
    await gateway.find_job(JobReference(id=JOB))
    await gateway.linked_backups(Job(JOB, None))
    assert em.count("GET", "format=Entity") == 2
