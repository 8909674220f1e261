"""What happens to the network between workers and the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from random import Random

from tests.chaos.deployment import Seat
from tests.chaos.strikes.strike import Strike, Target
from tests.private_servers.proxy import Direction, Proxy

#: How long a request may be held by a black hole, in seconds: see `deployment.SETTLING_SECONDS`.
_HOLE = (3.0, 7.0)

_WAYS: dict[str, Callable[[Seat], Proxy]] = {
    "the broker": attrgetter("broker"),
    "Enterprise Manager": attrgetter("enterprise_manager"),
    "the ledger": attrgetter("ledger"),
}

_FAULTS: dict[str, Callable[[Proxy, Random], None]] = {
    "is cut": lambda proxy, _: proxy.cut(),
    "is slow": lambda proxy, rng: proxy.slow(rng.uniform(0.05, 0.4)),
    "is a black hole": lambda proxy, _: proxy.black_hole(*Direction),
    "swallows what is sent": lambda proxy, _: proxy.black_hole(Direction.REQUESTS),
    "swallows the answers": lambda proxy, _: proxy.black_hole(Direction.ANSWERS),
}


def _vital(part: str, fault: str) -> bool:
    return part != "the ledger" and not fault.startswith("swallows")


def _disturbance(
    way: Callable[[Seat], Proxy], cause: Callable[[Proxy, Random], None]
) -> Callable[[Target, Random], None]:
    def disturb(target: Target, rng: Random) -> None:
        seats = rng.choice(([rng.choice(target.deployment.seats)], target.deployment.seats))
        with _healed([way(seat) for seat in seats]) as proxies:
            for proxy in proxies:
                cause(proxy, rng)
            time.sleep(rng.uniform(*_HOLE))

    return disturb


@contextmanager
def _healed(proxies: Sequence[Proxy]) -> Iterator[Sequence[Proxy]]:
    try:
        yield proxies
    finally:
        for proxy in proxies:
            proxy.heal()


STRIKES = tuple(
    Strike(f"the way to {part} {fault}", _disturbance(way, cause), vital=_vital(part, fault))
    for part, way in _WAYS.items()
    for fault, cause in _FAULTS.items()
)
