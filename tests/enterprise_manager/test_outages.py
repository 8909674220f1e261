"""What is repeated, what is an outage, and how it is told and ended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from contracts.commands import JobReference
from tests.enterprise_manager.ids import JOB, LINK
from tests.enterprise_manager.sending import at_any_time
from tests.waiting import until
from worker.enterprise_manager import Gateway
from worker.sandbox.simulated_enterprise_manager import (
    Fault,
    SimulatedEnterpriseManager,
)
from worker.unlinks.ports.enterprise_manager import Unavailable


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=500),
        Fault("status", status=502, answer="html"),
        Fault("status", status=503),
        Fault("status", status=429, answer="empty"),
        Fault("status", status=504),
        Fault("drops_connection"),
        Fault("never_answers"),
        Fault("truncated"),
        Fault("cut_off"),
        Fault("wrong_content"),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status or ''}",
)
async def test_a_look_is_repeated_a_few_times_then_it_is_an_outage(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway], fault: Fault
) -> None:
    """Else a hiccup would fail an unlink, or an outage be hammered."""
    gateway = gateway_with(request_timeout_seconds=0.5)
    wanted = {name: getattr(fault, name) for name in Fault.__slots__} | {"method": "GET", "path": "linkedBackup"}
    em.inject(Fault(**wanted | {"times": 2}))
    assert len(await gateway.links(JOB)) == 2
    em.forget_requests()
    em.inject(Fault(**wanted | {"times": 3}))
    with pytest.raises(Unavailable) as gone:
        await gateway.links(JOB)
    assert em.count("GET", "linkedBackup") == 3
    assert "\n" not in str(gone.value)
    assert "<" not in str(gone.value)
    await asyncio.wait_for(gateway.until_available(), 10)
    assert len(await gateway.links(JOB)) == 2


async def test_an_outage_is_reported_probed_and_over(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else commands would be used up on an Enterprise Manager that is away, or wait after it is back."""
    received: list[bool] = []
    gateway.on_availability(received.append)
    em.refuse_connections()
    with pytest.raises(Unavailable):
        await gateway.links(JOB)
    assert gateway.last_problem is not None
    assert "nothing listens there" in gateway.last_problem
    assert "UNLINK_ENTERPRISE_MANAGERS__LAB__URL" in gateway.last_problem
    em.accept_connections()
    await asyncio.wait_for(gateway.until_available(), 10)
    assert received == [False, True]
    assert len(await gateway.links(JOB)) == 2


async def test_calls_fail_at_once_while_it_is_down(em: SimulatedEnterpriseManager, gateway: Gateway) -> None:
    """Else a thousand unlinks would each wait for time-outs of their own."""
    em.inject(Fault("status", method="GET", status=503, times=None))
    with pytest.raises(Unavailable):
        await gateway.links(JOB)
    em.forget_requests()
    for call in (
        gateway.links(JOB),
        gateway.delete_link(JOB, LINK, at_any_time),
        gateway.find_job(JobReference(id=JOB)),
    ):
        with pytest.raises(Unavailable, match="503"):
            await call
    assert em.count("", "/jobs") == 0
    em.clear_faults()


async def test_a_refused_password_is_said_once_and_not_hammered(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway], clock: Any
) -> None:
    """Else the worker would have its own account locked."""
    gateway = gateway_with(password=SecretStr("wrong horse"))
    results = await asyncio.gather(*(gateway.links(JOB) for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {Unavailable}
    assert str(results[0]).endswith(
        "refused the user name or password: check UNLINK_ENTERPRISE_MANAGERS__LAB__USERNAME and "
        "UNLINK_ENTERPRISE_MANAGERS__LAB__PASSWORD"
    )
    assert "wrong horse" not in str(results[0])
    assert em.count("POST", "/sessionMngr") == 1
    await until(lambda: em.count("POST", "/sessionMngr") >= 4)
    assert sum(clock.waited) >= 60 + 120 + 240


async def test_the_wrong_server_behind_the_url(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]
) -> None:
    """Else a person would look for the fault everywhere but in the URL."""
    gateway = gateway_with()
    em.inject(Fault("wrong_content", times=None))
    with pytest.raises(Unavailable, match=r"is not Enterprise Manager's REST API.*HTML page.*check UNLINK.*__LAB__URL"):
        await gateway.links(JOB)
    em.clear_faults()


async def test_a_name_that_looks_like_html_is_a_name(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]
) -> None:
    """Else one job's name would take a whole Enterprise Manager down."""
    name = "Copy of <!DOCTYPE html><html><title>x</title>"
    em.add_job(name=name)
    for spelling in ("json", "xml"):
        gateway = gateway_with(format=spelling)
        assert (await gateway.find_job(JobReference(name=name))).name == name
        assert gateway.up


@pytest.mark.parametrize("body", ["404 page not found\n", '{"message":"no Route matched with those values"}', "[]"])
async def test_a_404_of_something_else_does_not_say_that_there_is_no_job(
    em: SimulatedEnterpriseManager, gateway: Gateway, body: str
) -> None:
    """Else a command would fail for good while a proxy is restarted."""
    for call in (lambda: gateway.find_job(JobReference(id=JOB)), lambda: gateway.links(JOB)):
        page = Fault("wrong_content", "GET", "/jobs/", status=404, body=body, content_type="text/plain")
        em.inject(page)
        await call()
        for _ in range(3):
            em.inject(page)
        with pytest.raises(Unavailable, match=r"status 404.*no document of Enterprise Manager"):
            await call()
        await asyncio.wait_for(gateway.until_available(), 10)


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_a_server_without_logon_is_named_with_the_setting(
    em: SimulatedEnterpriseManager, gateway: Gateway, status: int
) -> None:
    """Else whoever mistyped the URL would look for the fault everywhere else."""
    em.inject(Fault("status", "POST", status=status, message="There is no such resource."))
    await gateway.probe()
    assert re.search(r"^no logon at .*There is no such.*; check UNLINK_.*__LAB__URL$", gateway.last_problem or "")


@pytest.mark.parametrize("body", ["{}", "<Other/>", "Hello", '{"Message":"no","StatusCode":404}'])
@pytest.mark.parametrize("status", [200, 404])
async def test_a_logon_that_works_is_proof_enough(
    em: SimulatedEnterpriseManager, gateway: Gateway, body: str, status: int
) -> None:
    """Else a version of Enterprise Manager that describes itself otherwise could not be used at all."""
    em.inject(Fault("wrong_content", "GET", "/api/", status=status, body=body, content_type="text/plain"))
    await gateway.probe()
    assert gateway.up
    assert (em.count("POST", "/sessionMngr"), em.count("GET")) == (1, 0)


@pytest.mark.parametrize("status", [200, 400, 403])
async def test_a_probe_in_a_session_that_is_there_asks_once_and_needs_no_other_session(
    em: SimulatedEnterpriseManager, gateway: Gateway, status: int
) -> None:
    """Else an Enterprise Manager that is back would stay down, or each probe would cost a session."""
    await gateway.links(JOB)
    em.inject(Fault("status", "GET", "linkedBackup", status=503, times=3))
    with pytest.raises(Unavailable):
        await gateway.links(JOB)
    em.forget_requests()
    em.inject(Fault("wrong_content", "GET", "/api/", status=status, body='{"StatusCode":1}'))
    await asyncio.wait_for(gateway.until_available(), 10)
    assert gateway.up
    assert (em.count("POST", "/sessionMngr"), em.count("GET")) == (0, 1)


@pytest.mark.parametrize(
    ("status", "body"), [(200, "<html><title>Welcome</title></html>"), (302, ""), (404, "404 page not found")]
)
async def test_a_proxys_page_at_the_front_does_not_take_a_session_that_works_down(
    em: SimulatedEnterpriseManager, gateway: Gateway, status: int, body: str
) -> None:
    """Else one failed request would stop all commands until the session ends."""
    await gateway.links(JOB)
    em.inject(Fault("status", "GET", "linkedBackup", status=503, times=3))
    em.inject(Fault("wrong_content", "GET", "/api/", status=status, body=body, content_type="text/plain"))
    with pytest.raises(Unavailable):
        await gateway.links(JOB)
    await asyncio.wait_for(gateway.until_available(), 10)
    assert em.faults == []
    asked = [request.path for request in em.requests if "linkedBackup" not in request.path]
    assert [path.split("/")[2] for path in asked] == ["sessionMngr", "", "logonSessions"]


async def test_a_session_that_has_ended_is_replaced_by_the_next_probe(
    em: SimulatedEnterpriseManager, gateway: Gateway
) -> None:
    """Else an Enterprise Manager behind such a proxy would stay down after its restart."""
    await gateway.links(JOB)
    em.inject(Fault("status", "GET", "linkedBackup", status=503, times=3))
    em.inject(Fault("wrong_content", "GET", "/api/", body="<html></html>"))
    with pytest.raises(Unavailable):
        await gateway.links(JOB)
    em.expire_sessions()
    await asyncio.wait_for(gateway.until_available(), 10)
    assert em.count("POST", "/sessionMngr") == 2


async def test_unverified_tls_is_warned_of_at_every_start(
    gateway_with: Callable[..., Gateway], capsys: pytest.CaptureFixture[str]
) -> None:
    """Else nobody would remember that the password goes to whoever answers."""
    gateway = gateway_with(ca_file=None, verify_tls=False)
    assert len(await gateway.links(JOB)) == 2
    assert "enterprise_manager.tls_not_verified" in capsys.readouterr().out


async def test_an_outage_is_reported_without_what_the_answer_echoes(
    em: SimulatedEnterpriseManager, gateway: Gateway
) -> None:
    """Else a proxy's page about a bad request would bring a password into logs and probes."""
    session = await gateway._logon.session()  # noqa: SLF001 - what is echoed
    for secret in (em.password, session.token, gateway._logon._settings.basic_credentials):  # noqa: SLF001 - as above
        page = f"<html><head><title>no {secret}!</title></head></html>"
        for fault in (
            Fault("wrong_content", method="GET", status=502, body=page, times=3),
            Fault("status", method="GET", status=500, message=f"no {secret}!", times=3),
        ):
            em.inject(fault)
            with pytest.raises(Unavailable, match=r"no \[redacted\]!"):
                await gateway.links(JOB)
            await asyncio.wait_for(gateway.until_available(), 10)


async def test_nothing_that_is_logged_holds_a_secret(
    em: SimulatedEnterpriseManager, gateway: Gateway, capsys: pytest.CaptureFixture[str], finish: Any
) -> None:
    """Else tokens and passwords would lie in log stores."""
    task = await gateway.delete_link(JOB, LINK, at_any_time)
    await finish(gateway, task.ticket)
    await gateway.find_job(JobReference(name="Copy to Frankfurt"))
    em.inject(Fault("status", method="GET", status=500, times=3))
    with pytest.raises(Unavailable):
        await gateway.links(JOB)
    await gateway.close(log_off=True)
    logged = capsys.readouterr().out
    assert "enterprise_manager.request" in logged
    assert em.password not in logged
    assert "Frankfurt" not in logged
    assert all(session not in logged for session in [*em.sessions, "X-RestSvc", "Basic "])
