"""What the ledger promises, asked of SQLite and of PostgreSQL.

More than 400 lines: the whole contract of the port.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import LEASE_SECONDS, Database
from worker.ledger import OutOfOrderError, Step
from worker.ledger.sql_ledger import SqlLedger
from worker.unlinks.ports.enterprise_manager import TaskTicket
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    Claimed,
    Entry,
    HeldElsewhere,
    Intended,
    KeyReused,
    Lease,
    LeaseLostError,
    SentAgain,
    Settled,
    Stage,
    Submitted,
    Withdrawn,
)

EVENT = b'{"specversion":"1.0","n":"\xc3\xa9"}'
TASK = TaskTicket("task-1", "session-a")


def entry_of(result: object) -> Entry:
    """What was claimed."""
    assert isinstance(result, Claimed), result
    return result.entry


# --- claiming -------------------------------------------------------------------------------------------------------


async def test_a_new_key_is_claimed_with_the_first_token(database: Database) -> None:
    """Without it no command is ever started."""
    ledger = await database.ledger()
    entry = entry_of(await ledger.claim(words.claim_of()))
    assert entry == Entry(
        Lease("CHG-1", 1), Stage.CLAIMED, attempts=1, received_at=words.noon, command=words.claim_of().command
    )
    assert ledger.alive(entry.lease)


async def test_a_settled_key_answers_with_its_event_byte_for_byte(database: Database) -> None:
    """A publisher that repeats its command would get another answer, or a second unlink."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    await ledger.record(lease, Settled(Outcome.SUCCEEDED, EVENT, words.noon))
    assert await ledger.claim(words.claim_of()) == AlreadySettled(EVENT)
    other = await database.ledger("worker-b")
    assert await other.claim(words.claim_of()) == AlreadySettled(EVENT)


async def test_a_key_with_other_content_is_refused_at_every_stage(database: Database) -> None:
    """Two changes with one number: the second would silently be taken for a repeat of the first."""
    ledger = await database.ledger()
    changed = words.claim_of(fingerprint="0" * 64)
    lease = await words.claim(ledger)
    assert await ledger.claim(changed) == KeyReused()
    database.let_leases_run_out()
    assert await ledger.claim(changed) == KeyReused()
    await ledger.record(lease, Settled(Outcome.FAILED, EVENT, words.noon))
    assert await ledger.claim(changed) == KeyReused()


async def test_a_key_that_another_worker_holds_is_not_taken(database: Database) -> None:
    """Two workers would edit one job at the same time."""
    await words.claim(await database.ledger())
    assert isinstance(await (await database.ledger("worker-b")).claim(words.claim_of()), HeldElsewhere)


async def test_a_worker_takes_its_own_earlier_row_over_at_once(database: Database) -> None:
    """After a lost answer, or a restart under the same name, a command would wait for its own lease."""
    ledger = await database.ledger()
    await words.claim(ledger)
    entry = entry_of(await ledger.claim(words.claim_of()))
    assert (entry.lease.token, entry.attempts) == (2, 2)


async def test_a_lease_that_is_over_is_taken_over_with_all_that_is_known(database: Database) -> None:
    """A command of a crashed worker would stay half done, or be started afresh with another link."""
    first = await database.ledger()
    lease = await words.claim(first)
    sent_at = words.noon + timedelta(seconds=1)
    assert await first.record(lease, Intended(words.intent_of(), sent_at))
    submitted_at = words.noon + timedelta(seconds=2)
    await first.record(lease, Submitted(TASK, submitted_at))
    database.let_leases_run_out()
    entry = entry_of(await (await database.ledger("worker-b")).claim(words.claim_of()))
    assert entry == Entry(
        lease=Lease("CHG-1", 2),
        stage=Stage.SUBMITTED,
        attempts=2,
        received_at=words.noon,
        intent=words.intent_of(),
        sent_at=sent_at,
        sends=1,
        task=TASK,
        submitted_at=submitted_at,
        command=words.claim_of().command,
    )


async def test_a_released_key_is_free_at_once(database: Database) -> None:
    """Every command of a worker that stops in good order would wait for its lease to run out."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    await ledger.release(lease)
    assert not ledger.alive(lease)
    assert entry_of(await (await database.ledger("worker-b")).claim(words.claim_of())).lease.token == 2


async def test_releasing_a_lost_lease_does_nothing(database: Database) -> None:
    """A worker that comes back late would take the key away from the one that goes on with it."""
    first, second = await database.ledger(), await database.ledger("worker-b")
    lease = await words.claim(first)
    database.let_leases_run_out()
    newer = await words.claim(second)
    await first.release(lease)
    assert isinstance(await first.claim(words.claim_of()), HeldElsewhere)
    assert second.alive(newer)


async def test_at_drain_every_unsettled_key_of_this_worker_is_free(database: Database) -> None:
    """A roll-out of a new version would stop all commands for the length of a lease."""
    first, second = await database.ledger(), await database.ledger("worker-b")
    leases = [await words.claim(first, f"CHG-{n}") for n in range(3)]
    others = await words.claim(second, "CHG-9")
    await first.release_all()
    assert not any(first.alive(lease) for lease in leases)
    for n in range(3):
        assert entry_of(await second.claim(words.claim_of(f"CHG-{n}"))).lease.token == 2
    assert isinstance(await first.claim(words.claim_of(others.key)), HeldElsewhere)


async def test_a_worker_that_starts_ends_what_its_name_held(database: Database) -> None:
    """After a restart under the same name it would renew leases that nobody works on, and lock all others out."""
    await words.claim(await database.ledger())
    again = await database.ledger()
    await words.claim(again, "CHG-2")
    await again.renew()
    assert entry_of(await (await database.ledger("worker-b")).claim(words.claim_of())).lease.token == 2


async def test_of_many_that_claim_one_key_at_once_one_gets_it(database: Database) -> None:
    """Two deliveries of one command on two workers would both be carried out."""
    ledgers = [await database.ledger(f"worker-{n}") for n in range(4)]
    for n in range(25):
        results = await asyncio.gather(*(ledger.claim(words.claim_of(f"CHG-{n}")) for ledger in ledgers))
        assert sorted(type(result).__name__ for result in results) == ["Claimed"] + ["HeldElsewhere"] * 3


async def test_of_many_that_take_one_key_over_at_once_one_gets_it(database: Database) -> None:
    """After a crash two workers would go on with one command."""
    dead = await database.ledger("dead")
    ledgers = [await database.ledger(f"worker-{n}") for n in range(4)]
    keys = [f"CHG-{n}" for n in range(25)]
    for key in keys:
        await words.claim(dead, key)
    database.let_leases_run_out()
    for key in keys:
        results = await asyncio.gather(*(ledger.claim(words.claim_of(key)) for ledger in ledgers))
        assert sorted(type(result).__name__ for result in results) == ["Claimed"] + ["HeldElsewhere"] * 3
        assert max(entry_of(r).lease.token for r in results if isinstance(r, Claimed)) == 2


# --- leases ---------------------------------------------------------------------------------------------------------


async def test_a_lease_is_not_certain_any_more_before_it_is_over(database: Database) -> None:
    """A paused worker would send a DELETE while another one has the key."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    database.clock.advance(0.87 * LEASE_SECONDS)
    assert ledger.alive(lease)
    database.clock.advance(0.06 * LEASE_SECONDS)
    assert not ledger.alive(lease)


async def test_an_older_token_is_not_alive(database: Database) -> None:
    """An unlink that was given up here, and taken up again, would run twice in one process."""
    ledger = await database.ledger()
    older = await words.claim(ledger)
    newer = await words.claim(ledger)
    assert (ledger.alive(older), ledger.alive(newer)) == (False, True)


async def test_leases_are_renewed_for_as_long_as_the_worker_runs(database: Database) -> None:
    """Every unlink that takes longer than a lease would be taken over by another worker."""
    seconds = 1.5
    ledger, other = await database.ledger(lease_seconds=seconds), await database.ledger("worker-b")
    lease = await words.claim(ledger)
    until = database.clock.monotonic() + 1.2 * seconds
    while database.clock.monotonic() < until:
        assert isinstance(await other.claim(words.claim_of()), HeldElsewhere)
        await asyncio.sleep(0.01)
    assert ledger.alive(lease)


async def test_a_renewal_finds_out_that_a_lease_was_lost(database: Database) -> None:
    """A worker that was paused would believe that it still has the key, because it renews others."""
    first, second = await database.ledger(lease_seconds=2), await database.ledger("worker-b")
    lost = await words.claim(first, "CHG-lost")
    kept = await words.claim(first, "CHG-kept")
    await release_behind_the_back_of(database, lost)
    await words.claim(second, "CHG-lost")
    await words.until(lambda: not first.alive(lost))
    assert first.alive(kept)


async def release_behind_the_back_of(database: Database, lease: Lease) -> None:
    """What a pause of the worker amounts to: the database's lease is over, and the worker does not know."""
    if database.kind == "postgresql":
        database.execute(f"UPDATE unlinks SET worker = NULL WHERE key = '{lease.key}'")  # noqa: S608 - our own key
    else:
        await (await database.ledger("worker-c")).release(lease)


# --- writing --------------------------------------------------------------------------------------------------------


async def every_write(ledger: SqlLedger, lease: Lease) -> None:
    """Each of them finds the lease lost."""
    for write in (
        ledger.record(lease, Intended(words.intent_of(), words.noon)),
        ledger.record(lease, Withdrawn(1)),
        ledger.record(lease, SentAgain(2)),
        ledger.record(lease, Submitted(TASK, words.noon)),
        ledger.record(lease, Settled(Outcome.FAILED, b"other", words.noon)),
    ):
        with pytest.raises(LeaseLostError, match=r"CHG-1 .* token 1 "):
            await write
    assert not ledger.alive(lease)


async def test_after_a_take_over_the_older_token_writes_nothing(database: Database) -> None:
    """A paused worker that comes back would overwrite what the one after it has recorded."""
    first, second = await database.ledger(), await database.ledger("worker-b")
    lease = await words.claim(first)
    await first.record(lease, Intended(words.intent_of(), words.noon))
    database.let_leases_run_out()
    await words.claim(second)
    before = await second.history("CHG-1")
    await every_write(first, lease)
    assert await second.history("CHG-1") == before


async def test_after_its_end_a_key_is_not_written_to(database: Database) -> None:
    """A terminal event that consumers have seen would be replaced by another one."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    await ledger.record(lease, Settled(Outcome.SUCCEEDED, EVENT, words.noon))
    assert not ledger.alive(lease)
    await every_write(ledger, lease)
    assert await ledger.claim(words.claim_of()) == AlreadySettled(EVENT)


async def test_an_unknown_key_is_a_lost_lease(database: Database) -> None:
    """A row that an operator deleted would come back half filled."""
    await every_write(await database.ledger(), Lease("CHG-1", 1))


async def test_a_lease_that_ran_out_unnoticed_still_writes(database: Database) -> None:
    """After an hour without the database every unlink in flight would be thrown away."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    database.let_leases_run_out()
    assert await ledger.record(lease, Intended(words.intent_of(), words.noon))


async def test_withdrawing_leaves_what_was_seen(database: Database) -> None:
    """The next try would pick a link that was put there after the command."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    await ledger.record(lease, Intended(words.intent_of(), words.noon))
    await ledger.record(lease, Withdrawn(1))
    await ledger.record(lease, Withdrawn(1))
    entry = entry_of(await ledger.claim(words.claim_of()))
    assert (entry.stage, entry.intent, entry.sends, entry.sent_at) == (Stage.CLAIMED, words.intent_of(), 0, None)


async def test_no_other_link_is_ever_recorded_for_a_key(database: Database) -> None:
    """A link that somebody put back would be removed by an old command."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    await ledger.record(lease, Intended(words.intent_of(), words.noon))
    await ledger.record(lease, Withdrawn(1))
    with pytest.raises(OutOfOrderError, match="CHG-1 is claimed: intend of another link"):
        await ledger.record(lease, Intended(words.intent_of(link="put-back"), words.noon))
    assert await ledger.record(lease, Intended(words.intent_of(), words.noon))


async def test_sending_again_counts_and_keeps_the_first_instant(database: Database) -> None:
    """The time-out would start afresh with each DELETE; and an old task would be taken for the new DELETE's."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    await ledger.record(lease, Intended(words.intent_of(), words.noon))
    await ledger.record(lease, Submitted(TASK, words.noon))
    await ledger.record(lease, SentAgain(2))
    entry = entry_of(await ledger.claim(words.claim_of()))
    assert (entry.stage, entry.sends, entry.sent_at, entry.task) == (Stage.INTENDED, 2, words.noon, None)


async def test_a_repeated_send_that_did_not_leave_does_not_count(database: Database) -> None:
    """An unlink would be given up as sent three times, of which two never left; or its job would be free too early."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    await ledger.record(lease, Intended(words.intent_of(), words.noon))
    for _ in range(2):  # the second time as after a lost answer
        await ledger.record(lease, SentAgain(2))
    entry = entry_of(await ledger.claim(words.claim_of()))
    assert (entry.stage, entry.sends) == (Stage.INTENDED, 2)
    for _ in range(2):
        await ledger.record(entry.lease, Withdrawn(2))
    entry = entry_of(await ledger.claim(words.claim_of()))
    assert (entry.stage, entry.sends, entry.sent_at) == (Stage.INTENDED, 1, words.noon)


async def test_a_key_without_an_intent_has_nothing_to_send_again_and_no_task(database: Database) -> None:
    """A DELETE could be under way without its job being closed to others."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    with pytest.raises(OutOfOrderError, match="send_again"):
        await ledger.record(lease, SentAgain(2))
    with pytest.raises(OutOfOrderError, match="submitted"):
        await ledger.record(lease, Submitted(TASK, words.noon))


async def test_a_write_repeated_after_a_lost_answer_is_a_success(database: Database) -> None:
    """A connection that broke during a commit would make a worker give up an unlink that is its own."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    for _ in range(2):
        assert await ledger.record(lease, Intended(words.intent_of(), words.noon))
    for _ in range(2):
        await ledger.record(lease, Submitted(TASK, words.noon))
    history = await ledger.history("CHG-1")
    assert history is not None
    assert history.record is not None
    assert history.record.entry.sends == 1
    for _ in range(2):
        await ledger.record(lease, Settled(Outcome.SUCCEEDED, EVENT, words.noon))


async def test_a_second_intent_after_the_first_is_refused(database: Database) -> None:
    """A DELETE would be sent that is not counted."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    await ledger.record(lease, Intended(words.intent_of(), words.noon))
    with pytest.raises(OutOfOrderError, match="CHG-1 is intended: intend"):
        await ledger.record(lease, Intended(words.intent_of(), words.noon + timedelta(seconds=1)))


# --- one unlink per job ---------------------------------------------------------------------------------------------


async def test_a_busy_job_is_refused_and_what_was_seen_recorded(database: Database) -> None:
    """Two edits of one job at once: one of them would be lost."""
    first, second = await database.ledger(), await database.ledger("worker-b")
    holder, waiting = await words.claim(first, "CHG-1"), await words.claim(second, "CHG-2")
    assert await first.record(holder, Intended(words.intent_of(), words.noon))
    assert not await second.record(waiting, Intended(words.intent_of(link="second"), words.noon))
    await first.record(holder, Submitted(TASK, words.noon))
    assert not await second.record(waiting, Intended(words.intent_of(link="second"), words.noon))
    entry = entry_of(await second.claim(words.claim_of("CHG-2")))
    assert (entry.stage, entry.intent, entry.sends) == (Stage.CLAIMED, words.intent_of(link="second"), 0)


@pytest.mark.parametrize("end", ["settle", "withdraw"])
async def test_a_job_is_free_again_after_the_end(database: Database, end: str) -> None:
    """After one unlink no other of its job would ever run."""
    ledger = await database.ledger()
    holder, waiting = await words.claim(ledger, "CHG-1"), await words.claim(ledger, "CHG-2")
    await ledger.record(holder, Intended(words.intent_of(), words.noon))
    assert not await ledger.record(waiting, Intended(words.intent_of(), words.noon))
    await (
        ledger.record(holder, Withdrawn(1))
        if end == "withdraw"
        else ledger.record(holder, Settled(Outcome.SUCCEEDED, EVENT, words.noon))
    )
    assert await ledger.record(waiting, Intended(words.intent_of(), words.noon))


async def test_a_job_stays_closed_while_nobody_holds_its_unlink(database: Database) -> None:
    """The DELETE of a crashed worker may still be at work when another edit of the job begins."""
    ledger = await database.ledger()
    holder, waiting = await words.claim(ledger, "CHG-1"), await words.claim(ledger, "CHG-2")
    await ledger.record(holder, Intended(words.intent_of(), words.noon))
    await ledger.release(holder)
    assert not await ledger.record(waiting, Intended(words.intent_of(), words.noon))


async def test_other_jobs_and_other_enterprise_managers_are_not_busy(database: Database) -> None:
    """One unlink would hold up those that have nothing to do with it."""
    ledger = await database.ledger()
    await ledger.record(await words.claim(ledger, "CHG-1"), Intended(words.intent_of(), words.noon))
    assert await ledger.record(await words.claim(ledger, "CHG-2"), Intended(words.intent_of(job="other"), words.noon))
    elsewhere = entry_of(await ledger.claim(words.claim_of("CHG-3", enterprise_manager="berlin")))
    assert await ledger.record(elsewhere.lease, Intended(words.intent_of(), words.noon))


async def test_of_many_that_intend_one_job_at_once_one_may(database: Database) -> None:
    """Two workers that look at the same instant would both find the job free."""
    ledgers = [await database.ledger(f"worker-{n}") for n in range(4)]
    for turn in range(25):
        leases = [await words.claim(ledger, f"CHG-{turn}-{n}") for n, ledger in enumerate(ledgers)]
        intent = words.intent_of(job=f"job-{turn}")
        allowed = await asyncio.gather(
            *(ledger.record(lease, Intended(intent, words.noon)) for ledger, lease in zip(ledgers, leases, strict=True))
        )
        assert sorted(allowed) == [False, False, False, True]


# --- for people -----------------------------------------------------------------------------------------------------


async def test_the_history_of_a_key_says_what_was_done_and_by_whom(database: Database) -> None:
    """`status KEY` would leave an operator in the dark about a command that somebody asks for."""
    first, second = await database.ledger(), await database.ledger("worker-b")
    lease = await words.claim(first)
    await first.record(lease, Intended(words.intent_of(), words.noon))
    await first.release(lease)
    taken = await words.claim(second)
    await second.record(taken, SentAgain(2))
    await second.record(taken, Submitted(TASK, words.noon))
    await second.record(taken, Settled(Outcome.SUCCEEDED, EVENT, words.noon))
    history = await first.history("CHG-1")
    assert history is not None
    assert [(step.step, step.worker, step.token) for step in history.steps] == [
        (Step.CLAIMED, "worker-a", 1),
        (Step.INTENDED, "worker-a", 1),
        (Step.RELEASED, "worker-a", 1),
        (Step.TAKEN_OVER, "worker-b", 2),
        (Step.SENT_AGAIN, "worker-b", 2),
        (Step.SUBMITTED, "worker-b", 2),
        (Step.SETTLED, "worker-b", 2),
    ]
    record = history.record
    assert record is not None
    assert (record.outcome, record.event, record.finished_at) == (Outcome.SUCCEEDED, EVENT, words.noon)
    assert (record.worker, record.enterprise_manager) == (None, "default")
    assert record.command == words.claim_of().command
    assert record.updated_at.utcoffset() == timedelta(0)


async def test_an_unknown_key_has_no_history(database: Database) -> None:
    """`status KEY` would invent a command that never came."""
    assert await (await database.ledger()).history("CHG-0") is None
