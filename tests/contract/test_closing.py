"""What a ticket is closed with: `close_code` for programs, `summary` for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.commands import Ticket
from contracts.events import (
    MAX_SUMMARY,
    CloseCode,
    EventData,
    Evidence,
    JobSeen,
    LinkedBackupSeen,
    Outcome,
    Reason,
    ReasonCode,
    RepositorySeen,
)
from worker.unlinks.closing import closed

NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)
LINK = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"
#: How a person reads the link of the data below.
NAMED = "the link of repository 'Scale-out 3' to job 'Copy to Frankfurt'"
WHY = Reason(code=ReasonCode.TASK_FAILED, message="The job is being edited.")


def data_of(outcome: Outcome, **facts: Any) -> EventData:
    """The data of an event about one link."""
    known: dict[str, Any] = {
        "job": JobSeen(id="1", name="Copy to Frankfurt"),
        "repository": RepositorySeen(link_id=LINK, uid="2", name="Scale-out 3"),
        **facts,
    }
    return EventData(idempotency_key="CHG1", enterprise_manager="default", outcome=outcome, received_at=NOON, **known)


ENDS = [
    (data_of(Outcome.SUBMITTED), None, f"Enterprise Manager has started to remove {NAMED}."),
    (
        data_of(Outcome.SUCCEEDED, changed=True, evidence=Evidence.TASK, verified=True),
        CloseCode.DONE,
        f"T{NAMED[1:]} was removed; the task succeeded, and the job no longer lists it.",
    ),
    (
        data_of(Outcome.SUCCEEDED, changed=True, evidence=Evidence.TASK, verified=False),
        CloseCode.DONE,
        f"T{NAMED[1:]} was removed; the task succeeded, and the job still listed it.",
    ),
    (
        data_of(
            Outcome.SUCCEEDED,
            changed=True,
            evidence=Evidence.LINKS,
            verified=True,
            linked_backups_removed=[LinkedBackupSeen(link_id="3")],
        ),
        CloseCode.DONE,
        f"T{NAMED[1:]} was removed with 1 linked backup; the job no longer lists it.",
    ),
    (
        data_of(Outcome.SUCCEEDED, changed=False, evidence=Evidence.ABSENT, verified=True),
        CloseCode.NOTHING_TO_DO,
        f"There was nothing to remove, because the job does not list {NAMED}.",
    ),
    (
        data_of(Outcome.FAILED, changed=False, reason=WHY),
        CloseCode.NOT_DONE,
        f"T{NAMED[1:]} was not removed: The job is being edited.",
    ),
    (
        data_of(Outcome.FAILED, changed=None, reason=WHY),
        CloseCode.UNKNOWN,
        f"It is not known whether {NAMED} is gone: The job is being edited.",
    ),
    (
        data_of(Outcome.TIMED_OUT, changed=None, reason=WHY),
        CloseCode.UNKNOWN,
        f"It is not known whether {NAMED} is gone: The job is being edited.",
    ),
    (
        data_of(Outcome.CANCELLED, changed=False),
        CloseCode.NOT_DONE,
        f"The unlink was cancelled, and {NAMED} was not removed.",
    ),
    (
        data_of(Outcome.CANCELLED, changed=None),
        CloseCode.UNKNOWN,
        f"The unlink was cancelled, but {NAMED} may still be removed.",
    ),
    (
        data_of(Outcome.REJECTED, changed=False, reason=WHY, job=None, repository=None),
        CloseCode.REFUSED,
        "The command was rejected: The job is being edited.",
    ),
    (
        data_of(Outcome.REJECTED, changed=False, reason=WHY),
        CloseCode.REFUSED,
        f"The command to remove {NAMED} was rejected: The job is being edited.",
    ),
    (
        data_of(Outcome.REJECTED, changed=None, reason=WHY, job=None, repository=None),
        CloseCode.UNKNOWN,
        "It is not known whether the link is gone: The job is being edited.",
    ),
    (data_of(Outcome.PLANNED, changed=False), CloseCode.NOT_DONE, f"Dry run: {NAMED} would be removed."),
    (
        data_of(Outcome.PLANNED, changed=False, evidence=Evidence.ABSENT),
        CloseCode.NOTHING_TO_DO,
        f"Dry run: there is nothing to remove, because the job does not list {NAMED}.",
    ),
    (
        data_of(Outcome.PLANNED, changed=False, reason=WHY),
        CloseCode.REFUSED,
        f"Dry run: {NAMED} would not be removed: The job is being edited.",
    ),
]


@pytest.mark.parametrize(("data", "code", "summary"), ENDS)
def test_a_ticket_is_closed_with_what_is_known(data: EventData, code: CloseCode | None, summary: str) -> None:
    """A ticketing system that closes by the code claims no more than the event does, and a person reads the same."""
    ended = closed(data)
    assert (ended.close_code, ended.summary) == (code, summary)


def test_the_tests_name_every_outcome_and_every_close_code() -> None:
    """An outcome that is added later has a close code and a sentence."""
    assert {data.outcome for data, _, _ in ENDS} == set(Outcome)
    assert {code for _, code, _ in ENDS} - {None} == set(CloseCode)


def test_the_ticket_is_named() -> None:
    """A person who reads the summary in a chat knows which ticket it is about."""
    ticket = Ticket(system="jira", id="OPS-4711", url=None)
    summary = closed(data_of(Outcome.PLANNED, changed=False, ticket=ticket)).summary
    assert summary == f"jira OPS-4711: Dry run: {NAMED} would be removed."


@pytest.mark.parametrize("named", [{"name": None}, {"name": None, "uid": None}])
def test_a_link_without_a_name_is_named_by_what_is_known(named: dict[str, None]) -> None:
    """A repository whose name was not read is recognised by its ID, or by its link's."""
    repository = RepositorySeen(link_id=LINK, uid="2", name="x").model_copy(update=named)
    summary = closed(data_of(Outcome.FAILED, changed=False, reason=WHY, repository=repository)).summary
    assert summary is not None
    assert (LINK if "uid" in named else "'2'") in summary


def test_a_summary_is_one_line_that_fits_into_a_ticket() -> None:
    """Enterprise Manager's messages may be long and of several lines; a field of a ticket is neither."""
    long = data_of(
        Outcome.FAILED,
        changed=False,
        job=JobSeen(id="1", name="j" * 255),
        repository=RepositorySeen(name="r" * 255),
        reason=Reason(code=ReasonCode.TASK_FAILED, message="first\nsecond " + "m" * 9000),
        ticket=Ticket(system="s" * 100, id="i" * 200, url=None),
    )
    summary = closed(long).summary
    assert summary is not None
    assert len(summary) == MAX_SUMMARY
    assert summary.endswith("m…")
    assert "first second" in summary
