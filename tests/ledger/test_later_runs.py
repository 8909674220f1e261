"""The runs of a key after the first: on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from contracts.commands import UnlinkCommand
from contracts.events import Outcome
from contracts.reading import read_command
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.ledger import OutOfOrderError, Step
from worker.ledger.database import open_engine, read_url
from worker.ledger.migrations import migrate
from worker.ledger.sql_ledger import SqlLedger
from worker.unlinks.ports.enterprise_manager import TaskTicket
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    CancelRequest,
    CancelRequestedError,
    Claimed,
    Entry,
    HeldElsewhere,
    Intended,
    KeyReused,
    KnownRun,
    Lease,
    LeaseLostError,
    NewClaim,
    NoSuchRun,
    Retry,
    SentAgain,
    Settled,
    Stage,
    Submitted,
)

COMMAND = UnlinkCommand.model_validate_json(
    b'{"command": "unlink.v1", "idempotency_key": "CHG-1", "job": {"name": "a"}, "repository": {"name": "b"},'
    b' "not_after": "2026-03-01T13:00:00Z", "correlation_id": "first"}'
)
PERMITTED = COMMAND.fingerprint
RETRY = Retry("CHG-1", "default", run=1, permitted=PERMITTED)


def event_of(run: int, *, changed: bool | None = False) -> bytes:
    """The event with which a run ends."""
    return json.dumps({"data": {"run": run, "changed": changed}}).encode()


@pytest.fixture
def claim() -> NewClaim:
    """The claim of the key's command."""
    return NewClaim("CHG-1", PERMITTED, "default", COMMAND.model_dump_json().encode(), words.noon, user_id="snow")


async def started(ledger: SqlLedger, **changes: Any) -> Entry:
    """Start the run that follows run 1, or the one that is asked for."""
    result = await ledger.retry(replace(RETRY, **changes))
    assert isinstance(result, Claimed)
    return result.entry


async def ended(
    ledger: SqlLedger, claim: NewClaim, outcome: Outcome = Outcome.FAILED, *, changed: bool | None = False
) -> Lease:
    """Claim the key, send its DELETE, and end run 1; the lease that it had."""
    result = await ledger.claim(claim)
    assert isinstance(result, Claimed)
    lease = result.entry.lease
    await ledger.record(lease, Intended(words.intent_of(), words.noon))
    await ledger.record(lease, SentAgain(2))
    await ledger.record(lease, Submitted(TaskTicket("task-1", "session-a"), words.noon))
    await settle(ledger, lease, outcome, changed=changed)
    return lease


async def settle(
    ledger: SqlLedger, lease: Lease, outcome: Outcome = Outcome.FAILED, run: int = 1, *, changed: bool | None = False
) -> None:
    """End a run."""
    await ledger.record(lease, Settled(outcome, event_of(run, changed=changed), words.noon))


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED])
async def test_a_run_that_did_not_succeed_is_followed_by_one_that_keeps_the_link(
    database: Database, claim: NewClaim, outcome: Outcome
) -> None:
    """A link that was put back under a new ID would be removed by a retry; or a run would begin with used-up sends."""
    ledger, other = await database.ledger(), await database.ledger("worker-b")
    lease = await ended(ledger, claim, outcome)
    entry = await started(other, requested_by="j.doe", reason="again", user_id="jira")
    assert (entry.run, entry.stage, entry.lease.token, entry.retried_by) == (2, Stage.CLAIMED, 2, "j.doe")
    assert (entry.attempts, entry.sends, entry.sent_at, entry.task, entry.submitted_at) == (1, 0, None, None, None)
    assert entry.intent == words.intent_of()
    assert read_command(entry.command) == COMMAND
    with pytest.raises(OutOfOrderError, match="another link"):
        await other.record(entry.lease, Intended(words.intent_of(link="another"), words.noon))
    with pytest.raises(LeaseLostError):
        await ledger.record(lease, Submitted(TaskTicket("late", "session-a"), words.noon))
    history = await other.history("CHG-1")
    assert history is not None
    assert history.record is not None
    assert (history.record.outcome, history.record.event, history.record.finished_at) == (None, None, None)
    assert (history.steps[-1].step, history.steps[-1].detail) == (
        Step.RUN_STARTED,
        "2, asked for by j.doe (sent by jira): again",
    )
    await settle(other, entry.lease, Outcome.SUCCEEDED, 2)
    assert await ledger.claim(claim) == AlreadySettled(event_of(2))


async def test_a_repeated_request_starts_nothing_twice(database: Database, claim: NewClaim) -> None:
    """A retry that is delivered again would remove, or try to remove, once for each delivery."""
    ledgers = [await database.ledger(f"worker-{n}") for n in range(4)]
    await ended(ledgers[0], claim)
    results = await asyncio.gather(*(ledger.retry(RETRY) for ledger in ledgers))
    (entry,) = [result.entry for result in results if isinstance(result, Claimed)]
    assert [type(result) for result in results].count(HeldElsewhere) == 3
    assert entry.run == 2
    winner = next(ledger for ledger, result in zip(ledgers, results, strict=True) if isinstance(result, Claimed))
    await settle(winner, entry.lease, run=2)
    assert await winner.retry(RETRY) == AlreadySettled(event_of(2))
    assert (await started(winner, run=2)).run == 3


async def test_a_run_that_is_under_way_is_taken_over_once_its_lease_is_over(
    database: Database, claim: NewClaim
) -> None:
    """The worker dies that had started the run; the redelivered retry would start another, or none would go on."""
    first, second = await database.ledger(), await database.ledger("worker-b")
    await ended(first, claim)
    entry = await started(first)
    await first.record(entry.lease, Intended(words.intent_of(), words.noon))
    assert isinstance(await second.retry(RETRY), HeldElsewhere)
    await first.close()
    database.let_leases_run_out()
    taken = await started(second)
    assert (taken.run, taken.stage, taken.attempts, taken.sends) == (2, Stage.INTENDED, 2, 1)
    assert taken.lease.token == entry.lease.token + 1


async def test_a_run_of_the_same_worker_is_taken_over_at_once(database: Database, claim: NewClaim) -> None:
    """A retry whose commit was answered too late would wait for its own lease to run out."""
    ledger = await database.ledger()
    await ended(ledger, claim)
    first = await started(ledger)
    assert (await started(ledger)).lease.token == first.lease.token + 1


async def test_what_succeeded_is_answered_with_its_event(database: Database, claim: NewClaim) -> None:
    """A link that was put back would be removed by an old command."""
    ledger = await database.ledger()
    await ended(ledger, claim, Outcome.SUCCEEDED, changed=True)
    assert await ledger.retry(RETRY) == AlreadySettled(event_of(1, changed=True))


async def test_what_is_not_known_here_is_no_run(database: Database, claim: NewClaim) -> None:
    """A mistyped key would be claimed without a command; a run that never was would skip one."""
    ledger = await database.ledger()
    assert await ledger.retry(RETRY) == NoSuchRun()
    assert await ledger.last_run("CHG-1") is None
    await ended(ledger, claim)
    assert await ledger.retry(replace(RETRY, run=2)) == NoSuchRun()
    assert await ledger.retry(replace(RETRY, enterprise_manager="berlin")) == KeyReused()
    assert (await started(ledger)).run == 2


async def test_no_run_is_started_that_was_not_judged(database: Database, claim: NewClaim) -> None:
    """The policy is asked before the claim: a run that ends in between would be started by whoever may not."""
    ledger = await database.ledger()
    await ended(ledger, claim)
    for permitted in (None, "of another command"):
        assert await ledger.retry(replace(RETRY, permitted=permitted)) == HeldElsewhere()
    assert (await started(ledger)).run == 2


async def test_the_last_run_decides_whether_the_policy_is_applied(database: Database, claim: NewClaim) -> None:
    """A request that can start nothing is answered; to one that can, the policy is applied by the stored command."""
    ledger = await database.ledger()
    await ended(ledger, claim)
    known = await ledger.last_run("CHG-1")
    job = words.intent_of().job_id
    expected = KnownRun("default", 1, claim.command, PERMITTED, failure=event_of(1), job_id=job, user_id=claim.user_id)
    assert known == expected
    entry = await started(ledger)
    known = await ledger.last_run("CHG-1")
    assert known is not None
    assert (known.run, known.failure) == (2, None)
    await settle(ledger, entry.lease, Outcome.SUCCEEDED, 2)
    known = await ledger.last_run("CHG-1")
    assert known is not None
    assert known.failure is None


@pytest.mark.parametrize("changed", [False, None])
async def test_a_delete_of_an_earlier_run_may_act_while_its_end_is_not_known(
    database: Database, claim: NewClaim, *, changed: bool | None
) -> None:
    """The new run would send its DELETE beside an old one that is still being carried out."""
    ledger = await database.ledger()
    await ended(ledger, claim, changed=changed)
    entry = await started(ledger)
    assert entry.may_act == (changed is None)
    assert entry.age == pytest.approx(0, abs=30)
    database.clock.advance(100)
    if database.kind == "postgresql":
        database.execute("UPDATE unlinks SET run_began_at = run_began_at - 100000000")
    again = await started(ledger)
    assert again.may_act == entry.may_act
    assert again.age >= 100


async def test_new_times_and_a_new_correlation_are_stored_with_the_command(database: Database, claim: NewClaim) -> None:
    """A command whose deadline is past could never be run again; the answer would carry an old correlation."""
    ledger = await database.ledger()
    await ended(ledger, claim)
    later = words.noon + timedelta(days=1)
    entry = await started(ledger, not_after=later, correlation_id="second")
    assert read_command(entry.command) == COMMAND.model_copy(update={"not_after": later, "correlation_id": "second"})
    assert await ledger.claim(claim) != KeyReused()


async def test_the_sender_is_kept(database: Database, claim: NewClaim) -> None:
    """The event could not say who had asked, as the broker verified it, once another worker takes over."""
    ledger, other = await database.ledger(), await database.ledger("worker-b")
    result = await ledger.claim(claim)
    assert isinstance(result, Claimed)
    assert result.entry.user_id == "snow"
    await ledger.release(result.entry.lease)
    taken = await other.claim(replace(claim, user_id="somebody else"))
    assert isinstance(taken, Claimed)
    assert taken.entry.user_id == "snow"
    await settle(other, taken.entry.lease)
    entry = await started(other, user_id="jira")
    assert (entry.user_id, entry.retried_by) == ("snow", "jira")


# --- cancels --------------------------------------------------------------------------------------------------------


def cancel_of(run: int | None = None, requested_by: str | None = "j.doe") -> CancelRequest:
    """A request to cancel."""
    return CancelRequest("CHG-1", "default", requested_by, None, words.noon, run=run, user_id="ops")


async def test_a_new_run_is_not_cancelled_by_what_was_asked_of_an_earlier_one(
    database: Database, claim: NewClaim
) -> None:
    """Whoever retries what was cancelled would get the same end again, for ever."""
    ledger = await database.ledger()
    await ledger.cancel(cancel_of())
    first = await ledger.claim(claim)
    assert isinstance(first, Claimed)
    assert first.entry.cancelled
    assert await ledger.cancelled_by(first.entry.lease) == "j.doe"
    await settle(ledger, first.entry.lease, Outcome.CANCELLED)
    entry = await started(ledger)
    assert not entry.cancelled
    assert await ledger.cancelled_by(entry.lease) is None
    assert await ledger.record(entry.lease, Intended(words.intent_of(), words.noon))
    assert database.execute("SELECT * FROM cancellations") == []


async def test_a_request_for_an_earlier_run_changes_nothing_of_a_later_one(database: Database, claim: NewClaim) -> None:
    """A cancel that was delayed in the broker would stop the retry that somebody asked for since."""
    ledger = await database.ledger()
    received: list[str] = []
    ledger.on_cancel(received.append)
    await ended(ledger, claim)
    entry = await started(ledger)
    assert await ledger.cancel(cancel_of(run=1)) == AlreadySettled(event_of(1))
    assert await ledger.record(entry.lease, Intended(words.intent_of(), words.noon))
    assert received == []
    await settle(ledger, entry.lease, Outcome.SUCCEEDED, 2)
    assert await ledger.cancel(cancel_of(run=1)) == AlreadySettled(event_of(2))


@pytest.mark.parametrize("run", [None, 2])
async def test_a_request_stops_the_run_that_is_under_way(database: Database, claim: NewClaim, run: int | None) -> None:
    """A retry could not be cancelled."""
    ledger = await database.ledger()
    received: list[str] = []
    ledger.on_cancel(received.append)
    await ended(ledger, claim)
    entry = await started(ledger)
    assert await ledger.cancel(cancel_of(run, requested_by=None)) is None
    assert received == ["CHG-1"]
    with pytest.raises(CancelRequestedError):
        await ledger.record(entry.lease, Intended(words.intent_of(), words.noon))
    assert await ledger.cancelled_by(entry.lease) == "ops"


async def test_a_request_for_a_run_that_is_yet_to_come_waits_for_it(database: Database, claim: NewClaim) -> None:
    """A cancel that overtakes its retry would stop the wrong run, or none."""
    ledger = await database.ledger()
    received: list[str] = []
    ledger.on_cancel(received.append)
    first = await ledger.claim(claim)
    assert isinstance(first, Claimed)
    assert await ledger.cancel(cancel_of(run=2)) is None
    assert received == []
    assert await ledger.record(first.entry.lease, Intended(words.intent_of(), words.noon))
    await settle(ledger, first.entry.lease)
    assert (await started(ledger)).cancelled


async def test_requests_from_before_there_were_runs_are_of_the_first(empty_database: Database, claim: NewClaim) -> None:
    """An unlink that was cancelled before an upgrade would be sent after it."""
    insert = (
        "INSERT INTO cancellations (key, enterprise_manager, requested_by, requested_at)"
        " VALUES ('CHG-1', 'default', 'j.doe', 1772366400123456)"
    )
    with open_engine(read_url(empty_database.settings().url), empty_database.clock).begin() as connection:
        migrate(connection, "0006")
        connection.execute(text(insert))
    ledger = await empty_database.ledger()
    result = await ledger.claim(claim)
    assert isinstance(result, Claimed)
    assert result.entry.cancelled
    history = await ledger.history("CHG-1")
    assert history is not None
    assert (history.cancellations[0].run, history.cancellations[0].requested_at) == (1, words.noon)
