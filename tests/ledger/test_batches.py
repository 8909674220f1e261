"""Batches: who is a member, and when a batch has ended: on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from contracts.batches import BatchEnded
from contracts.events import Outcome, event_id
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.ledger.database import open_engine, read_url
from worker.ledger.sql_ledger import SqlLedger
from worker.ledger.transaction import Transaction
from worker.unlinks import batches
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    BatchKey,
    Claimed,
    EndedBatch,
    Lease,
    MemberEnd,
    NewMember,
    Retry,
    Settled,
)

BATCH = BatchKey("default", "jira", "OPS-1")
CONTENT = words.claim_of().fingerprint


def member(key: str, size: int = 2, fingerprint: str | None = CONTENT, batch: BatchKey = BATCH) -> NewMember:
    """One that a command names."""
    return NewMember(batch, size, key, fingerprint)


def rejection(key: str, number: int = 1) -> MemberEnd:
    """The end of a command that was rejected."""
    return MemberEnd(key, Outcome.REJECTED, f"rejection {number} of {key}", words.noon)


def event_of(key: str, outcome: Outcome, run: int = 1, ticket: str | None = "OPS-1") -> bytes:
    """A terminal event, as far as a batch is concerned."""
    data = {
        "changed": False,
        "ticket": None if ticket is None else {"system": "jira", "id": ticket},
        "correlation_id": key,
    }
    return json.dumps({"id": event_id(key, outcome, run), "data": data}).encode()


async def settle(ledger: SqlLedger, lease: Lease, outcome: Outcome = Outcome.SUCCEEDED, run: int = 1) -> None:
    """End a run."""
    await ledger.record(lease, Settled(outcome, event_of(lease.key, outcome, run), words.noon))


async def end(ledger: SqlLedger, key: str, outcome: Outcome = Outcome.SUCCEEDED) -> None:
    """Claim a key and end it."""
    await settle(ledger, await words.claim(ledger, key), outcome)


def compose(batch: EndedBatch) -> BatchEnded:
    """The event, which tells the end of each member, too."""
    composed = batches.compose(batch)
    ends = json.dumps([(each.key, each.outcome) for each in batch.members])
    return composed.model_copy(update={"data": composed.data.model_copy(update={"summary": ends})})


async def ended(ledger: SqlLedger, key: str) -> list[tuple[str, Outcome]]:
    """The members of the one batch of a key that has ended; empty if none has."""
    await ledger.end_members(key)
    events = await ledger.ended_batches(key, compose)
    assert len(events) <= 1
    return [(key, Outcome(outcome)) for each in events for key, outcome in json.loads(each.data.summary)]


@pytest.fixture
async def ledger(database: Database) -> SqlLedger:
    """A worker's ledger."""
    return await database.ledger()


async def test_a_batch_ends_with_its_last_member(ledger: SqlLedger) -> None:
    """A ticket would be closed while one of its links is still there."""
    for key in ("a", "b"):
        assert await ledger.join(member(key)) is None
        assert await ledger.join(member(key)) is None
    await end(ledger, "a")
    assert await ended(ledger, "a") == []
    await end(ledger, "b", Outcome.FAILED)
    await ledger.end_members("a")
    found: list[EndedBatch] = []

    def compose(batch: EndedBatch) -> BatchEnded:
        found.append(batch)
        return batches.compose(batch)

    assert await ledger.ended_batches("a", compose) == await ledger.ended_batches("b", compose)
    ticket = '{"id": "OPS-1", "system": "jira"}'
    (batch,) = found
    assert batch == EndedBatch(
        BATCH,
        2,
        (
            MemberEnd("a", Outcome.SUCCEEDED, event_id("a", Outcome.SUCCEEDED), words.noon, ticket, "a"),
            MemberEnd("b", Outcome.FAILED, event_id("b", Outcome.FAILED), words.noon, ticket, "b"),
        ),
    )


async def test_a_batch_that_was_never_sent_whole_stays_open(ledger: SqlLedger) -> None:
    """It would be reported ended with a command that is still to come."""
    await ledger.join(member("a"))
    await end(ledger, "a")
    assert await ended(ledger, "a") == []


async def test_the_first_size_holds_and_one_member_too_many_is_refused(ledger: SqlLedger) -> None:
    """A batch would end early, or with more commands than it has."""
    assert await ledger.join(member("a")) is None
    assert await ledger.join(member("b", size=3)) == 2
    assert await ledger.join(member("b")) is None
    assert await ledger.join(member("c")) == 2


async def test_a_batch_of_another_sender_or_enterprise_manager_is_another(ledger: SqlLedger) -> None:
    """A sender could end, or fill, a batch of somebody else."""
    for batch in (BATCH, replace(BATCH, user_id="snow"), replace(BATCH, user_id=None)):
        assert await ledger.join(member("a", batch=batch)) is None
    for batch in (BATCH, replace(BATCH, enterprise_manager="other")):
        assert await ledger.join(member(f"b {batch.enterprise_manager}", batch=batch)) is None
    await end(ledger, "a")
    await end(ledger, "b default")
    await ledger.end_members("a")
    (found,) = await ledger.ended_batches("a", compose)
    assert (found.data.enterprise_manager, found.data.user_id, found.subject) == ("default", "jira", "OPS-1")


async def test_what_was_settled_before_counts_with_its_end(ledger: SqlLedger) -> None:
    """A batch with a link that was unlinked last week would never end."""
    await end(ledger, "a", Outcome.FAILED)
    await ledger.join(member("a", size=1))
    assert await ledger.claim(words.claim_of("a")) == AlreadySettled(event_of("a", Outcome.FAILED), batched=True)
    assert await ended(ledger, "a") == [("a", Outcome.FAILED)]


async def test_a_retry_opens_the_batch_and_ends_it_again(ledger: SqlLedger) -> None:
    """A batch that had failed could never succeed; or it would be reported ended while a run is under way."""
    for key in ("a", "b"):
        await ledger.join(member(key))
        await end(ledger, key, Outcome.FAILED if key == "a" else Outcome.SUCCEEDED)
    assert await ended(ledger, "b") == [("a", Outcome.FAILED), ("b", Outcome.SUCCEEDED)]
    started = await ledger.retry(Retry("a", "default", run=1, permitted=CONTENT))
    assert isinstance(started, Claimed)
    assert started.entry.batched
    assert await ended(ledger, "b") == []
    assert await ended(ledger, "a") == []
    await settle(ledger, started.entry.lease, run=2)
    assert await ended(ledger, "b") == [("a", Outcome.SUCCEEDED), ("b", Outcome.SUCCEEDED)]


async def test_a_repeat_in_an_ended_batch_reads_no_other_member(database: Database, ledger: SqlLedger) -> None:
    """The members of a batch of 10,000 that are sent again would read 100,000,000 rows, or get an outdated answer."""
    for key in ("a", "b"):
        await ledger.join(member(key))
        await end(ledger, key, Outcome.FAILED if key == "a" else Outcome.SUCCEEDED)
    statements: list[str] = []
    engine = open_engine(read_url(database.settings().url), database.clock)
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))

    def repeat(key: str) -> tuple[str, int]:
        """The ID that a repeat gets, and how many statements are sent for it."""
        statements.clear()
        with engine.begin() as connection:
            (found,) = Transaction(connection, 0.0, "worker-a", 30.0).ended_batches(key, compose)
        return found.id, sum(statement.startswith("SELECT") for statement in statements)

    first, _composing = repeat("a")
    assert repeat("a") == repeat("b") == (first, 1)
    started = await ledger.retry(Retry("a", "default", run=1, permitted=CONTENT))
    assert isinstance(started, Claimed)
    await settle(ledger, started.entry.lease, run=2)
    second, composing = repeat("b")
    assert composing > 1
    assert repeat("a") == repeat("b") == (second, 1)
    assert second != first
    engine.dispose()


async def test_a_stored_event_older_than_an_end_is_composed_again(database: Database, ledger: SqlLedger) -> None:
    """After a retry by a version that does not know stored events, the batch's new end would never be published."""
    await ledger.join(member("a", size=1))
    await end(ledger, "a", Outcome.FAILED)
    assert await ended(ledger, "a") == [("a", Outcome.FAILED)]
    later = "outcome = 'succeeded', event_id = 'of run 2', ended_at = ended_at + 1"
    database.execute(f"UPDATE batch_members SET {later}")  # noqa: S608 - as that version does
    (found,) = await ledger.ended_batches("a", compose)
    assert found.data.all_succeeded


async def test_a_batch_whose_event_is_composed_is_not_reopened_meanwhile(postgresql_database: Database) -> None:
    """The event of ends that are outdated would be stored after it was deleted, and be repeated from then on."""
    ledger = await postgresql_database.ledger()
    await ledger.join(member("a", size=1))
    await end(ledger, "a", Outcome.FAILED)
    retrying: list[asyncio.Task[Any]] = []
    loop = asyncio.get_running_loop()

    def compose_slowly(batch: EndedBatch) -> BatchEnded:
        other = asyncio.run_coroutine_threadsafe(retry_elsewhere(), loop).result()
        retrying.append(other)
        return compose(batch)

    async def retry_elsewhere() -> asyncio.Task[Any]:
        other = await postgresql_database.ledger("worker-b")
        task = asyncio.create_task(other.retry(Retry("a", "default", run=1, permitted=CONTENT)))
        await words.until(lambda: task.done() or postgresql_database.execute(words.WAITING) == [(1,)])
        return task

    (composed,) = await ledger.ended_batches("a", compose_slowly)
    started = await retrying[0]
    assert isinstance(started, Claimed)
    assert postgresql_database.execute("SELECT event FROM batches") == [(None,)]
    assert composed.data.counts.failed == 1


async def test_a_rejected_command_counts_as_ended_and_gives_its_place_to_a_corrected_one(ledger: SqlLedger) -> None:
    """A ticket would wait for a command that is never run; or its correction would be one too many."""
    await ledger.join(member("a"))
    await end(ledger, "a")
    await ledger.count_rejected(member("b", fingerprint=None), rejection("b"))
    await ledger.count_rejected(member("b", fingerprint=None), rejection("b"))
    assert await ended(ledger, "b") == [("a", Outcome.SUCCEEDED), ("b", Outcome.REJECTED)]
    await ledger.count_rejected(member("c", fingerprint=None), rejection("c"))  # no place is left
    assert await ended(ledger, "a") == [("a", Outcome.SUCCEEDED), ("b", Outcome.REJECTED)]
    assert await ledger.join(member("c")) is None  # the correction, with a key of its own
    assert await ended(ledger, "a") == []
    assert await ledger.join(member("b")) == 2
    await end(ledger, "c")
    assert await ended(ledger, "a") == [("a", Outcome.SUCCEEDED), ("c", Outcome.SUCCEEDED)]


async def test_a_correction_with_the_same_key_takes_its_own_place(ledger: SqlLedger) -> None:
    """The rejection would count beside the correction, and the batch end too early."""
    await ledger.count_rejected(member("a", size=1, fingerprint=None), rejection("a"))
    assert await ledger.join(member("a", size=1)) is None
    assert await ended(ledger, "a") == []
    await end(ledger, "a")
    assert await ended(ledger, "a") == [("a", Outcome.SUCCEEDED)]


async def test_a_key_of_other_content_is_no_member(ledger: SqlLedger) -> None:
    """The end of somebody else's command would count for one that was rejected."""
    lease = await words.claim(ledger, "a")
    other = member("a", size=1, fingerprint="e" * 64)
    await ledger.join(other)
    await settle(ledger, lease)
    assert await ended(ledger, "a") == []
    await ledger.count_rejected(other, rejection("a"))
    assert await ended(ledger, "a") == [("a", Outcome.REJECTED)]


@pytest.mark.parametrize("given_up", [False, True])
async def test_the_rejection_of_a_repeat_does_not_end_what_is_under_way(ledger: SqlLedger, *, given_up: bool) -> None:
    """A batch would be reported ended while its command is run; unless nothing more is done for it."""
    await ledger.join(member("a", size=1))
    lease = await words.claim(ledger, "a")
    await ledger.count_rejected(member("a", size=1), rejection("a"), given_up=given_up)
    assert await ended(ledger, "a") == ([("a", Outcome.REJECTED)] if given_up else [])
    await settle(ledger, lease)
    await ledger.join(member("a", size=1))
    await ledger.count_rejected(member("a", size=1), rejection("a"), given_up=given_up)
    assert await ended(ledger, "a") == [("a", Outcome.SUCCEEDED)]


async def test_of_two_that_end_in_the_same_instant_on_two_workers_one_finds_the_batch_ended(database: Database) -> None:
    """Each would leave it to the other, and the batch would never be reported."""
    ledgers = [await database.ledger(f"worker-{n}") for n in range(2)]
    for round_ in range(20):
        batch = replace(BATCH, id=f"OPS-{round_}")
        keys = [f"{round_} a", f"{round_} b"]

        async def work(ledger: SqlLedger, key: str, batch: BatchKey = batch) -> list[tuple[str, Any]]:
            await ledger.join(member(key, batch=batch))
            await end(ledger, key)
            return await ended(ledger, key)

        found = await asyncio.gather(*(work(ledger, key) for ledger, key in zip(ledgers, keys, strict=True)))
        assert [(key, Outcome.SUCCEEDED) for key in keys] in found


async def test_no_more_join_at_once_than_the_batch_has(database: Database) -> None:
    """Two workers would each let the last one in."""
    ledgers = [await database.ledger(f"worker-{n}") for n in range(3)]
    for round_ in range(10):
        batch = replace(BATCH, id=f"OPS-{round_}")
        joining = (
            ledger.join(member(f"{round_} {number}", size=4, batch=batch))
            for number in range(6)
            for ledger in (ledgers[number % 3],)
        )
        refused = [size for size in await asyncio.gather(*joining) if size is not None]
        assert refused == [4, 4]


async def test_a_batch_goes_with_retention(database: Database, ledger: SqlLedger) -> None:
    """Else the ledger would grow without end, or a batch would lose members whose keys are still there."""

    async def end_now(key: str) -> None:
        event = event_of(key, Outcome.SUCCEEDED)
        lease = await words.claim(ledger, key)
        await ledger.record(lease, Settled(Outcome.SUCCEEDED, event, database.clock.now()))

    await ledger.join(member("a"))
    await end_now("a")
    database.age(2)
    await ledger.join(member("b"))
    await end_now("b")
    database.age(89)
    await end_now("new")
    assert await ledger.prune(90) == 1
    assert database.execute("SELECT count(*) FROM batch_members") == [(2,)]
    database.age(2)
    assert await ledger.prune(90) == 1
    assert database.execute("SELECT count(*) FROM batch_members") == [(0,)]
    assert database.execute("SELECT count(*) FROM batches") == [(0,)]


async def test_a_batch_that_is_joined_meanwhile_is_not_pruned(postgresql_database: Database) -> None:
    """Its first new member would be forgotten, and nobody be told when the batch has ended."""
    ledger = await postgresql_database.ledger()
    await ledger.join(member("a"))
    postgresql_database.age(91)
    with psycopg.connect(postgresql_database.url, connect_timeout=10) as joining:
        joining.execute(f"UPDATE batches SET joined_at = {2**62}")  # noqa: S608 - a number
        pruning = asyncio.create_task(ledger.prune(90))
        await words.until(lambda: pruning.done() or postgresql_database.execute(words.WAITING) == [(1,)])
    await pruning
    assert postgresql_database.execute("SELECT key FROM batch_members") == [("a",)]
