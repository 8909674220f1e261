"""Who is let in by a policy: with a ledger that knows what was decided, and a look at the job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from contracts.commands import Command, JobReference, RetryCommand, UnlinkCommand
from contracts.events import Outcome, ReasonCode
from tests.steps import RecordedSteps
from tests.unit.test_policy import CANCEL, FRANKFURT, LINK, OTHER, POLICY, command
from worker.clock import SystemClock
from worker.ledger.sql_ledger import SqlLedger
from worker.settings import LedgerSettings
from worker.unlinks.authorization import Authorized, Authorizer
from worker.unlinks.policy import DeniedError, Policy, read_policy
from worker.unlinks.ports.enterprise_manager import Job, Link, Refused
from worker.unlinks.ports.ledger import (
    Claimed,
    Intended,
    Intent,
    KnownRun,
    NewClaim,
    Retry,
    Settled,
)
from worker.unlinks.ports.steps import Reporter
from worker.unlinks.signals import Signal
from worker.unlinks.waiting import Waiting

#: The steps are of no interest here.
UNREAD = Reporter(RecordedSteps(), "default")


@pytest.fixture
def policy() -> Policy:
    """One with three rules."""
    return read_policy(POLICY)


@dataclass(slots=True)
class Directory:
    """The one question that authorization asks of Enterprise Manager."""

    job: Job | None = None
    asked: int = 0

    async def find_job(self, reference: JobReference) -> Job:
        """As the port has it."""
        del reference
        self.asked += 1
        if self.job is None:
            raise Refused(ReasonCode.JOB_AMBIGUOUS, 'there is "Payroll copy" and "Payroll copy 2"')
        return self.job


@dataclass(slots=True)
class Door:
    """Authorizer, with a ledger."""

    policy: Policy
    ledger: SqlLedger
    directory: Directory = field(default_factory=Directory)

    async def authorize(self, order: Command, user_id: str | None) -> Authorized:
        """What the authorizer says."""
        enterprise_managers: Any = {"default": self.directory}
        clock = SystemClock()
        waiting = Waiting(clock, lambda: clock.monotonic() + 60, Signal(), Signal(), UNREAD)
        return await Authorizer(self.policy, self.ledger, enterprise_managers).authorize(order, user_id, waiting)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqlLedger]:
    """One that is empty."""
    ledger = SqlLedger(LedgerSettings(url=SecretStr(f"sqlite:///{tmp_path}/ledger.db")), "worker", SystemClock())
    await ledger.start()
    yield ledger
    await ledger.close()


async def test_the_unlink_goes_on_with_the_very_job_that_was_judged(policy: Policy, ledger: SqlLedger) -> None:
    """Between look and unlink the name could come to mean another job, which nobody judged."""
    job = Job(FRANKFURT, "Frankfurt")
    door = Door(policy, ledger, Directory(job))
    assert await door.authorize(command(job={"name": "Frankfurt"}), "snow") == Authorized(job)


async def test_a_job_that_cannot_be_looked_at_is_denied_without_a_word_of_others(
    policy: Policy, ledger: SqlLedger
) -> None:
    """A stranger would learn the names of jobs by asking for them; or be let in by naming one that is not there."""
    with pytest.raises(DeniedError, match="job_ambiguous") as caught:
        await Door(policy, ledger).authorize(command(job={"id": OTHER}), "snow")
    assert "Payroll" not in str(caught.value)


async def test_what_is_denied_leaves_nothing_in_the_ledger(policy: Policy, ledger: SqlLedger) -> None:
    """A stranger could keep a key from its rightful user."""
    door = Door(policy, ledger, Directory(Job(OTHER, "Paris")))
    for user_id in ("mallory", "snow"):
        with pytest.raises(DeniedError):
            await door.authorize(command(job={"id": OTHER}), user_id)
    assert await ledger.history("K") is None


async def claim(ledger: SqlLedger, order: UnlinkCommand) -> Claimed:
    """As the dispatcher does."""
    fingerprint = order.fingerprint
    result = await ledger.claim(NewClaim("K", fingerprint, "default", b"{}", datetime.now(UTC)))
    assert isinstance(result, Claimed)
    return result


async def test_what_was_decided_before_is_not_judged_again(policy: Policy, ledger: SqlLedger) -> None:
    """A command whose DELETE was sent would end twice when the policy has changed, and its job has gone, since."""
    order = command(job={"id": OTHER})
    door = Door(policy, ledger)
    claimed = await claim(ledger, order)
    with pytest.raises(DeniedError):  # only claimed: nothing was decided yet
        await door.authorize(order, "mallory")
    now = datetime.now(UTC)
    await ledger.record(claimed.entry.lease, Intended(Intent(OTHER, "Paris", Link(LINK, OTHER)), now))
    for user_id in ("mallory", "snow"):
        assert await door.authorize(order, user_id) == Authorized()
    await ledger.record(claimed.entry.lease, Settled(Outcome.SUCCEEDED, b"{}", now))
    assert await door.authorize(order, "mallory") == Authorized()
    with pytest.raises(DeniedError):  # the same key, another command
        await door.authorize(command(job={"id": OTHER}, if_absent="fail"), "mallory")
    with pytest.raises(DeniedError):  # a dry run does look at the job
        await door.authorize(command(job={"id": OTHER}, dry_run=True), "mallory")


def retry(run: int = 1) -> RetryCommand:
    """A retry of the key that `claim` claims."""
    return RetryCommand(command="retry.v1", idempotency_key="K", run=run)


async def fail(ledger: SqlLedger, order: UnlinkCommand, *, intent: Intent | None = None) -> KnownRun:
    """A first run that has failed, of a job that was looked at if there is an intent."""
    stored = order.model_dump_json(exclude_none=True).encode()
    result = await ledger.claim(NewClaim("K", order.fingerprint, "default", stored, datetime.now(UTC)))
    assert isinstance(result, Claimed)
    now = datetime.now(UTC)
    if intent is not None:
        await ledger.record(result.entry.lease, Intended(intent, now))
    await ledger.record(result.entry.lease, Settled(Outcome.FAILED, b'{"data": {"changed": false}}', now))
    known = await ledger.last_run("K")
    assert known is not None
    return known


async def test_a_retry_is_judged_as_the_stored_command_would_be(policy: Policy, ledger: SqlLedger) -> None:
    """Whoever knows a key could have unlinked what they may not unlink."""
    known = await fail(ledger, command(job={"id": FRANKFURT}))
    door = Door(policy, ledger, Directory(Job(FRANKFURT, "Frankfurt")))
    with pytest.raises(DeniedError):
        await door.authorize(retry(), "mallory")
    assert await door.authorize(retry(), "snow") == Authorized(retried=known)


async def test_a_retry_is_judged_by_the_job_that_was_recorded(policy: Policy, ledger: SqlLedger) -> None:
    """The name of the command may mean another job by now; the run would go on with the one that it meant then."""
    intent = Intent(OTHER, "Frankfurt", Link(LINK, OTHER))
    await fail(ledger, command(job={"name": "Frankfurt"}), intent=intent)
    with pytest.raises(DeniedError):
        await Door(policy, ledger, Directory(Job(OTHER, "Payroll"))).authorize(retry(), "snow")


async def test_a_retry_that_can_start_nothing_is_let_in_to_be_answered(policy: Policy, ledger: SqlLedger) -> None:
    """A run that was started would be left alone, and its retry end twice, once the policy has changed."""
    door = Door(policy, ledger)
    assert await door.authorize(retry(), "mallory") == Authorized()  # unknown
    known = await fail(ledger, command(job={"id": OTHER}))
    assert await door.authorize(retry(2), "mallory") == Authorized()  # yet to come
    started = await ledger.retry(Retry("K", "default", 1, known.fingerprint))
    assert isinstance(started, Claimed)
    for run in (1, 2):  # over, and under way
        assert await door.authorize(retry(run), "mallory") == Authorized()


async def test_without_a_policy_all_is_let_in(ledger: SqlLedger) -> None:
    """Who has set nothing up would be locked out."""
    authorizer = Authorizer(None, ledger, {})
    waiting = Waiting(SystemClock(), lambda: 0, Signal(), Signal(), UNREAD)
    for order in (command(), CANCEL):
        assert await authorizer.authorize(order, None, waiting) == Authorized()
