"""Commands that are not to start before a time: they wait without a slot, and can be cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.end_to_end.in_process import InProcessWorker, worker_for
from tests.end_to_end.world import World, vendor_command
from tests.preloaded.preloaded import run_program
from tests.waiting import until
from worker.clock import SystemClock
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, SimulatedEnterpriseManager
from worker.unlinks.policy import read_policy

#: An hour from now, in the contract's words.
LATER = timedelta(hours=1)


class ShiftedClock(SystemClock):
    """A clock whose time of day can be moved ahead."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        """The time of day."""
        return super().now() + self.ahead


@pytest.fixture
def em(simulated_enterprise_manager: SimulatedEnterpriseManager) -> SimulatedEnterpriseManager:
    """A simulated Enterprise Manager with the vendor's example."""
    return simulated_enterprise_manager


@pytest.fixture
def clock() -> ShiftedClock:
    """The worker's clock."""
    return ShiftedClock()


@asynccontextmanager
async def worker(
    em: SimulatedEnterpriseManager, clock: ShiftedClock, policy: str | None = None
) -> AsyncIterator[InProcessWorker]:
    """A worker that polls quickly."""
    rules = None if policy is None else read_policy(policy)
    async with worker_for(em, clock=clock, policy=rules, poll_interval_seconds=0.1) as one:
        yield one


def in_an_hour() -> str:
    """Then."""
    return (datetime.now(UTC) + LATER).isoformat()


def later_command(key: str = "CHG1", **changes: Any) -> dict[str, Any]:
    """The vendor's example, in an hour."""
    return vendor_command(key, **{"not_before": in_an_hour()} | changes)


async def until_returned(one: InProcessWorker, times: int = 2) -> None:
    """Until the command has been put into a delay queue so many times."""
    async with asyncio.timeout(60):
        await one.received.until_delayed(times)


async def test_a_command_starts_when_its_time_has_come(em: SimulatedEnterpriseManager, clock: ShiftedClock) -> None:
    """A change would be made outside its maintenance window; or never."""
    async with worker(em, clock) as one:
        one.send(later_command())
        await until_returned(one)
        assert em.deletes_of(VENDOR_LINK_ID) == 0
        assert set(one.received.delays) == {600.0}
        clock.ahead = LATER - timedelta(seconds=20)
        await until_returned(one, len(one.received.delays) + 2)
        assert one.received.delays[-1] == 5.0
        assert em.deletes_of(VENDOR_LINK_ID) == 0
        clock.ahead = LATER
        end = await one.end_of()
        assert (end["outcome"], end["attempts"]) == ("succeeded", 2)  # the waiting took no claims


async def test_a_cancel_ends_the_wait(em: SimulatedEnterpriseManager, clock: ShiftedClock) -> None:
    """A change that was called off is still to come for hours, and the ticket waits for its end."""
    async with worker(em, clock) as one:
        one.send(later_command())
        await until_returned(one)
        cancel = {"command": "cancel.v1", "idempotency_key": "CHG1", "requested_by": "j.doe"}
        delivery = one.send(cancel)
        end = await one.end_of()
        assert (end["outcome"], end["request"]["cancelled_by"]) == ("cancelled", "j.doe")
        await until(lambda: delivery.acknowledged)
        assert em.deletes_of(VENDOR_LINK_ID) == 0


async def test_the_stored_time_holds_whatever_a_repeat_says(
    em: SimulatedEnterpriseManager, clock: ShiftedClock
) -> None:
    """Whoever sends the command again without a time would start it at once."""
    async with worker(em, clock) as one:
        one.send(later_command())
        await until_returned(one)
        one.send(vendor_command())
        await until_returned(one, len(one.received.delays) + 3)
        assert em.deletes_of(VENDOR_LINK_ID) == 0
        clock.ahead = LATER
        assert (await one.end_of())["outcome"] == "succeeded"


async def test_a_retry_waits_for_its_own_time(em: SimulatedEnterpriseManager, clock: ShiftedClock) -> None:
    """A failed change could not be tried again in the next maintenance window."""
    async with worker(em, clock) as one:
        one.send(vendor_command(not_after="2020-01-01T00:00:00Z"))
        assert (await one.end_of())["reason"]["code"] == "expired"
        retry = {"command": "retry.v1", "idempotency_key": "CHG1", "run": 1, "not_before": in_an_hour()}
        refused = one.send(retry)
        async with asyncio.timeout(60):
            await one.received.until_published(2)
        rejected = one.received.events[-1]
        assert (rejected["outcome"], "not_after of the command" in rejected["reason"]["message"]) == ("rejected", True)
        await until(lambda: refused.acknowledged)
        one.send(retry | {"not_after": (datetime.now(UTC) + 2 * LATER).isoformat()})
        await until_returned(one)
        assert em.deletes_of(VENDOR_LINK_ID) == 0
        clock.ahead = LATER
        await one.end_of(run=2)
        assert [(each["outcome"], each["run"]) for each in one.received.events[-2:]] == [
            ("submitted", 2),
            ("succeeded", 2),
        ]


async def test_a_retry_waits_for_the_stored_time_without_a_claim(
    em: SimulatedEnterpriseManager, clock: ShiftedClock
) -> None:
    """A change that was called off and ordered again would fill its history with a claim every ten minutes."""
    async with worker(em, clock) as one:
        one.send(later_command())
        await until_returned(one)
        one.send({"command": "cancel.v1", "idempotency_key": "CHG1"})
        assert (await one.end_of())["outcome"] == "cancelled"
        one.send({"command": "retry.v1", "idempotency_key": "CHG1", "run": 1})
        await until_returned(one, len(one.received.delays) + 4)
        assert em.deletes_of(VENDOR_LINK_ID) == 0
        clock.ahead = LATER
        end = await one.end_of(run=2)
        assert (end["outcome"], end["attempts"]) == ("succeeded", 2)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"not_before": (datetime.now(UTC) + timedelta(days=91)).isoformat()}, "more than 90 days ahead"),
        ({"not_before": "2027-01-02T00:00:00Z", "not_after": "2027-01-01T00:00:00Z"}, "has to be before not_after"),
    ],
)
async def test_a_time_that_cannot_be_kept_is_rejected(
    em: SimulatedEnterpriseManager, clock: ShiftedClock, times: dict[str, str], said: str
) -> None:
    """The command would be pruned before it starts, or expire at once."""
    async with worker(em, clock) as one:
        end = await one.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID, **times)
        assert (end["outcome"], end["reason"]["code"]) == ("rejected", "invalid_message")
        assert said in end["reason"]["message"]


async def test_the_policy_is_applied_again_at_the_start(em: SimulatedEnterpriseManager, clock: ShiftedClock) -> None:
    """Somebody whose permission was withdrawn would still have their change made; or its batch would never end."""
    async with worker(em, clock, "[[rules]]\nunnamed = true") as one:
        one.send(later_command(batch={"id": "OPS-1", "size": 1}))
        await until_returned(one)
        one.use_policy(read_policy("[[rules]]\nusers = ['snow']"))
        await until_returned(one, len(one.received.delays) + 2)  # a repeat is not judged
        clock.ahead = LATER
        end = await one.end_of()
        assert (end["outcome"], end["reason"]["code"], end["changed"]) == ("failed", "access_denied", False)
        async with asyncio.timeout(60):
            await one.received.until_published(2)
        assert one.received.events[1]["not_succeeded"] == ["CHG1"]
        assert em.deletes_of(VENDOR_LINK_ID) == 0


async def test_a_dry_run_does_not_wait(em: SimulatedEnterpriseManager, clock: ShiftedClock) -> None:
    """The plan of tonight's change would come when the change is made."""
    async with worker(em, clock) as one:
        assert (await one.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID, **later_command(dry_run=True)))["outcome"] == "planned"


def test_a_waiting_command_takes_no_slot_and_is_shown(world: World) -> None:
    """Commands for tonight would stop those for now; or nobody could see what is to come."""
    world.serve({"UNLINK_ENTERPRISE_MANAGERS__DEFAULT__MAX_IN_FLIGHT": "1"})
    for key in ("CHG1", "CHG2"):
        world.send(later_command(key))
    world.until(lambda: world.client.count("unlink.delay.600s") == 2, "both wait")
    world.until_acknowledged()
    shown = run_program("status", "CHG1", settings=world.environment)
    assert (shown.returncode, "waits until" in shown.stdout) == (5, True), shown.stdout
    world.unlink("NOW", repository={"link_id": "ffffffff-1111-4000-8000-000000000000"})
    world.send({"command": "cancel.v1", "idempotency_key": "CHG1", "run": 1})
    stopped = run_program("cancel", "CHG2", "--run", "1", "--wait", settings=world.environment)
    assert stopped.returncode == 4, stopped.stdout
    world.until_ended("CHG1", "CHG2")
    assert world.ends_of("CHG1") | world.ends_of("CHG2") == {
        (event.outcome, event.id) for key in ("CHG1", "CHG2") for event in world.of(key)
    }
    assert {event.outcome for key in ("CHG1", "CHG2") for event in world.of(key)} == {"cancelled"}
