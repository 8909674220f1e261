"""Connects the parts to a worker by its settings, and runs and stops it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import uuid
from collections.abc import Coroutine
from functools import partial

import structlog

from contracts.commands import UNKNOWN_NAME
from worker import memory
from worker.broker.broker import Broker
from worker.broker.delivery import BrokerDelivery
from worker.clock import SystemClock
from worker.enterprise_manager import Gateway
from worker.ledger.database import problem_in
from worker.ledger.sql_ledger import SqlLedger
from worker.policy_file import policy_in
from worker.presence import Presence
from worker.settings import Settings
from worker.telemetry.instruments import Telemetry
from worker.telemetry.tracing import current_trace_id, outgoing_headers
from worker.unlinks.dispatcher import Dispatcher
from worker.unlinks.policy import Policy
from worker.unlinks.rules import Pace, Rules

log = structlog.get_logger()

#: The exit status after a second signal to stop: the shell's for a process ended by SIGTERM.
ENDED_AT_ONCE = 128 + signal.SIGTERM

#: How often the new objects are searched for cycles besides, in seconds: a worker without commands makes few, and would
#: keep a large one in a cycle for hours. It costs 1 ms for each hundred unlinks that have begun since.
GC_SECONDS = 10.0

#: How often each worker deletes old keys, in seconds, before jitter.
PRUNE_SECONDS = 6 * 3600.0

#: The pause before each worker looks for keys without search terms, and between two parts of them; as above.
WALK_PAUSE_SECONDS = 60.0
WALK_SECONDS = 0.2

_AWAY = "enterprise manager away"
_NO_LEDGER = "ledger away"
_BY_COMMAND = "paused by command"


class Worker:
    """One worker process.

    Raises:
        SettingsInvalidError: a setting that cannot be used, such as a CA file without a certificate, or a policy
            that cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        policy = policy_in(settings.policy_file)
        clock = self._clock = SystemClock()
        self.telemetry = Telemetry(settings, self._name, clock)
        self.ledger = SqlLedger(settings.ledger, self._name, clock, trace_id=current_trace_id)
        self.gateways = {
            name: Gateway(name, each, clock, self.telemetry.observer(name))
            for name, each in settings.enterprise_managers.items()
        }
        self.broker = Broker(
            settings.broker,
            clock,
            queues={name: each.max_in_flight for name, each in settings.enterprise_managers.items()},
            reply_to=settings.reply_to,
            deliver=self._deliver,
            event_headers=outgoing_headers,
            forwarders=_forwarders(settings, policy),
        )
        self.dispatcher = Dispatcher(
            ledger=self.ledger,
            outbox=self.broker.outbox,
            enterprise_managers=self.gateways,
            clock=clock,
            rules=_rules(settings, policy),
            steps=self.telemetry,
        )
        self.telemetry.look_at(self.broker, self.ledger, self.gateways, self.dispatcher)
        self._presence = Presence(
            name=self._name,
            ledger=self.ledger,
            gateways=self.gateways,
            in_flight=lambda: self.dispatcher.in_flight,
            clean=self.telemetry.clean,
            clock=clock,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain. If a part becomes unavailable meanwhile, wait for it.

        Raises:
            SettingsInvalidError: the probes' address cannot be listened on.
        """
        with self.telemetry.serve():
            watch = asyncio.create_task(self.telemetry.health.keep_watch(), name="watch over the loop")
            # From the first: most of what errors leave is of a worker that does not reach its broker.
            searching = asyncio.create_task(_search_for_cycles_forever())
            try:
                await self._run(stop)
            finally:
                watch.cancel()
                searching.cancel()
                await self.telemetry.close()

    async def _run(self, stop: asyncio.Event) -> None:
        log.info("worker.starting", worker=self._name, enterprise_managers=sorted(self.gateways))
        for name, gateway in self.gateways.items():
            gateway.on_availability(partial(self._enterprise_manager_changed, name))
        self.ledger.on_availability(self._ledger_changed)
        self.ledger.on_paused(self._paused_changed)
        await _unless(stop, self._start())
        background = [
            asyncio.create_task(self._prune_forever()),
            asyncio.create_task(self._walk_forever()),
            asyncio.create_task(self._presence.report_forever()),
        ]
        await stop.wait()
        for task in background:
            task.cancel()
        await self._drain()

    async def _start(self) -> None:
        await self.ledger.start()
        # A wrong password is then reported at the start, and not with the first command.
        probing = [asyncio.create_task(gateway.probe()) for gateway in self.gateways.values()]
        await self.broker.start()
        log.info("worker.started", worker=self._name)
        await asyncio.gather(*probing)

    async def _prune_forever(self) -> None:
        """Delete settled keys whose retention has passed. Every worker does it, at different times."""
        while True:
            await asyncio.sleep(self._clock.jitter(PRUNE_SECONDS))
            try:
                forgotten = await self.ledger.prune(self._settings.ledger.retention_days)
            except Exception as error:  # noqa: BLE001 - after any error it is tried again
                log.warning("ledger.prune_failed", problem=problem_in(error))
                continue
            if forgotten:
                log.info("ledger.pruned", keys=forgotten, older_than_days=self._settings.ledger.retention_days)

    async def _walk_forever(self) -> None:
        """Make keys of older versions searchable, some at a time, beside the unlinks."""
        while True:
            try:
                more = await self.ledger.walk()
            except Exception as error:  # noqa: BLE001 - after any error it is tried again
                log.warning("ledger.walk_failed", problem=problem_in(error))
                more = False
            await asyncio.sleep(self._clock.jitter(WALK_SECONDS if more else WALK_PAUSE_SECONDS))

    async def _drain(self) -> None:
        self.telemetry.health.draining = True
        self._presence.draining = True
        reporting = asyncio.create_task(self._presence.report_forever())
        seconds = self._settings.drain_seconds
        log.info("worker.draining", in_flight=self.dispatcher.in_flight, seconds=seconds)
        await self.broker.stop_consuming()
        all_ended = await self.dispatcher.drain(seconds)
        await self.broker.close()
        reporting.cancel()
        await self.ledger.release_all()
        await self.ledger.close()
        # With a task still running, its logon session is left to expire: logging off might end the task.
        await asyncio.gather(*(gateway.close(log_off=all_ended) for gateway in self.gateways.values()))
        log.info("worker.stopped", worker=self._name, all_ended=all_ended)

    def _deliver(self, delivery: BrokerDelivery) -> None:
        self.dispatcher.receive(delivery)

    def _enterprise_manager_changed(self, name: str, up: bool) -> None:  # noqa: FBT001 - the listener's shape
        self._pause_or_resume(name, _AWAY, up=up)

    def _ledger_changed(self, up: bool) -> None:  # noqa: FBT001 - the listener's shape
        for name in (*self.gateways, UNKNOWN_NAME):
            self._pause_or_resume(name, _NO_LEDGER, up=up)

    def _paused_changed(self, paused: frozenset[str]) -> None:
        for name in self.gateways:
            self._pause_or_resume(name, _BY_COMMAND, up=name not in paused)

    def _pause_or_resume(self, enterprise_manager: str, why: str, *, up: bool) -> None:
        if up:
            self.broker.resume(enterprise_manager, why)
        else:
            self.broker.pause(enterprise_manager, why)


async def _search_for_cycles_forever() -> None:
    """Free the unreachable cycles among the objects that are new since the last search."""
    while True:
        await asyncio.sleep(GC_SECONDS)
        gc.collect(1)


def _forwarders(settings: Settings, policy: Policy | None) -> set[str]:
    """The broker users, besides the worker's own, whose statement about a message's sender is trusted."""
    named = {each.strip() for each in settings.forwarders.split(",") if each.strip()}
    return named | set(policy.forwarders if policy is not None else ())


def _rules(settings: Settings, policy: Policy | None) -> Rules:
    return Rules(
        hold_seconds=settings.broker.hold_seconds,
        max_attempts=settings.max_attempts,
        paces={
            name: Pace(
                poll_interval=each.poll_interval_seconds, verify=each.verify_seconds, settling=each.settling_seconds
            )
            for name, each in settings.enterprise_managers.items()
        },
        policy=policy,
    )


async def _unless(stop: asyncio.Event, starting: Coroutine[None, None, None]) -> None:
    """Start up; stop doing so if the worker is to stop before all parts are available."""
    start = asyncio.create_task(starting)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({start, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not start.done():
        start.cancel()
        await asyncio.wait({start})
    elif not stop.is_set():
        start.result()


def run(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT: the first drains, a second ends at once."""
    memory.prepare()
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        log.info("worker.signalled", signal=number.name)
        if stop.is_set():
            os._exit(ENDED_AT_ONCE)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await Worker(settings).run(stop)
