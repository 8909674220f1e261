"""The ledger, watched: claims, take-overs, ends, leases lost, and how long each call takes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.telemetry import tracing
from worker.unlinks.ports.ledger import AlreadySettled, Claimed, HeldElsewhere, KeyReused, LeaseLostError, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from contracts.events import Outcome
    from worker.telemetry.metrics import Metrics
    from worker.telemetry.watched.ends import Ends
    from worker.unlinks.ports.clock import Clock
    from worker.unlinks.ports.enterprise_manager import TaskTicket
    from worker.unlinks.ports.ledger import CancelRequest, ClaimResult, Intent, Lease, Ledger, NewClaim


class WatchedLedger:
    """A ledger (`worker.unlinks.ports.ledger.Ledger`) that tells what is asked of it."""

    def __init__(self, ledger: Ledger, metrics: Metrics, ends: Ends, clock: Clock) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._ends = ends
        self._clock = clock
        # The Enterprise Manager of each lease that the core holds; those it has found lost are out of it.
        self._held: dict[Lease, str] = {}

    async def claim(self, claim: NewClaim) -> ClaimResult:
        """Watched: what the key was found to be."""
        tracing.at("claim")
        with self._timed("claim"):
            result = await self._ledger.claim(claim)
        self._metrics.claims.labels(claim.enterprise_manager, _word(result)).inc()
        if isinstance(result, Claimed):
            self._held[result.entry.lease] = claim.enterprise_manager
            self._metrics.in_flight.labels(claim.enterprise_manager).inc()
            journey = tracing.present_journey()
            if journey is not None:
                journey.sent = result.entry.stage is not Stage.CLAIMED
        return result

    async def has_decided(self, key: str, fingerprint: str) -> bool:
        """Watched."""
        with self._timed("has_decided"):
            return await self._ledger.has_decided(key, fingerprint)

    async def intend(self, lease: Lease, intent: Intent, sent_at: datetime) -> bool:
        """Watched: a step."""
        tracing.at("intend")
        with self._timed("intend", lease):
            return await self._ledger.intend(lease, intent, sent_at)

    async def withdraw(self, lease: Lease) -> None:
        """Watched."""
        with self._timed("withdraw", lease):
            await self._ledger.withdraw(lease)
        journey = tracing.present_journey()
        if journey is not None:
            journey.sent = False

    async def send_again(self, lease: Lease) -> None:
        """Watched."""
        with self._timed("send_again", lease):
            await self._ledger.send_again(lease)

    async def submitted(self, lease: Lease, task: TaskTicket, submitted_at: datetime) -> None:
        """Watched."""
        with self._timed("submitted", lease):
            await self._ledger.submitted(lease, task, submitted_at)

    async def settle(self, lease: Lease, outcome: Outcome, event: bytes, finished_at: datetime) -> None:
        """Watched: an end."""
        tracing.at("settle")
        with self._timed("settle", lease):
            await self._ledger.settle(lease, outcome, event, finished_at)
        self._no_longer_held(lease)
        self._ends.settled(event)

    async def release(self, lease: Lease) -> None:
        """Watched."""
        self._no_longer_held(lease)
        with self._timed("release"):
            await self._ledger.release(lease)

    async def cancel(self, request: CancelRequest) -> AlreadySettled | KeyReused | None:
        """Watched."""
        with self._timed("cancel"):
            return await self._ledger.cancel(request)

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        """Passed on."""
        self._ledger.on_cancel(listener)

    def alive(self, lease: Lease) -> bool:
        """Watched: whoever asks gives the unlink up if the answer is no."""
        alive = self._ledger.alive(lease)
        if not alive:
            self._lost(lease)
        return alive

    @contextmanager
    def _timed(self, call: str, lease: Lease | None = None) -> Iterator[None]:
        started = self._clock.monotonic()
        try:
            yield
        except LeaseLostError:
            if lease is not None:
                self._lost(lease)
            raise
        finally:
            self._metrics.ledger_seconds.labels(call).observe(self._clock.monotonic() - started)

    def _lost(self, lease: Lease) -> None:
        enterprise_manager = self._no_longer_held(lease)
        if enterprise_manager is not None:
            self._metrics.leases_lost.labels(enterprise_manager).inc()

    def _no_longer_held(self, lease: Lease) -> str | None:
        enterprise_manager = self._held.pop(lease, None)
        if enterprise_manager is not None:
            self._metrics.in_flight.labels(enterprise_manager).dec()
        return enterprise_manager


def _word(result: ClaimResult) -> str:
    match result:
        case Claimed(entry):
            return "new" if entry.lease.token == 1 else "taken_over"
        case AlreadySettled():
            return "settled_before"
        case HeldElsewhere():
            return "held_elsewhere"
        case KeyReused():
            return "key_reused"
