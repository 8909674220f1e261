"""What is recorded of a DELETE that may not leave, and until when it may."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.events import ReasonCode
from tests.unit.test_waiting import waiting_until
from tests.unit.test_workflow import ListsTheLink, TakesAll, not_sent, sent_once
from worker.unlinks.job_locks import JobLocks
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import Refused, Task
from worker.unlinks.ports.ledger import Intended, Lease, SentAgain, Withdrawn


class Hangs(TakesAll):
    """A ledger that is away when a DELETE is about to be sent. `hangs` is set by then."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = asyncio.Event()

    async def record(self, lease: Lease, change: object) -> bool:
        """It may be written later, and nobody waits for it."""
        await super().record(lease, change)
        if isinstance(change, (Intended, SentAgain)):
            self.hangs.set()
            await asyncio.Event().wait()
        return True


@pytest.mark.parametrize("sent_before", [False, True])
async def test_a_delete_is_withdrawn_if_the_hold_ends_while_it_is_recorded(sent_before: bool) -> None:
    """A DELETE that never left would count as sent: the next one could leave after `not_after`."""
    waiting, ledger = waiting_until(), Hangs()
    server: Any = ListsTheLink()
    if sent_before:
        workflow = sent_once(waiting=waiting, locks=JobLocks(), enterprise_manager=server, ledger=ledger)
    else:
        workflow = not_sent(waiting=waiting, enterprise_manager=server, ledger=ledger)
    ending = asyncio.ensure_future(workflow.to_ending())
    await ledger.hangs.wait()
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert [type(change) for change in ledger.taken] == [SentAgain if sent_before else Intended, Withdrawn]
    assert ledger.taken[-1] == Withdrawn(2 if sent_before else 1)


class AsksForPermission(ListsTheLink):
    """Asks when a DELETE may be written at the latest, and refuses it."""

    last_moment: float | None = None

    async def delete_link(self, _job: str, _link: str, may_send: Any, _unsent: Any) -> Task:
        """Ask, and refuse."""
        self.last_moment = await may_send()
        raise Refused(ReasonCode.ACCESS_DENIED, "no")


class HoldsForAMoment(TakesAll):
    """A ledger whose lease ends soon."""

    def __init__(self, end: float, clock: Clock) -> None:
        super().__init__()
        self._end = end
        self._clock = clock

    def seconds_left(self, _lease: Lease) -> float:
        """What is left."""
        return self._end - self._clock.monotonic()


async def test_a_delete_may_not_be_written_once_its_lease_may_be_over() -> None:
    """With a short lease, it could leave a moment after another worker has taken the key over."""
    waiting, server = waiting_until(), AsksForPermission()
    end = waiting.clock.monotonic() + 0.5
    ledger = HoldsForAMoment(end, waiting.clock)
    await not_sent(waiting=waiting, enterprise_manager=server, ledger=ledger).to_ending()
    assert server.last_moment == pytest.approx(end, abs=0.01)
