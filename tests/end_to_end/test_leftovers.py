"""What a delivery that ended badly leaves behind: no message that only a search for cycles would find."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from pydantic import SecretStr

from contracts.batches import BatchEnded
from contracts.events import Event, Reason
from tests.end_to_end.in_process import Handed
from tests.garbage import alive, without_search
from worker.clock import SystemClock
from worker.ledger.sql_ledger import SqlLedger
from worker.settings import LedgerSettings
from worker.unlinks import dispatcher as module
from worker.unlinks.dispatcher import Dispatcher
from worker.unlinks.ports.broker import Delivery, PublishRefusedError, ReplyTo
from worker.unlinks.ports.steps import Step
from worker.unlinks.rules import Rules

CLOCK = SystemClock()


class Forgetful:
    """An outbox that publishes nothing, or fails to, and steps that nobody reads."""

    def __init__(self) -> None:
        self.error: type[Exception] | None = None

    async def publish(
        self, event: Event | BatchEnded | bytes, reply_to: Collection[ReplyTo] = (), *, refusals: int = 0
    ) -> None:
        """Fail, if it shall."""
        del event, reply_to, refusals
        if self.error is not None:
            raise self.error

    async def offer(self, event: Event) -> None:
        """As the other one."""
        await self.publish(event)

    async def delay(self, delivery: Delivery, seconds: float, *, failed: bool = False, refused: bool = False) -> None:
        """Look away."""

    async def dead_letter(self, delivery: Delivery, reason: Reason, run: int | None = None) -> None:
        """Look away."""

    def report(self, step: Step) -> None:
        """Look away."""


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqlLedger]:
    """A ledger."""
    ledger = SqlLedger(LedgerSettings(url=SecretStr(f"sqlite:///{tmp_path}/ledger.db")), "leftovers", CLOCK)
    await ledger.start()
    yield ledger
    await ledger.close()


def _unforeseen(*_: object) -> None:
    raise RecursionError


@pytest.mark.parametrize("end", ["rejected", "not published", "refused", "not read"])
async def test_a_message_is_freed_with_its_delivery(
    ledger: SqlLedger, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message that could not be read was kept: 24 of 16 MB, and the worker had grown by 380 MB."""
    outbox = Forgetful()
    dispatcher = Dispatcher(
        ledger=ledger, outbox=outbox, enterprise_managers={}, clock=CLOCK, rules=Rules(), steps=outbox
    )
    if end == "not read":
        monkeypatch.setattr(module, "read_message", _unforeseen)
    outbox.error = {"not published": KeyError, "refused": PublishRefusedError}.get(end)
    with without_search():
        before = alive(Handed)
        for _ in range(5):
            await dispatcher.receive(Handed(b'{"command": ', CLOCK.monotonic()))
        assert alive(Handed) <= before
