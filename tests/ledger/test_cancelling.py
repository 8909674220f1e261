"""A request to cancel before, while and after an unlink is sent: on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.ledger import KeyHistory, OutOfOrderError, Step
from worker.ledger.database import open_engine, read_url
from worker.ledger.sql_ledger import SqlLedger
from worker.ledger.transaction import Transaction
from worker.unlinks.ports.enterprise_manager import TaskTicket
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    CancelRequest,
    CancelRequestedError,
    Claimed,
    Intended,
    KeyReused,
    NoSuchRun,
    SentAgain,
    Settled,
    Stage,
    Submitted,
    Withdrawn,
)

EVENT = b'{"specversion":"1.0"}'
TASK = TaskTicket("task-1", "session-a")


@pytest.fixture
def request_to_cancel() -> CancelRequest:
    """Somebody's wish."""
    return CancelRequest("CHG-1", "default", "j.doe", "wrong repository", words.noon)


async def history_of(ledger: SqlLedger, key: str = "CHG-1") -> KeyHistory:
    """What is known of a key that is known."""
    history = await ledger.history(key)
    assert history is not None
    return history


async def test_a_request_that_comes_first_cancels_the_unlink_that_comes_later(
    database: Database, request_to_cancel: CancelRequest
) -> None:
    """Somebody stops a change before its command arrives, and the link is removed all the same."""
    ledger, other = await database.ledger(), await database.ledger("worker-b")
    assert await ledger.cancel(request_to_cancel) is None
    result = await other.claim(words.claim_of())
    assert isinstance(result, Claimed)
    assert result.entry.cancelled
    with pytest.raises(CancelRequestedError, match="CHG-1"):
        await other.record(result.entry.lease, Intended(words.intent_of(), words.noon))


async def test_after_a_request_nothing_is_intended_and_nothing_written(
    database: Database, request_to_cancel: CancelRequest
) -> None:
    """A DELETE would leave after somebody was told that it is cancelled; or the job would stay closed to others."""
    ledger, other = await database.ledger(), await database.ledger("worker-b")
    lease = await words.claim(ledger)
    await other.cancel(request_to_cancel)
    for _ in range(2):
        with pytest.raises(CancelRequestedError):
            await ledger.record(lease, Intended(words.intent_of(), words.noon))
    history = await history_of(ledger)
    assert history.record is not None
    assert (history.record.entry.stage, history.record.entry.intent) == (Stage.CLAIMED, None)
    assert await other.record(await words.claim(other, "CHG-2"), Intended(words.intent_of(), words.noon))
    with pytest.raises(CancelRequestedError):  # also of a job that is busy
        await ledger.record(lease, Intended(words.intent_of(), words.noon))
    await ledger.record(lease, Settled(Outcome.CANCELLED, EVENT, words.noon))
    assert await other.cancel(request_to_cancel) == AlreadySettled(EVENT)


async def test_a_request_does_not_stop_an_intent_that_came_before_it(
    database: Database, request_to_cancel: CancelRequest
) -> None:
    """The DELETE has left: its task would not be recorded, or the job would never be free again."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    assert await ledger.record(lease, Intended(words.intent_of(), words.noon))
    await ledger.cancel(request_to_cancel)
    assert await ledger.record(lease, Intended(words.intent_of(), words.noon))  # repeated after a lost answer
    await ledger.record(lease, Submitted(TASK, words.noon))
    await ledger.record(lease, Settled(Outcome.SUCCEEDED, EVENT, words.noon))
    assert await ledger.claim(words.claim_of()) == AlreadySettled(EVENT)


async def test_after_a_request_the_delete_is_not_sent_again(
    database: Database, request_to_cancel: CancelRequest
) -> None:
    """Somebody cancels while a worker is away, and the one that takes over removes the link."""
    first, second = await database.ledger(), await database.ledger("worker-b")
    lease = await words.claim(first)
    await first.record(lease, Intended(words.intent_of(), words.noon))
    await first.record(lease, Submitted(TASK, words.noon))
    await second.cancel(request_to_cancel)
    database.let_leases_run_out()
    entry = await words.take_over(second)
    assert (entry.cancelled, entry.stage) == (True, Stage.SUBMITTED)
    with pytest.raises(CancelRequestedError):
        await second.record(entry.lease, SentAgain(2))
    history = await history_of(second)
    assert history.record is not None
    assert history.record.entry == entry


async def test_what_certainly_did_not_leave_may_be_withdrawn_after_a_request(
    database: Database, request_to_cancel: CancelRequest
) -> None:
    """The job would stay closed for an unlink that was never sent; and the next try would send it."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    await ledger.record(lease, Intended(words.intent_of(), words.noon))
    await ledger.cancel(request_to_cancel)
    await ledger.record(lease, Withdrawn(1))
    with pytest.raises(OutOfOrderError, match="send_again"):
        await ledger.record(lease, SentAgain(2))
    with pytest.raises(CancelRequestedError):
        await ledger.record(lease, Intended(words.intent_of(), words.noon))


async def test_a_request_for_what_has_ended_is_answered_with_its_end(
    database: Database, request_to_cancel: CancelRequest
) -> None:
    """Who cancels too late would wait for an answer for ever."""
    ledger = await database.ledger()
    await ledger.record(await words.claim(ledger), Settled(Outcome.SUCCEEDED, EVENT, words.noon))
    assert await ledger.cancel(request_to_cancel) == AlreadySettled(EVENT)
    assert (await history_of(ledger)).cancellations == ()


async def test_a_request_for_a_run_that_cannot_come_next_is_not_stored(
    database: Database, request_to_cancel: CancelRequest
) -> None:
    """Who mistypes the run would wait for an answer for ever; and the run would be cancelled if it ever came."""
    ledger = await database.ledger()
    second, third = (replace(request_to_cancel, run=run) for run in (2, 3))
    assert await ledger.cancel(second) == NoSuchRun()  # the key is not known
    lease = await words.claim(ledger)
    assert await ledger.cancel(third) == NoSuchRun()
    assert await ledger.cancel(second) is None  # its retry may be on the queue
    assert [each.run for each in (await history_of(ledger)).cancellations] == [2]
    await ledger.record(lease, Settled(Outcome.SUCCEEDED, EVENT, words.noon))
    assert await ledger.cancel(second) == AlreadySettled(EVENT)
    assert await ledger.cancel(third) == NoSuchRun()


async def test_a_request_that_names_another_enterprise_manager_cancels_nothing_of_this_one(
    database: Database, request_to_cancel: CancelRequest
) -> None:
    """Whoever may cancel on one Enterprise Manager could cancel on all; or keep the right request out."""
    ledger = await database.ledger()
    elsewhere = replace(request_to_cancel, enterprise_manager="berlin")
    assert await ledger.cancel(elsewhere) is None
    result = await ledger.claim(words.claim_of())
    assert isinstance(result, Claimed)
    assert not result.entry.cancelled
    assert await ledger.cancel(elsewhere) == KeyReused()
    assert await ledger.record(result.entry.lease, Intended(words.intent_of(), words.noon))
    assert await ledger.cancel(request_to_cancel) is None
    with pytest.raises(CancelRequestedError):
        await ledger.record(result.entry.lease, SentAgain(2))


async def test_the_history_says_who_cancelled_and_why_and_a_repeat_adds_nothing(
    database: Database, request_to_cancel: CancelRequest
) -> None:
    """`status KEY` could not say whom to ask about a change that was stopped, not even before it came."""
    ledger = await database.ledger()
    await ledger.cancel(request_to_cancel)
    await ledger.cancel(replace(request_to_cancel, requested_by="somebody else", reason=None))
    before = await history_of(ledger)
    assert before.record is None
    (stored,) = before.cancellations
    assert replace(stored, requested_at=words.noon) == replace(request_to_cancel, run=1)
    await words.claim(ledger)
    steps = (await history_of(ledger)).steps
    assert [(step.step, step.token, step.detail) for step in steps] == [
        (Step.CANCEL_REQUESTED, 0, "j.doe: wrong repository"),
        (Step.CLAIMED, 1, "claimed"),
    ]


async def test_a_request_made_here_is_notified_here_at_once_and_only_of_keys_that_are_here(
    database: Database, request_to_cancel: CancelRequest
) -> None:
    """A task that could still be stopped would run on for the length of a renewal."""
    ledger, other = await database.ledger(), await database.ledger("worker-b")
    received: list[str] = []
    ledger.on_cancel(received.append)
    lease = await words.claim(ledger)
    await words.claim(other, "CHG-2")
    for key in ("CHG-1", "CHG-2", "CHG-3"):
        await ledger.cancel(replace(request_to_cancel, key=key))
    assert received == ["CHG-1"]
    await ledger.release(lease)
    await ledger.cancel(request_to_cancel)
    assert received == ["CHG-1"]


async def test_a_request_made_elsewhere_is_notified_by_the_next_renewal(
    database: Database, request_to_cancel: CancelRequest
) -> None:
    """A cancel is delivered to any worker: most of the time not to the one that has the key."""
    ledger, other = await database.ledger(lease_seconds=2), await database.ledger("worker-b")
    received: list[str] = []
    ledger.on_cancel(received.append)
    await words.claim(ledger)
    await words.claim(ledger, "CHG-2")
    await other.cancel(request_to_cancel)
    await words.until(lambda: received)
    assert set(received) == {"CHG-1"}


async def test_of_a_request_and_an_intent_at_once_one_is_first(
    database: Database, request_to_cancel: CancelRequest
) -> None:
    """Between the two, a DELETE could leave that nobody stops."""
    ledger, other = await database.ledger(), await database.ledger("worker-b")
    for n in range(25):
        key = f"CHG-{n}"
        lease = await words.claim(ledger, key)
        answers = await asyncio.gather(
            ledger.record(lease, Intended(words.intent_of(job=key), words.noon)),
            other.cancel(replace(request_to_cancel, key=key)),
            return_exceptions=True,
        )
        assert answers[1] is None
        assert answers[0] is True or isinstance(answers[0], CancelRequestedError)
        with pytest.raises(CancelRequestedError if answers[0] is True else OutOfOrderError):
            await ledger.record(lease, SentAgain(2))


async def test_an_intent_that_waited_while_a_request_was_written_hears_of_it(
    postgresql_database: Database, request_to_cancel: CancelRequest
) -> None:
    """An intent that began before the request could be seen, and was held up, would go ahead after it was promised."""
    ledger = await postgresql_database.ledger()
    lease = await words.claim(ledger)
    engine = open_engine(read_url(postgresql_database.settings().url), postgresql_database.clock)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE unlinks%'"
    with engine.connect() as connection, connection.begin():
        transaction = Transaction(connection, 0.0, "worker-b", 30)
        connection.exec_driver_sql("SELECT 1 FROM unlinks FOR UPDATE")
        intending = asyncio.create_task(ledger.record(lease, Intended(words.intent_of(), words.noon)))
        await words.until(lambda: postgresql_database.execute(waiting))
        transaction.cancel(request_to_cancel)
        transaction.mark_cancelled(request_to_cancel, 1)
        transaction.finish()
    with pytest.raises(CancelRequestedError):
        await intending
