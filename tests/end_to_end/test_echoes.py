"""Text of other systems that reaches events: none of it holds a secret, or tells of the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from tests.end_to_end.in_process import worker_for
from worker.enterprise_manager.documents.records import MAX_MESSAGE
from worker.ledger.sql_ledger import SqlLedger
from worker.redaction import REDACTED
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_LINK_ID,
    VENDOR_REPOSITORY_UID,
    Fault,
    SimulatedEnterpriseManager,
)
from worker.unlinks.rules import Pace, Rules

PASSWORD = "s3cret & <more>"
PACE = Pace(poll_interval=0.05, verify=1.0, settling=1.0)


@pytest.fixture
def em() -> Iterator[SimulatedEnterpriseManager]:
    """A simulated Enterprise Manager with the vendor's example, and a marked password."""
    with SimulatedEnterpriseManager.start(password=PASSWORD) as simulated:
        yield simulated


def _faults(echo: str) -> list[Fault]:
    return [
        Fault("task_fails", method="DELETE", message=echo),
        Fault("task_fails", method="DELETE", message="x" * (MAX_MESSAGE - 20) + echo),
        *(Fault("status", method="DELETE", status=status, message=echo) for status in (400, 403, 404, 409)),
        *(
            Fault("status", method="GET", path="linkedBackup", status=status, message=echo)
            for status in (400, 403, 404)
        ),
        *(Fault("status", method="GET", path="Entity", status=status, message=echo) for status in (400, 403, 404)),
        Fault("wrong_content", method="GET", path="linkedBackup", body=json.dumps([{"ObjectInJobId": echo}])),
    ]


@pytest.mark.parametrize("number", range(len(_faults(""))))
async def test_secrets_that_an_answer_echoes_reach_no_event_and_no_log(
    em: SimulatedEnterpriseManager, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """Else a ticket would hold the password of an account that may edit every job."""
    async with worker_for(em, pace=PACE, format="json", poll_interval_seconds=PACE.poll_interval) as worker:
        session = await worker.gateway._logon.session()  # noqa: SLF001 - what is echoed
        credentials = worker.gateway._logon._settings.basic_credentials  # noqa: SLF001 - as above
        for key, secret in (("password", PASSWORD), ("token", session.token), ("credentials", credentials)):
            fault = _faults(f"denied: {secret} and no more")[number]
            em.inject(fault)
            job = em.add_job(name=key, links=[VENDOR_REPOSITORY_UID])
            (link,) = em.links(job)
            end = await worker.unlink(job, link.object_in_job_id, idempotency_key=key)
            assert em.faults == []
            reported = json.dumps(end) + capsys.readouterr().out
            assert secret[:8] not in reported
            assert json.dumps(secret)[1:-1] not in reported
            if fault.kind == "task_fails" and len(fault.message) < MAX_MESSAGE:
                assert end["task"]["message"] == f"denied: {REDACTED} and no more"


async def test_an_unforeseen_error_puts_nothing_of_the_database_into_an_event(
    em: SimulatedEnterpriseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an event would quote a query, a host or a user to whoever reads tickets."""
    reported = 'SELECT * FROM entries -- could not connect to "db7.corp.example" as user "ledger_owner"'

    async def fail(*_: Any, **__: Any) -> None:
        raise OperationalError(
            reported, {"key": "CHG1"}, RuntimeError("password authentication failed for ledger_owner")
        )

    async with worker_for(em, pace=PACE) as worker:
        monkeypatch.setattr(SqlLedger, "record", fail)
        last = {"job": {"id": VENDOR_JOB_ID}, "repository": {"link_id": VENDOR_LINK_ID}}
        worker.send(last, attempt=Rules().max_attempts)
        event = await worker.end_of()
    assert event["reason"]["code"] == "gave_up"
    assert "an unexpected error in the worker (OperationalError), see its log" in event["reason"]["message"]
    assert "ledger_owner" not in json.dumps(event)
    assert "SELECT" not in json.dumps(event)
