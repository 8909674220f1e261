"""One worker: its process, its ports, the real core; and what happens to it."""

from __future__ import annotations

from functools import partial

from pydantic import SecretStr

from tests.simulation.astray import LATE
from tests.simulation.broker import HEARTBEAT_SECONDS, Broker, Connection, SimulatedDelivery, SimulatedOutbox
from tests.simulation.enterprise_manager import Server, SimulatedGateway
from tests.simulation.ledger import Database, SimulatedWriter
from tests.simulation.promises import Observer
from tests.simulation.scenario import Scenario, Weather
from tests.simulation.world import Process, ProcessClock, World
from worker.ledger.sql_ledger import SqlLedger
from worker.settings import LedgerSettings
from worker.telemetry.isolation import IsolatedSinks
from worker.telemetry.step_log import StepLog
from worker.unlinks.dispatcher import Dispatcher


class _Ledger(SqlLedger):
    async def look_around(self) -> None:
        """Nothing is paused in a run, nor is there a newer version; reading that would be most transactions of it."""


class SimulatedWorker:
    """A worker, through all its incarnations."""

    def __init__(
        self,
        number: int,
        scenario: Scenario,
        world: World,
        broker: Broker,
        server: Server,
        database: Database,
        observer: Observer,
        weather: Weather,
    ) -> None:
        self._number = number
        self._scenario = scenario
        self._world = world
        self._broker = broker
        self._server = server
        self._database = database
        self._observer = observer
        self._weather = weather
        self._incarnation = 0
        self._draining = False
        self._wall_offset = 0.0
        self.processes: list[Process] = []
        self.start()

    @property
    def process(self) -> Process:
        """The present incarnation, or the last one."""
        return self.processes[-1]

    @property
    def idle(self) -> bool:
        """Whether it runs, and has nothing to do."""
        return not self.process.dead and not self.process.paused and self._dispatcher.in_flight == 0

    # --- its life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process, connected."""
        self._incarnation += 1
        self._draining = False
        updated = self._world.now >= self._scenario.astray.late_at
        self._served = frozenset({"default", LATE} if updated else {"default"})
        name = f"worker-{self._number}"
        if not self._scenario.same_names:
            name += f".{self._incarnation}"
        process = Process(  # type: ignore[abstract]  # it is an event loop as far as the core needs one
            self._world, f"worker-{self._number}.{self._incarnation}", wall_offset=self._wall_offset
        )
        clock = ProcessClock(process, f"{process.name} of {self._scenario.seed}")
        ledger = _Ledger(
            LedgerSettings(url=SecretStr("sqlite://"), lease_seconds=self._scenario.lease_seconds),
            name,
            clock,
            partial(SimulatedWriter, self._database, process, self._observer, self._weather),
        )
        self._dispatcher = Dispatcher(
            ledger=ledger,
            outbox=SimulatedOutbox(self._broker, process, self._observer, self._weather),
            enterprise_managers={
                each: SimulatedGateway(self._server, process, self._observer, self._weather) for each in self._served
            },
            clock=clock,
            rules=self._scenario.rules,
            steps=IsolatedSinks(self._weather, StepLog()),
        )
        in_hand = self._dispatcher._running  # noqa: SLF001 - no port says what a worker is at work on
        self._observer.in_hand[process] = lambda: in_hand
        process.on_death = self._died
        self.processes.append(process)
        process.spawn(ledger.keep_renewing())
        self._world.note(process.name, "STARTED")
        self._connect()

    def _connect(self) -> None:
        dispatcher = self._dispatcher

        def take(delivery: SimulatedDelivery) -> None:
            dispatcher.receive(delivery)

        self._connection = Connection(self.process, take, self._scenario.prefetch, self._served)
        self._broker.connect(self._connection)

    def _died(self) -> None:
        connection = self._connection
        # The operating system closes the connection at once, or the machine is gone and the heartbeat has to notice.
        soon = self._world.chance(0.7)
        self._world.after(0.01 if soon else HEARTBEAT_SECONDS, lambda: self._broker.close(connection))
        self._world.after(1 + self._world.random.random() * 60, self.start)

    # --- what happens to it -----------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Killed, now."""
        self.process.kill()

    def die_at_request(self, count: int) -> None:
        """Killed at its n-th request from now on."""
        self.process.die_later(count)

    def pause(self, seconds: float) -> None:
        """Stopped for so long."""
        process, connection = self.process, self._connection
        if process.dead or process.paused:
            return
        process.pause()

        def miss_heartbeat() -> None:
            if process.paused and connection.open_here:
                self._broker.close(connection)
                process.deliver(lambda: self._cut_at_worker(connection))

        self._world.after(HEARTBEAT_SECONDS, miss_heartbeat)
        self._world.after(seconds, process.resume)

    def cut(self, here: float, at_worker: float) -> None:
        """The consuming connection is lost: the broker and the worker notice after so many seconds."""
        process, connection = self.process, self._connection
        if process.dead or not connection.open_at_worker:
            return
        self._world.note(process.name, "its connection is cut")
        self._world.after(here, lambda: self._broker.close(connection))
        self._world.after(at_worker, lambda: process.deliver(lambda: self._cut_at_worker(connection)))

    def _cut_at_worker(self, connection: Connection) -> None:
        if connection.open_at_worker:
            self._world.note(connection.process.name, "finds its connection lost")
            connection.open_at_worker = False
            self._broker_notices(connection)
            self._world.after(
                self._world.random.choice((1, 5, 60)) * self._world.random.random(),
                lambda: self._connect_again(connection),
            )

    def _broker_notices(self, connection: Connection) -> None:
        self._world.after(self._world.travel(), lambda: self._broker.close(connection))

    def _connect_again(self, connection: Connection) -> None:
        process = connection.process
        if process is self.process and not process.dead and not self._draining and self._connection is connection:
            self._connect()

    def drain(self, seconds: float) -> None:
        """Told to stop, and started again."""
        process, dispatcher = self.process, self._dispatcher
        if process.dead or process.paused or self._draining:
            return
        self._draining = True
        self._connection.prefetch = 0
        self._world.note(process.name, "DRAINING")

        async def drain() -> None:
            await dispatcher.drain(seconds)
            self._world.note(process.name, "DRAINED")
            self._world.after(0, process.kill)

        process.spawn(drain())

    def jump(self, seconds: float) -> None:
        """Its wall clock is set."""
        self._wall_offset += seconds
        self.process.wall_offset = self._wall_offset
        self._world.note(self.process.name, f"wall clock jumps by {seconds:.0f} s")
