"""Who looks from outside sees which workers there are, and how they find their Enterprise Managers."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta

from contracts.events import Outcome
from tests.end_to_end.world import World, vendor_command
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.clock import SystemClock
from worker.ledger import Inspection, ManagerState, WorkerState
from worker.sandbox.simulated_enterprise_manager import Behaviour
from worker.settings import LedgerSettings
from worker.unlinks.ports.enterprise_manager import TaskTicket
from worker.unlinks.ports.ledger import Intended, Settled, Submitted

DOWN_SINCE = datetime(2026, 3, 1, 12, tzinfo=UTC)


def state_of(name: str, in_flight: int = 0) -> WorkerState:
    """What a worker says."""
    managers = {"default": ManagerState(up=False, since=DOWN_SINCE, problem="refused \x00 \ud800")}
    return WorkerState(name, "1.0", in_flight, draining=False, enterprise_managers=managers)


async def test_the_newest_that_a_worker_said_of_itself_is_seen(database: Database) -> None:
    """A person would look at a worker that is not there, or miss why an Enterprise Manager is down."""
    ledger = await database.ledger("worker-a")
    inspection = Inspection(database.settings(), database.clock)
    await ledger.report_status(state_of("worker-a", in_flight=1))
    await ledger.report_status(state_of("worker-a", in_flight=2))
    await ledger.report_status(state_of("worker-b"))
    first, second = inspection.workers()
    assert (first.name, first.in_flight, second.name) == ("worker-a", 2, "worker-b")
    assert first.enterprise_managers["default"] == state_of("worker-a").enterprise_managers["default"]
    assert first.started_at is not None
    assert first.seen_at is not None
    assert first.started_at <= first.seen_at
    assert 0 <= first.seconds_ago < 60
    await ledger.release_all()
    assert [state.name for state in inspection.workers()] == ["worker-b"]


async def test_a_worker_that_was_killed_is_shown_for_an_hour(database: Database) -> None:
    """Each pod that ever was would be shown for ever."""
    ledger = await database.ledger()
    await ledger.report_status(state_of("killed"))
    database.execute(f"UPDATE workers SET seen_at = seen_at - {59 * 60 * 1_000_000}")  # noqa: S608 - a number
    await ledger.report_status(state_of("worker-a"))
    names = [state.name for state in Inspection(database.settings(), database.clock).workers()]
    assert names == ["killed", "worker-a"]
    database.execute(f"UPDATE workers SET seen_at = seen_at - {2 * 60 * 1_000_000}")  # noqa: S608 - a number
    await ledger.report_status(state_of("worker-a"))
    assert [state.name for state in Inspection(database.settings(), database.clock).workers()] == ["worker-a"]


async def test_what_has_not_ended_is_counted_by_enterprise_manager(database: Database) -> None:
    """The overview would not tell where the work is."""
    ledger = await database.ledger()
    await words.claim(ledger, "CHG-1")
    await words.claim(ledger, "CHG-2")
    await ledger.release(await words.claim(ledger, "CHG-3"))
    sent = await words.claim(ledger, "CHG-4")
    await ledger.record(sent, Intended(words.intent_of(), words.noon))
    await ledger.record(sent, Submitted(TaskTicket("task-1", "session"), words.noon))
    overview = Inspection(database.settings(), database.clock).overview()
    assert {name: (each.count, each.tasks) for name, each in overview.under_way.items()} == {"default": (4, 1)}
    assert overview.under_way["default"].oldest == words.noon


async def test_how_unlinks_ended_is_counted_by_the_hour(database: Database) -> None:
    """The chart would be empty, or show what ended last week."""
    ledger = await database.ledger()
    now = database.clock.now()
    for number, hours in enumerate((0, 0, 1.5, 23.5, 25)):
        lease = await words.claim(ledger, f"CHG-{number}")
        end = Settled(Outcome.SUCCEEDED, b"event", now - timedelta(hours=hours, seconds=1))
        await ledger.record(lease, end)
    overview = Inspection(database.settings(), database.clock).overview()
    assert overview.under_way == {}
    assert overview.ended == {"succeeded": (1, *[0] * 21, 1, 2)}


def test_a_worker_is_shown_from_its_start_to_its_stop(world: World, behaviour: Behaviour) -> None:
    """The overview would be empty although workers run, show one that drains as at work, or one that has stopped."""
    behaviour.edits_held = True
    settings = LedgerSettings.model_validate({"url": world.environment["UNLINK_LEDGER__URL"]})
    inspection = Inspection(settings, SystemClock())
    worker = world.start_worker()
    world.listen()
    world.until(inspection.workers, "a worker that is seen")
    (state,) = inspection.workers()
    assert (state.in_flight, list(state.enterprise_managers)) == (0, ["default"])
    world.send(vendor_command())
    world.until(lambda: world.of("CHG1"), "a submitted event")
    os.kill(worker.pid, signal.SIGTERM)
    world.until(lambda: [state.draining for state in inspection.workers()] == [True], "a worker that drains")
    behaviour.edits_held = False
    world.until(lambda: not worker.running, "the end of the drain")
    assert inspection.workers() == ()
