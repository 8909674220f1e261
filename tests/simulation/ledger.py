"""The ledger that ships, on an SQLite database in memory, with a simulated network between its writer and the database.

Each transaction is carried out in one instant of virtual time, in the simulation's own thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy.engine import make_url

from tests.simulation.promises import Observer
from tests.simulation.scenario import Weather
from tests.simulation.world import Process
from worker.clock import SystemClock
from worker.ledger.database import open_engine
from worker.ledger.migrations import migrate
from worker.ledger.tables import lend_clocks
from worker.ledger.transaction import Transaction
from worker.ledger.writer import Write, Writer
from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

#: A transaction that a worker has sent before it dies is still carried out; one that waited for the database is not.
LAST_WORDS_SECONDS = 1.0

T = TypeVar("T")


@cache
def _prepared() -> tuple[Engine, Connection]:
    """The engine of all runs, since it keeps the compiled statements, and a database to copy."""
    engine = open_engine(make_url("sqlite://"), SystemClock())
    connection = engine.connect()
    with connection.begin():
        migrate(connection)
    return engine, connection


def _driver_of(connection: Connection) -> Any:
    return connection.connection.driver_connection


class Database:
    """The database of one run. `clock` measures the leases, as PostgreSQL's own clock does."""

    def __init__(self, clock: Clock) -> None:
        self.engine, prepared = _prepared()
        self.connection = self.engine.connect()
        _driver_of(prepared).backup(_driver_of(self.connection))
        lend_clocks(_driver_of(self.connection), clock, None)


class SimulatedWriter(Writer):
    """The ledger's writer, driven by virtual time instead of a thread."""

    def __init__(
        self,
        database: Database,
        process: Process,
        observer: Observer,
        weather: Weather,
        transaction: Callable[[Connection, float], Transaction],
        clock: Clock,
        available: Callable[[bool], None],
    ) -> None:
        def observed(connection: Connection, began: float) -> Transaction:
            return cast("Transaction", ObservedTransaction(transaction(connection, began), process, observer))

        super().__init__(database.engine, observed, clock, available, "simulation")
        self._connection = database.connection
        self._process = process
        self._weather = weather
        self._sending = False
        self._answers: list[Callable[[], None]] = []

    async def write(
        self,
        carry_out: Callable[[Transaction], T],
        *,
        order: tuple[int, str],
        key: str | None = None,
        reads: bool = False,
        kept: bool = False,
        landed: Callable[[T], None] | None = None,
    ) -> T:
        """As the ledger's writer has it."""
        await self._process.may_die()
        if key is not None:
            self._weather.break_now_and_then()
        self._process.call_soon(self._send)
        result = await super().write(carry_out, order=order, key=key, reads=reads, kept=kept, landed=landed)
        if key is not None:
            self._weather.break_now_and_then()
        return result

    def _send(self) -> None:
        """Send the queued writes in one transaction, unless one is already under way."""
        if self._sending or self._process.dead or self._process.ending or not self._waits:
            return
        self._sending = True
        world = self._process.world
        there, back = self._weather.way_to_database()
        world.after(there, partial(self._arrive, self._take() or (), world.now, back))
        self._process.count_request()

    def _arrive(self, batch: Sequence[Write[Any]], sent: float, back: float) -> None:
        world = self._process.world
        if self._process.dead and world.now - sent > LAST_WORDS_SECONDS:
            return
        self._commit(batch)
        world.after(back, lambda: self._process.deliver(self._answered))

    def _on_loop(self, callback: Callable[[], None]) -> None:
        self._answers.append(callback)

    def _answered(self) -> None:
        answers, self._answers = self._answers, []
        for answer in answers:
            answer()
        self._sending = False
        self._send()

    def _recover(self, batch: Sequence[Write[Any]], error: Exception) -> None:
        """End the run: no drawn fault is raised in a transaction, and trying again would hide this one."""
        del batch
        raise error

    def _hang_up(self) -> None:
        """Keep the connection: it holds the database of all workers."""


class ObservedTransaction:
    """A transaction whose calls are reported to the observer."""

    def __init__(self, transaction: Transaction, process: Process, observer: Observer) -> None:
        self._transaction = transaction
        self._process = process
        self._observer = observer
        self.began = transaction.began
        self.finish = transaction.finish

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """A method of the transaction, observed."""

        def call(*arguments: Any, **options: Any) -> Any:
            try:
                result = getattr(self._transaction, name)(*arguments, **options)
            except Exception as error:
                self._observer.world.note("ledger", f"refuses {name} of {self._process.name}: {error}")
                raise
            self._observer.wrote(self._process, name, arguments, result)
            return result

        return call
