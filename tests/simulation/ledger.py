"""A worker's way to the database: the in-memory twin of the real ledger, behind a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.ledger.memory import InMemoryLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import datetime

    from contracts.events import Outcome
    from tests.simulation.promises import RequestObserver
    from tests.simulation.scenario import Weather
    from tests.simulation.world import Process, ProcessClock
    from worker.ledger.memory import InMemoryDatabase
    from worker.unlinks.ports.enterprise_manager import TaskTicket
    from worker.unlinks.ports.ledger import (
        AlreadySettled,
        CancelRequest,
        ClaimResult,
        Intent,
        KeyReused,
        Lease,
        NewClaim,
    )


#: What a worker has sent when it dies still takes effect; what waited in it for the database to come back does not.
LAST_WORDS_SECONDS = 1.0


class RemoteLedger:
    """The port `Ledger`: a call takes effect at the database while the worker waits, or is dead by then."""

    def __init__(
        self,
        database: InMemoryDatabase,
        process: Process,
        clock: ProcessClock,
        observer: RequestObserver,
        weather: Weather,
        *,
        worker: str,
        lease_seconds: float,
    ) -> None:
        self._twin = InMemoryLedger(database, worker, clock, lease_seconds)
        self._process = process
        self._clock = clock
        self._observer = observer
        self._weather = weather
        self._lease_seconds = lease_seconds

    async def keep_renewing(self) -> None:
        """Renew all leases of this worker, three times in the length of one."""
        while True:
            await self._clock.sleep(self._lease_seconds / 3)
            await self._call("renew")

    async def claim(self, claim: NewClaim) -> ClaimResult:
        """As the port has it."""
        result: ClaimResult = await self._call("claim", claim)
        return result

    async def intend(self, lease: Lease, intent: Intent, sent_at: datetime) -> bool:
        """As the port has it."""
        free: bool = await self._call("intend", lease, intent, sent_at)
        return free

    async def withdraw(self, lease: Lease) -> None:
        """As the port has it."""
        await self._call("withdraw", lease)

    async def send_again(self, lease: Lease) -> None:
        """As the port has it."""
        await self._call("send_again", lease)

    async def submitted(self, lease: Lease, task: TaskTicket, submitted_at: datetime) -> None:
        """As the port has it."""
        await self._call("submitted", lease, task, submitted_at)

    async def settle(self, lease: Lease, outcome: Outcome, event: bytes, finished_at: datetime) -> None:
        """As the port has it."""
        await self._call("settle", lease, outcome, event, finished_at)

    async def release(self, lease: Lease) -> None:
        """As the port has it."""
        await self._call("release", lease)

    async def cancel(self, request: CancelRequest) -> AlreadySettled | KeyReused | None:
        """As the port has it."""
        result: AlreadySettled | KeyReused | None = await self._call("cancel", request)
        return result

    async def has_decided(self, key: str, fingerprint: str) -> bool:
        """As the port has it."""
        decided: bool = await self._call("has_decided", key, fingerprint)
        return decided

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        """As the port has it."""
        self._twin.on_cancel(lambda key: self._process.deliver(lambda: listener(key)))

    def alive(self, lease: Lease) -> bool:
        """As the port has it."""
        return self._twin.alive(lease)

    async def _call(self, name: str, *arguments: Any) -> Any:
        process, observer = self._process, self._observer
        sent = observer.world.now

        def act() -> Any:
            if process.dead and observer.world.now - sent > LAST_WORDS_SECONDS:
                raise ConnectionError
            try:
                result = _at_once(getattr(self._twin, name)(*arguments))
            except Exception as error:
                observer.world.note("ledger", f"refuses {name} of {process.name}: {error}")
                raise
            observer.wrote(process, name, arguments, result)
            return result

        there, back = self._weather.way_to_database()
        return await process.request(act, there, back)


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Carry out a call of the twin, which never waits: it is done at the instant at which it reaches the database."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the ledger's twin waited")
