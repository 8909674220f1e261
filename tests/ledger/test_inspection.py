"""Looking at the ledger from outside the workers, as `status` and `ledger prune` do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.ledger import Inspection, InspectionError
from worker.ledger.database import open_engine, read_url
from worker.ledger.migrations import migrate
from worker.ledger.schema import known_schema
from worker.settings import LedgerSettings
from worker.unlinks.ports.ledger import Intended, Settled


def inspection_of(database: Database) -> Inspection:
    """A look at this database."""
    return Inspection(database.settings(), database.clock)


async def test_it_sees_what_a_running_worker_has_written(database: Database) -> None:
    """An operator would be told of a state that is not so, or would have to stop the workers to look."""
    ledger = await database.ledger()
    lease = await words.claim(ledger)
    await ledger.record(lease, Intended(words.intent_of(), words.noon))
    inspection = inspection_of(database)
    assert inspection.history("CHG-1") == await ledger.history("CHG-1")
    assert inspection.history("CHG-2") is None
    assert ledger.alive(lease)
    await ledger.record(lease, Settled(Outcome.SUCCEEDED, b"event", words.noon))


async def test_it_prunes_what_it_counts(database: Database) -> None:
    """`--dry-run` would promise one thing, and the next call do another."""
    ledger = await database.ledger()

    async def settle(n: int) -> None:
        end = Settled(Outcome.SUCCEEDED, b"event", database.clock.now())
        await ledger.record(await words.claim(ledger, f"CHG-{n}"), end)

    await asyncio.gather(*(settle(n) for n in range(550)))
    database.age(91)
    await asyncio.gather(*(settle(n) for n in range(550, 600)))
    inspection = inspection_of(database)
    assert inspection.count_long_settled(90) == 550
    assert inspection.prune(90) == 550
    assert inspection.count_long_settled(90) == 0
    assert inspection.history("CHG-0") is None
    assert inspection.history("CHG-599") is not None


async def test_a_step_that_a_newer_worker_wrote_is_shown_as_it_stands(database: Database) -> None:
    """During a roll-out, `status` of the version before would fail just when somebody looks."""
    await words.claim(await database.ledger())
    with open_engine(read_url(database.settings().url), database.clock).begin() as connection:
        connection.execute(text("UPDATE steps SET step = 'pondered'"))
    history = inspection_of(database).history("CHG-1")
    assert history is not None
    assert [step.step for step in history.steps] == ["pondered"]


def test_where_there_is_no_file_none_is_made(tmp_path: Path) -> None:
    """A mistyped path would be answered with `no such key`, and leave an empty database behind."""
    path = tmp_path / "mistyped.db"
    inspection = Inspection(LedgerSettings(url=SecretStr(f"sqlite:///{path}")), words.SteppedClock())
    with pytest.raises(InspectionError, match=r"there is no file .*mistyped\.db"):
        inspection.history("CHG-1")
    assert not path.exists()


@pytest.mark.parametrize(
    ("revision", "said"),
    [
        (None, "no worker has run on it yet"),
        ("0002", f"schema 2, and this version reads {known_schema()}"),
    ],
)
def test_a_database_without_this_versions_ledger_is_left_as_it_is(
    empty_database: Database, revision: str | None, said: str
) -> None:
    """A look with a newer program would change the schema under the workers that run."""
    engine = open_engine(read_url(empty_database.settings().url), empty_database.clock)
    with engine.begin() as connection:
        if revision is not None:
            migrate(connection, revision)
    for _ in range(2):
        with pytest.raises(InspectionError, match=said):
            inspection_of(empty_database).history("CHG-1")


def test_a_database_that_cannot_be_reached_is_reported_in_one_line_without_the_password() -> None:
    """An operator would read a stack trace, and a password in it."""
    settings = LedgerSettings(url=SecretStr("postgresql://unlink:hush@127.0.0.1:1/ledger"))
    with pytest.raises(InspectionError, match=r"cannot be used now: .*refused") as refused:
        Inspection(settings, words.SteppedClock()).history("CHG-1")
    assert "hush" not in str(refused.value)
    assert "\n" not in str(refused.value)
