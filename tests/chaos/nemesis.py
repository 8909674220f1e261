"""What goes wrong, and when: lanes of strikes beside each other, drawn from the seed.

Each lane strikes at one kind of part, one strike after the other, and every strike repairs what it broke: so that at
any time most workers live, and a majority of the broker's nodes does.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import NamedTuple

from tests.chaos.arena import LEASE_SECONDS, Arena, Seat
from tests.chaos.proxy import Direction, Proxy
from worker.sandbox.errors import PartFailedError
from worker.sandbox.simulated_enterprise_manager import Fault

#: Between two strikes of a lane, in seconds.
_QUIET = (1.0, 5.0)

#: How long a request may be held by a black hole, in seconds: see `arena.SETTLING_SECONDS`.
_HOLE = (3.0, 7.0)


class Strike(NamedTuple):
    """Something that goes wrong, and is repaired before it returns."""

    name: str
    strike: Callable[[Random], None]


class Nemesis:
    """Strikes until its time is over, but each strike of its decks at least once.

    Args:
        arena: whose parts suffer.
        seed: decides on everything but how long repairs take.
        tell: is told each strike as it happens.
        thorough: whether all strikes that there are happen, or those alone without which the suite proves little.
    """

    def __init__(self, arena: Arena, seed: int, tell: Callable[[str], None], *, thorough: bool) -> None:
        self._arena = arena
        self._seed = seed
        self._tell = tell
        self._thorough = thorough
        self._over = 0.0
        self._failures: list[BaseException] = []
        self.strikes: Counter[str] = Counter()

    def strike_for(self, seconds: float) -> None:
        """Strike for about so long; returns when all is repaired.

        Raises:
            PartFailedError: something could not be repaired.
        """
        self._over = time.monotonic() + seconds
        lanes = {"workers": self._workers(), "servers": self._servers(), "network": self._network()}
        threads = [threading.Thread(target=self._lane, args=lane, name=lane[0], daemon=True) for lane in lanes.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._arena.network.heal()
        if self._failures:
            raise self._failures[0]

    def _lane(self, name: str, deck: Sequence[Strike]) -> None:
        rng = Random(f"{self._seed} {name}")  # noqa: S311 - to be repeated, not to be unguessable
        try:
            first = True
            while first or time.monotonic() < self._over:
                for strike in rng.sample(deck, len(deck)):
                    if not first and time.monotonic() >= self._over:
                        break
                    time.sleep(rng.uniform(*_QUIET))
                    self._tell(strike.name)
                    self.strikes[strike.name] += 1
                    strike.strike(rng)
                first = False
        except (PartFailedError, OSError) as error:
            self._failures.append(error)

    # --- workers ---

    def _workers(self) -> list[Strike]:
        must = [
            Strike("a worker is killed and replaced", self._kill),
            Strike("a worker is paused for longer than its lease", self._pause),
        ]
        may = [
            Strike("a worker is paused for longer than its lease, and killed", self._pause_and_kill),
            Strike("a worker is told to stop, and replaced", self._stop),
            Strike("two workers are killed at once", self._kill_two),
        ]
        return must + (may if self._thorough else [])

    def _kill(self, rng: Random) -> None:
        seat = rng.choice(self._arena.seats)
        seat.worker.kill()
        time.sleep(rng.uniform(0, LEASE_SECONDS))
        self._arena.replace(seat)

    def _kill_two(self, rng: Random) -> None:
        seats = rng.sample(self._arena.seats, min(2, len(self._arena.seats)))
        for seat in seats:
            seat.worker.kill()
        for seat in seats:
            self._arena.replace(seat)

    def _pause(self, rng: Random) -> None:
        worker = rng.choice(self._arena.seats).worker
        worker.suspend()
        time.sleep(LEASE_SECONDS * rng.uniform(1.2, 3))
        worker.resume()

    def _pause_and_kill(self, rng: Random) -> None:
        seat = rng.choice(self._arena.seats)
        seat.worker.suspend()
        time.sleep(LEASE_SECONDS * rng.uniform(1.2, 2))
        seat.worker.kill()
        self._arena.replace(seat)

    def _stop(self, rng: Random) -> None:
        seat = rng.choice(self._arena.seats)
        seat.worker.stop()
        self._arena.replace(seat)

    # --- servers ---

    def _servers(self) -> list[Strike]:
        must = [
            Strike("a node of the broker is killed and restarted", self._kill_node),
            Strike("PostgreSQL is restarted", self._restart_postgresql),
        ]
        may = [
            Strike("PostgreSQL is killed and restarted", self._kill_postgresql),
            Strike("Enterprise Manager is restarted, and forgets sessions and tasks", self._restart_enterprise_manager),
            Strike("Enterprise Manager is away", self._stop_enterprise_manager),
            Strike("all logon sessions expire", lambda _: self._arena.enterprise_manager.expire_sessions()),
            Strike("Enterprise Manager acts on DELETEs, and its answers are lost", self._lose_answers),
            Strike("Enterprise Manager answers with 503", self._overload),
        ]
        return must + (may if self._thorough else [])

    def _kill_node(self, rng: Random) -> None:
        node = rng.choice(self._arena.cluster.nodes)
        node.kill()
        time.sleep(rng.uniform(2, 8))
        node.start()

    def _restart_postgresql(self, rng: Random) -> None:
        self._arena.postgresql.stop()
        time.sleep(rng.uniform(0, 1.5 * LEASE_SECONDS))
        self._arena.postgresql.start()

    def _kill_postgresql(self, rng: Random) -> None:
        self._arena.postgresql.kill()
        time.sleep(rng.uniform(0, LEASE_SECONDS))
        self._arena.postgresql.start()

    def _restart_enterprise_manager(self, rng: Random) -> None:
        del rng
        self._arena.enterprise_manager.restart()

    def _stop_enterprise_manager(self, rng: Random) -> None:
        self._arena.enterprise_manager.refuse_connections()
        time.sleep(rng.uniform(2, 8))
        self._arena.enterprise_manager.accept_connections()

    def _lose_answers(self, rng: Random) -> None:
        self._meet(rng, Fault(kind="acts_and_drops_connection", method="DELETE", path="/linkedBackup", times=None))

    def _overload(self, rng: Random) -> None:
        self._meet(rng, Fault(kind="status", status=503, retry_after="1", times=None))

    def _meet(self, rng: Random, fault: Fault) -> None:
        """Let all requests meet a fault for a while; a number of them would outlast the trial where few are sent."""
        self._arena.enterprise_manager.inject(fault)
        time.sleep(rng.uniform(2, 6))
        self._arena.enterprise_manager.clear_faults()

    # --- the network ---

    def _network(self) -> list[Strike]:
        ways: dict[str, Callable[[Seat], Proxy]] = {
            "the broker": lambda seat: seat.broker,
            "Enterprise Manager": lambda seat: seat.enterprise_manager,
            "the ledger": lambda seat: seat.ledger,
        }
        faults: dict[str, Callable[[Proxy, Random], None]] = {
            "is cut": lambda proxy, _: proxy.cut(),
            "is slow": lambda proxy, rng: proxy.slow(rng.uniform(0.05, 0.4)),
            "is a black hole": lambda proxy, _: proxy.black_hole(*Direction),
            "swallows what is sent": lambda proxy, _: proxy.black_hole(Direction.REQUESTS),
            "swallows the answers": lambda proxy, _: proxy.black_hole(Direction.ANSWERS),
        }
        if not self._thorough:
            ways.pop("the ledger")
            faults = {name: faults[name] for name in ("is cut", "is slow", "is a black hole")}
        strikes = [
            Strike(f"the way to {part} {fault}", self._disturbance(way, cause))
            for part, way in ways.items()
            for fault, cause in faults.items()
        ]
        return [*strikes, Strike("publisher and observer are cut off", self._cut_outsiders)]

    def _disturbance(
        self, way: Callable[[Seat], Proxy], cause: Callable[[Proxy, Random], None]
    ) -> Callable[[Random], None]:
        def disturb(rng: Random) -> None:
            seats = rng.choice(([rng.choice(self._arena.seats)], self._arena.seats))
            with _healed([way(seat) for seat in seats]) as proxies:
                for proxy in proxies:
                    cause(proxy, rng)
                time.sleep(rng.uniform(*_HOLE))

        return disturb

    def _cut_outsiders(self, rng: Random) -> None:
        with _healed([self._arena.outsiders_way]) as (way,):
            way.cut()
            time.sleep(rng.uniform(0.5, 3))


@contextmanager
def _healed(proxies: Sequence[Proxy]) -> Iterator[Sequence[Proxy]]:
    try:
        yield proxies
    finally:
        for proxy in proxies:
            proxy.heal()
