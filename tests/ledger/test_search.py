"""Keys are found by what people know of them: the ticket, the requester, the job, the repository, the outcome."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.ledger import Criteria, Inspection
from worker.ledger.sql_ledger import SqlLedger
from worker.unlinks.ports.enterprise_manager import Link
from worker.unlinks.ports.ledger import BatchKey, Claimed, Intended, Intent, Lease, NewClaim, NewMember, Settled

JOB_ID = "d1b85018-2769-45be-89bc-03f66b60e6cb"


async def claim(ledger: SqlLedger, number: int, **fields: Any) -> Lease:
    """Claim a key for a command with these fields, received a second later than the one before."""
    user_id = fields.pop("user_id", None)
    received = words.noon + timedelta(seconds=fields.pop("at", number))
    body = json.dumps({"command": "unlink.v1", **fields}).encode()
    result = await ledger.claim(NewClaim(f"CHG-{number}", "f" * 64, "default", body, received, user_id))
    assert isinstance(result, Claimed)
    return result.entry.lease


def event_of(**data: Any) -> bytes:
    """A terminal event with this data."""
    return json.dumps({"specversion": "1.0", "data": data}).encode()


def inspection_of(database: Database) -> Inspection:
    """The reading side."""
    return Inspection(database.settings(), database.clock)


def found(database: Database, **criteria: Any) -> list[str]:
    """The keys that are found."""
    return [record.entry.lease.key for record in inspection_of(database).find(Criteria(**criteria)).records]


@pytest.mark.parametrize(
    "criteria",
    [
        {"key": "CHG-2"},
        {"ticket": "ops-4711"},
        {"requester": "J.Doe@example.com"},
        {"requester": "servicenow"},
        {"job": "copy TO frankfurt"},
        {"job": JOB_ID},
        {"job": f"urn:veeam:Job:{JOB_ID.upper()}"},
        {"repository": "SCALE-OUT 3"},
        {"repository": "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"},
        {"repository": "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"},
        {"outcome": "failed"},
        {"reason": "task_failed"},
        {"batch": "batch-1"},
    ],
    ids=str,
)
async def test_a_key_is_found_by_each_thing_that_is_known_of_it(database: Database, criteria: dict[str, Any]) -> None:
    """A person has the ticket's number or the job's name, and would not find the unlink by it."""
    ledger = await database.ledger()
    await claim(ledger, 1, job={"name": "other"}, repository={"name": "other"}, requested_by="else")
    lease = await claim(
        ledger,
        2,
        job={"name": "Copy to Frankfurt"},
        repository={"name": "Scale-out 3"},
        requested_by="j.doe@example.com",
        ticket={"system": "jira", "id": "OPS-4711"},
        batch={"id": "batch-1", "size": 1},
        user_id="servicenow",
    )
    await claim(ledger, 3, job={"id": JOB_ID.replace("d", "e")}, repository={"name": "x"})
    link = Link("27a1d57f-7c15-43c6-9162-d05aff1c9bb9", "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec", "Scale-out 3")
    await ledger.record(lease, Intended(Intent(JOB_ID, "Copy to Frankfurt", link), words.noon))
    if "outcome" not in criteria and "reason" not in criteria:
        assert found(database, **criteria, in_flight=True) == ["CHG-2"]
    end = event_of(reason={"code": "task_failed", "message": "-"})
    await ledger.record(lease, Settled(Outcome.FAILED, end, words.noon))
    assert found(database, **criteria) == ["CHG-2"]
    assert found(database, **criteria, in_flight=True) == []


async def test_a_key_is_found_by_each_batch_that_it_has_joined(database: Database) -> None:
    """`retry --batch` would pass over a link that was first ordered alone, and its batch never succeed."""
    ledger = await database.ledger()
    for number, batch in enumerate((None, {"id": "first", "size": 1}, {"id": "other", "size": 1})):
        await claim(ledger, number, job={"name": "a"}, batch=batch)
        late = BatchKey("default", "jira", "Late")
        assert await ledger.join(NewMember(late, 3, f"CHG-{number}", "f" * 64 if number < 2 else None)) is None
    assert set(found(database, batch="late")) == {"CHG-0", "CHG-1"}  # the third was rejected
    assert found(database, batch="first") == ["CHG-1"]
    assert found(database, batch="late", job="b") == []


async def test_before_it_is_looked_at_a_key_is_found_by_what_was_asked_for(database: Database) -> None:
    """A command that waits for an Enterprise Manager that is down would not be found at all."""
    ledger = await database.ledger()
    await claim(ledger, 1, job={"name": "Nightly"}, repository={"uid": "urn:veeam:Repository:" + JOB_ID})
    assert found(database, job="nightly", repository=JOB_ID) == ["CHG-1"]


async def test_an_offboarded_repository_is_found_by_the_name_in_the_labels(database: Database) -> None:
    """Offboarding names each link by its ID, and Enterprise Manager lists links without names."""
    ledger = await database.ledger()
    labels = {"job": "Nightly", "repository": "Hardened Linux 3", "linked_backups": "0"}
    lease = await claim(ledger, 1, job={"id": JOB_ID}, repository={"link_id": JOB_ID}, labels=labels)
    assert found(database, job="nightly", repository="hardened linux 3") == ["CHG-1"]
    await ledger.record(lease, Settled(Outcome.FAILED, event_of(repository={"uid": JOB_ID}), words.noon))
    assert found(database, repository="Hardened Linux 3") == ["CHG-1"]
    await claim(ledger, 2, job={"id": JOB_ID}, repository={"name": "Its own"}, labels=labels)
    assert found(database, repository="Hardened Linux 3") == ["CHG-1"]


async def test_what_was_seen_counts_before_what_was_asked_for(database: Database) -> None:
    """The audit of a job would name an unlink of another one."""
    ledger = await database.ledger()
    lease = await claim(ledger, 1, job={"name": "nightly"}, repository={"name": "old name"})
    await ledger.record(lease, Settled(Outcome.FAILED, event_of(repository={"name": "new name"}), words.noon))
    assert found(database, repository="old name") == []
    assert found(database, job="nightly", repository="new name") == ["CHG-1"]


async def test_all_criteria_must_hold(database: Database) -> None:
    """A search that is narrowed would show more."""
    ledger = await database.ledger()
    await claim(ledger, 1, job={"name": "a"}, requested_by="x")
    await claim(ledger, 2, job={"name": "a"}, requested_by="y")
    await claim(ledger, 3, job={"name": "b"}, requested_by="x")
    assert found(database, job="a", requester="x") == ["CHG-1"]
    assert found(database, requester="x", since=words.noon + timedelta(seconds=2)) == ["CHG-3"]


@pytest.mark.parametrize("criteria", [{}, {"job": "a"}, {"requester": "x"}, {"in_flight": True}], ids=str)
async def test_pages_hold_each_key_once_newest_first(database: Database, criteria: dict[str, Any]) -> None:
    """An export would lack keys at the page breaks, or have them twice."""
    ledger = await database.ledger()
    # Several at the same time, and some that meet the criterion in both of its columns.
    for number in range(25):
        requested_by = "x" if number % 2 else None
        await claim(ledger, number, at=number // 5, job={"name": "a"}, requested_by=requested_by, user_id="x")
    inspection = inspection_of(database)
    pages = [inspection.find(Criteria(**criteria), limit=4)]
    while pages[-1].next is not None:
        pages.append(inspection.find(Criteria(**criteria), after=pages[-1].next, limit=4))
    records = [record for page in pages for record in page.records]
    assert [len(page.records) for page in pages] == [4] * 6 + [1]
    places = [(record.entry.received_at, record.entry.lease.key) for record in records]
    assert len(set(places)) == 25
    assert [place[0] for place in places] == sorted((place[0] for place in places), reverse=True)


async def test_all_pages_are_read_one_after_the_other(database: Database) -> None:
    """A large export would be held in memory, or end after its first page."""
    ledger = await database.ledger()
    for number in range(450):
        await claim(ledger, number)
    keys = [record.entry.lease.key for page in inspection_of(database).find_all(Criteria()) for record in page.records]
    assert keys == [f"CHG-{number}" for number in reversed(range(450))]


async def test_a_page_that_ends_with_the_last_key_is_the_last(database: Database) -> None:
    """A reader would be offered a next page that is empty."""
    ledger = await database.ledger()
    for number in range(4):
        await claim(ledger, number)
    assert inspection_of(database).find(Criteria(), limit=4).next is None


async def test_a_strange_or_endless_name_keeps_no_unlink_from_being_recorded(database: Database) -> None:
    """PostgreSQL refuses long index entries and NUL: the unlink would be tried again for ever."""
    ledger = await database.ledger()
    name = "İß\0\ud800" + "é" * 9000
    lease = await claim(ledger, 1)
    link = Link("27a1d57f-7c15-43c6-9162-d05aff1c9bb9", JOB_ID, name)
    assert await ledger.record(lease, Intended(Intent(JOB_ID, name, link), words.noon))
    assert found(database, job=name) == ["CHG-1"]
    assert found(database, repository=name) == ["CHG-1"]


async def test_a_pruned_key_is_found_no_more(database: Database) -> None:
    """The table of terms would grow for ever."""
    ledger = await database.ledger()
    for number in range(2):
        lease = await claim(ledger, number)
        await ledger.record(lease, Settled(Outcome.SUCCEEDED, b"event", database.clock.now()))
        database.age(91 * (1 - number))
    assert await ledger.prune(90) == 1
    assert database.execute("SELECT key FROM search_terms") == [("CHG-1",)]


async def test_reading_takes_no_lock_that_a_worker_waits_for(database: Database) -> None:
    """Somebody who exports a large ledger would stop every unlink meanwhile."""
    ledger = await database.ledger()
    for number in range(3):
        await claim(ledger, number)
    inspection = inspection_of(database)
    with inspection._transaction(inspection._reading) as transaction:  # noqa: SLF001 - a reader that is slow
        transaction.find(Criteria(), None, 1)
        await claim(ledger, 3)
    assert found(database)[0] == "CHG-3"
