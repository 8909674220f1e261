"""What the core does about a delivery without a queue, with the ledger that ships and no broker."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from contracts.commands import UNKNOWN_NAME
from contracts.events import Reason
from contracts.reading import read_command
from tests.end_to_end.in_process import Handed, KeptOutbox
from tests.end_to_end.world import vendor_command
from tests.steps import RecordedSteps
from worker.clock import SystemClock
from worker.ledger.sql_ledger import SqlLedger
from worker.settings import LedgerSettings
from worker.unlinks.dispatcher import Dispatcher
from worker.unlinks.ports.broker import DELIVERY_LIMIT, Delivery, Misrouting
from worker.unlinks.ports.enterprise_manager import Link
from worker.unlinks.ports.ledger import CancelRequest, Claimed, Intended, Intent, NewClaim
from worker.unlinks.rules import Rules

CLOCK = SystemClock()
LINK = Link("27a1d57f-7c15-43c6-9162-d05aff1c9bb9", "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec", "Scale-out 3")


class NotedOutbox(KeptOutbox):
    """An outbox that also notes delays and dead letters."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[float] = []
        self.dead: list[str] = []

    async def delay(self, delivery: Delivery, seconds: float, *, failed: bool = False, refused: bool = False) -> None:
        """Note for how long."""
        assert not failed
        del delivery, refused
        self.delays.append(seconds)

    async def dead_letter(self, delivery: Delivery, reason: Reason, run: int | None = None) -> None:
        """Note why."""
        del delivery, run
        self.dead.append(reason.code.value)


class Bystander:
    """A worker that is configured for no Enterprise Manager, and its ledger."""

    def __init__(self, ledger: SqlLedger) -> None:
        self.ledger = ledger
        self.outbox = NotedOutbox()
        self._dispatcher = Dispatcher(
            ledger=ledger,
            outbox=self.outbox,
            enterprise_managers={},
            clock=CLOCK,
            rules=Rules(),
            steps=RecordedSteps(),
        )

    async def take(self, command: dict[str, Any], name: str = "old", **facts: Any) -> Handed:
        """Take a delivery, and wait until it is answered."""
        body = json.dumps(command).encode()
        delivery = Handed(body, CLOCK.monotonic(), enterprise_manager=name, **facts)
        await self._dispatcher.receive(delivery)
        assert delivery.acknowledged
        return delivery

    async def claim(self, command: dict[str, Any], *, intend: bool) -> None:
        """Have an earlier worker claim the command's key, and perhaps intend, before it was ended."""
        body = json.dumps(command).encode()
        key, fingerprint = command["idempotency_key"], read_command(body).fingerprint
        claimed = await self.ledger.claim(NewClaim(key, fingerprint, "old", body, CLOCK.now()))
        assert isinstance(claimed, Claimed)
        if intend:
            await self.ledger.record(claimed.entry.lease, Intended(Intent("job", "Job", LINK), CLOCK.now()))
        await self.ledger.release(claimed.entry.lease)


@pytest.fixture
async def bystander(tmp_path: Path) -> AsyncIterator[Bystander]:
    """A worker that serves nothing, on a ledger of its own."""
    ledger = SqlLedger(LedgerSettings(url=SecretStr(f"sqlite:///{tmp_path}/ledger.db")), "bystander", CLOCK)
    await ledger.start()
    yield Bystander(ledger)
    await ledger.close()


OLD = vendor_command(enterprise_manager="old")


async def test_the_delays_make_up_ten_minutes(bystander: Bystander) -> None:
    """Else a command would be rejected before a rolling update ends, or circulate without end."""
    waited = 0
    for _ in range(20):
        await bystander.take(OLD, misrouting=Misrouting("old", waited))
        if bystander.outbox.events:
            break
        waited += int(bystander.outbox.delays[-1])
    assert waited == 600
    assert bystander.outbox.delays == [5.0] * 6 + [30.0] * 3 + [120.0] * 4
    (event,) = bystander.outbox.events
    assert (event["outcome"], event["reason"]["code"]) == ("rejected", "unknown_enterprise_manager")
    assert bystander.outbox.dead == ["unknown_enterprise_manager"]


async def test_an_enterprise_manager_that_was_removed_leaves_no_false_rejection(bystander: Bystander) -> None:
    """Its sender would be told that nothing was changed, and the link be gone."""
    await bystander.claim(OLD, intend=True)
    await bystander.take(OLD, misrouting=Misrouting("old", 600))
    (event,) = bystander.outbox.events
    assert (event["outcome"], event["reason"]["code"], event["changed"]) == ("failed", "gave_up", None)
    assert "configured as 'old' any more" in event["reason"]["message"]
    assert event["repository"]["link_id"] == LINK.object_in_job_id
    await bystander.take(OLD, misrouting=Misrouting("old", 600))
    assert bystander.outbox.events == [event, event]
    assert bystander.outbox.dead == ["gave_up"]


@pytest.mark.parametrize(
    ("command", "name"),
    [(OLD, "old"), (OLD | {"dry_run": True}, "old"), (OLD, "other"), (OLD | {"reason": 7}, "old")],
    ids=["only claimed", "dry run", "under another name", "unreadable"],
)
async def test_what_the_ledger_knows_nothing_more_of_is_rejected(
    bystander: Bystander, command: dict[str, Any], name: str
) -> None:
    """A misrouted copy would end a command that is none of its own."""
    await bystander.claim(OLD, intend=command is not OLD or name != "old")
    await bystander.take(command, name, misrouting=Misrouting(name, 600))
    assert [(event["outcome"], event["enterprise_manager"]) for event in bystander.outbox.events] == [
        ("rejected", name)
    ]


async def test_a_cancel_without_a_queue_is_rejected(bystander: Bystander) -> None:
    """It would be recorded for a name that nobody serves, and never be answered."""
    cancel = {"command": "cancel.v1", "idempotency_key": "CHG1", "enterprise_manager": "old"}
    await bystander.take(cancel, misrouting=Misrouting("old", 600))
    assert [event["outcome"] for event in bystander.outbox.events] == ["rejected"]


@pytest.mark.parametrize("seconds", [0, 600])
async def test_what_was_taken_away_goes_back_to_where_it_is_served(bystander: Bystander, seconds: int) -> None:
    """Else a worker would answer for a key that only another ledger knows, or nobody would answer."""
    await bystander.take(OLD, misrouting=Misrouting("old", seconds), taken_away=DELIVERY_LIMIT)
    assert bystander.outbox.delays == ([5.0] if not seconds else [])
    assert len(bystander.outbox.events) == (1 if seconds else 0)


async def test_a_routing_key_that_is_no_name_is_quoted_in_part(bystander: Bystander) -> None:
    """The event would be as long as its sender likes, and hold what its sender likes."""
    await bystander.take(OLD, UNKNOWN_NAME, misrouting=Misrouting("\x1b" + "x" * 300, 0))
    (event,) = bystander.outbox.events
    assert "'\\x1b" + "x" * 63 + "'" in event["reason"]["message"]


async def test_an_unreadable_delivery_counts_as_an_attempt(
    bystander: Bystander, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in reading would be answered as if the message were at fault."""

    def fail(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("worker.unlinks.dispatcher.read_message", fail)
    failures: list[bool] = []

    async def delay(*_: object, failed: bool, refused: bool) -> None:
        failures.append(failed and not refused)

    monkeypatch.setattr(bystander.outbox, "delay", delay)
    await bystander.take(OLD, UNKNOWN_NAME, misrouting=Misrouting("a.b", 0))
    assert failures == [True]


@pytest.mark.parametrize("intend", [False, True], ids=["before its DELETE", "after it"])
async def test_a_cancel_that_came_before_holds_for_what_was_taken_away(bystander: Bystander, *, intend: bool) -> None:
    """A command whose cancel was asked for would end as failed, and be replayed."""
    await bystander.claim(OLD, intend=intend)
    await bystander.ledger.cancel(CancelRequest("CHG1", "old", None, None, CLOCK.now()))
    bystander_of_old = Dispatcher(
        ledger=bystander.ledger,
        outbox=bystander.outbox,
        enterprise_managers={"old": None},  # type: ignore[dict-item] # it must not be asked
        clock=CLOCK,
        rules=Rules(),
        steps=RecordedSteps(),
    )
    delivery = Handed(json.dumps(OLD).encode(), CLOCK.monotonic(), enterprise_manager="old", taken_away=DELIVERY_LIMIT)
    await bystander_of_old.receive(delivery)
    (event,) = bystander.outbox.events
    expected = ("failed", None) if intend else ("cancelled", False)
    assert (event["outcome"], event["changed"]) == expected
    assert delivery.acknowledged
