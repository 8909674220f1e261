"""A whole worker inside the test: the real dispatcher, core, ledger and client, with an outbox in memory.

What it talks to is a simulated Enterprise Manager over HTTPS. It is for what depends on Enterprise Manager alone, of
which there are hundreds of cases: a process and a broker for each would add minutes and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import SecretStr

from contracts.batches import BatchEnded
from contracts.events import Event, Reason
from tests.steps import RecordedSteps
from worker.clock import SystemClock
from worker.enterprise_manager import Gateway
from worker.ledger.sql_ledger import SqlLedger
from worker.sandbox.simulated_enterprise_manager import Simulation
from worker.settings import EnterpriseManagerSettings, LedgerSettings
from worker.telemetry.instruments import Telemetry
from worker.unlinks.dispatcher import Dispatcher
from worker.unlinks.policy import Policy
from worker.unlinks.ports.broker import Delivery, Misrouting, ReplyTo
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.steps import Steps
from worker.unlinks.rules import Pace, Rules

#: How long a command may take to its end, in seconds: these machines are shared.
TIMEOUT_SECONDS = 60.0


@dataclass(eq=False, slots=True)
class Handed:
    """A delivery that never was in a broker."""

    body: bytes
    taken_at: float
    arrived_at: datetime = field(default_factory=partial(datetime.now, UTC))
    enterprise_manager: str = "default"
    content_type: str | None = "application/json"
    correlation_id: str | None = None
    reply_to: str | None = None
    user_id: str | None = None
    headers: Mapping[str, object] = field(default_factory=dict)
    attempt: int = 1
    redelivered: bool = False
    misrouting: Misrouting | None = None
    taken_away: str | None = None
    returns: int = 0
    refusals: int = 0
    live: bool = True
    acknowledged: bool = False
    requeued: bool = False

    def acknowledge(self) -> None:
        """It is done with."""
        self.acknowledged = True

    def requeue(self) -> None:
        """It is given back, and not delivered again."""
        self.requeued = True


class KeptOutbox:
    """An outbox that keeps what it is given, and brings back at once what is to be delayed."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.delays: list[float] = []
        self.returning: asyncio.Queue[Delivery] = asyncio.Queue()
        self._arrived = asyncio.Condition()

    async def publish(
        self, event: Event | BatchEnded | bytes, reply_to: Collection[ReplyTo] = (), *, refusals: int = 0
    ) -> None:
        """Keep an event."""
        del reply_to, refusals
        content = json.loads(event if isinstance(event, bytes) else event.to_bytes())
        async with self._arrived:
            self.events.append(content["data"])
            self._arrived.notify_all()

    async def offer(self, event: Event) -> None:
        """Keep a progress event."""
        await self.publish(event)

    async def delay(self, delivery: Delivery, seconds: float, *, failed: bool = False, refused: bool = False) -> None:
        """Bring it back at once; an attempt that fails is a fault of the worker."""
        assert not failed or refused, "an attempt failed in an unforeseen way"
        async with self._arrived:
            self.delays.append(seconds)
            self._arrived.notify_all()
        self.returning.put_nowait(delivery)

    async def until_delayed(self, times: int) -> None:
        """Return once commands were delayed so many times."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.delays) >= times)

    async def until_published(self, count: int) -> None:
        """Return once there are so many events."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.events) >= count)

    async def dead_letter(self, delivery: Delivery, reason: Reason, run: int | None = None) -> None:
        """Look away."""

    async def end_of(self, key: str, run: int | None = None) -> dict[str, Any]:
        """The data of the terminal event, or of that of this run, once it is there."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self._end_of(key, run) is not None)
        end = self._end_of(key, run)
        assert end is not None
        return end

    def _end_of(self, key: str, run: int | None) -> dict[str, Any] | None:
        ends = (
            one
            for one in self.events
            if one.get("idempotency_key") == key and one["outcome"] != "submitted" and run in {None, one["run"]}
        )
        return next(ends, None)


class InProcessWorker:
    """A worker of one Enterprise Manager, called `default`."""

    def __init__(
        self, dispatcher: Dispatcher, gateway: Gateway, ledger: SqlLedger, received: KeptOutbox, clock: Clock
    ) -> None:
        self.dispatcher = dispatcher
        self.gateway = gateway
        self.ledger = ledger
        self.received = received
        self._clock = clock

    def use_policy(self, policy: Policy) -> None:
        """Go on as a worker that was restarted with another policy."""
        self.dispatcher._authorizer._policy = policy  # noqa: SLF001 - the ledger and the deliveries stay

    def send(self, command: dict[str, Any], attempt: int = 1) -> Handed:
        """Deliver a command; a key and the rest of an unlink are filled in."""
        given = {"command": "unlink.v1", "idempotency_key": "CHG1"} | command
        delivery = Handed(json.dumps(given).encode(), self._clock.monotonic(), attempt=attempt)
        self.dispatcher.receive(delivery)
        return delivery

    async def unlink(self, job: str, link: str, /, **others: Any) -> dict[str, Any]:
        """Deliver an unlink of this job's link; its terminal event's data."""
        command = {"job": {"id": job}, "repository": {"link_id": link}} | others
        self.send(command)
        return await self.end_of(command.get("idempotency_key", "CHG1"))

    async def end_of(self, key: str = "CHG1", run: int | None = None) -> dict[str, Any]:
        """The data of the terminal event, or of that of this run."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self.received.end_of(key, run)

    async def until_submitted(self, count: int = 1) -> None:
        """Return once so many DELETEs were accepted."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while sum(one["outcome"] == "submitted" for one in self.received.events) < count:  # noqa: ASYNC110 - it is rare
                await asyncio.sleep(0.01)

    async def redeliver_forever(self) -> None:
        """Deliver what was delayed."""
        while True:
            delivery = await self.received.returning.get()
            await asyncio.sleep(0.05)
            self.dispatcher.receive(Handed(delivery.body, self._clock.monotonic()))


@asynccontextmanager
async def worker_for(
    simulated: Simulation,
    *,
    pace: Pace | None = None,
    telemetry: Telemetry | None = None,
    steps: Steps | None = None,
    clock: Clock | None = None,
    policy: Policy | None = None,
    hold_seconds: float = 1500.0,
    **settings: Any,
) -> AsyncIterator[InProcessWorker]:
    """A worker for as long as the context lasts; `settings` are those of its Enterprise Manager."""
    clock = clock or SystemClock()
    given = {
        "url": simulated.url,
        "username": simulated.username,
        "password": simulated.password,
        "ca_file": simulated.ca_file,
        "request_timeout_seconds": 10,
    }
    configured = EnterpriseManagerSettings.model_validate(given | settings)
    observer = None if telemetry is None else telemetry.observer("default")
    gateway = Gateway("default", configured, clock, observer)
    folder = TemporaryDirectory()
    ledger = SqlLedger(LedgerSettings(url=SecretStr(f"sqlite:///{folder.name}/ledger.db")), "in-process", clock)
    await ledger.start()
    received = KeptOutbox()
    dispatcher = Dispatcher(
        ledger=ledger,
        outbox=received,
        enterprise_managers={"default": gateway},
        clock=clock,
        rules=Rules(
            hold_seconds=hold_seconds,
            policy=policy,
            paces={"default": pace or Pace(poll_interval=configured.poll_interval_seconds)},
        ),
        steps=steps or telemetry or RecordedSteps(),
    )
    worker = InProcessWorker(dispatcher, gateway, ledger, received, clock)
    redelivering = asyncio.create_task(worker.redeliver_forever())
    try:
        yield worker
    finally:
        redelivering.cancel()
        ended = await dispatcher.drain(0.2)
        await gateway.close(log_off=ended)
        await ledger.close()
        folder.cleanup()
