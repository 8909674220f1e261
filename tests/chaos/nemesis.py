"""What goes wrong, and when: lanes of strikes beside each other, drawn from the seed.

Each lane strikes at one kind of part, one strike after the other, and every strike repairs what it broke: so that at
any time most workers live, and a majority of the broker's nodes does.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from tests.chaos.strikes import at_servers, at_subscribers, at_the_broker, at_the_network, at_workers
from tests.chaos.strikes.strike import Scene, Strike

_LANES = {
    "workers": at_workers.STRIKES,
    "broker": at_the_broker.STRIKES,
    "servers": at_servers.STRIKES,
    "network": at_the_network.STRIKES,
    "subscribers": at_subscribers.STRIKES,
}

#: Between two strikes of a lane, in seconds. An event that is refused too often waits for minutes.
_QUIET = dict.fromkeys(_LANES, (1.0, 5.0)) | {"subscribers": (20.0, 60.0)}


class Nemesis:
    """Strikes until its time is over, but each strike that is chosen at least once.

    Args:
        scene: whose parts suffer.
        seed: decides on everything but how long repairs take.
        tell: is told each strike as it happens.
        chosen: which strikes happen.
    """

    def __init__(self, scene: Scene, seed: int, tell: Callable[[str], None], chosen: Callable[[Strike], bool]) -> None:
        self._scene = scene
        self._seed = seed
        self._tell = tell
        self._chosen = chosen
        self._over = 0.0
        self._failures: list[BaseException] = []
        self.strikes: Counter[str] = Counter()

    def strike_for(self, seconds: float) -> None:
        """Strike for about so long; returns when all is repaired.

        Raises:
            Exception: something could not be broken, or not be repaired.
        """
        self._over = time.monotonic() + seconds
        decks = {name: [each for each in strikes if self._chosen(each)] for name, strikes in _LANES.items()}
        threads = [
            threading.Thread(target=self._lane, args=(name, deck), name=name, daemon=True)
            for name, deck in decks.items()
            if deck
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._scene.arena.network.heal()
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
                    time.sleep(rng.uniform(*_QUIET[name]))
                    self._tell(strike.name)
                    self.strikes[strike.name] += 1
                    strike.strike(self._scene, rng)
                first = False
        except Exception as error:  # noqa: BLE001 - `strike_for` raises it
            self._failures.append(error)
