"""How long a delivery may stay unacknowledged: what it waits for may hang for much longer."""

from __future__ import annotations

import sqlite3

from tests.end_to_end.world import World, vendor_command
from worker.sandbox.simulated_enterprise_manager import Fault

#: A hold that is over long before what hangs.
SHORT_HOLD = {
    "UNLINK_BROKER__HOLD_SECONDS": "2",
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__REQUEST_TIMEOUT_SECONDS": "900",
}
HANGING = 900.0


def test_a_request_that_hangs_does_not_keep_its_delivery(world: World) -> None:
    """The broker would take the delivery back at its consumer time-out, and close the channel for all others."""
    worker = world.start_worker(SHORT_HOLD)
    world.enterprise_manager.inject(Fault(kind="latency", method="GET", path="/jobs/", seconds=HANGING))
    world.listen()
    world.send(vendor_command())
    worker.wait_for_log("unlink.deferred")
    world.until_ended("CHG1")  # after the delay queue, and on another connection
    world.until_acknowledged()


def test_a_ledger_that_hangs_does_not_keep_a_delivery(world: World) -> None:
    """A thousand unlinks that wait for the database would hold their deliveries for an hour and a half."""
    worker = world.serve(SHORT_HOLD)
    database = sqlite3.connect(world.environment["UNLINK_LEDGER__URL"].removeprefix("sqlite:///"))
    database.execute("BEGIN IMMEDIATE")
    try:
        world.send(vendor_command())
        worker.wait_for_log("unlink.deferred")
    finally:
        database.rollback()
        database.close()
    world.until_ended("CHG1")
    world.until_acknowledged()
