"""What goes wrong, and when, drawn from the seed.

For each kind of part, one strike follows the other; the kinds are struck at the same time. Every strike repairs what it
broke, so that at any time most workers live, and a majority of the broker's nodes does.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from tests.chaos.strikes import at_servers, at_subscribers, at_the_broker, at_the_network, at_workers
from tests.chaos.strikes.strike import Strike, Target

_STRIKES = {
    "workers": at_workers.STRIKES,
    "broker": at_the_broker.STRIKES,
    "servers": at_servers.STRIKES,
    "network": at_the_network.STRIKES,
    "subscribers": at_subscribers.STRIKES,
}

#: Between two strikes at one kind of part, in seconds. An event that is refused too often waits for minutes.
_QUIET = dict.fromkeys(_STRIKES, (1.0, 5.0)) | {"subscribers": (20.0, 60.0)}


class Nemesis:
    """Strikes until its time is over, but each strike that is chosen at least once.

    Args:
        target: what the strikes act on.
        seed: decides on everything but how long repairs take.
        report: called with the name of each strike.
        chosen: which strikes happen.
    """

    def __init__(
        self, target: Target, seed: int, report: Callable[[str], None], chosen: Callable[[Strike], bool]
    ) -> None:
        self._target = target
        self._seed = seed
        self._report = report
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
        chosen = {name: [each for each in strikes if self._chosen(each)] for name, strikes in _STRIKES.items()}
        threads = [
            threading.Thread(target=self._strike_part, args=(name, strikes), name=name, daemon=True)
            for name, strikes in chosen.items()
            if strikes
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._target.deployment.network.heal()
        if self._failures:
            raise self._failures[0]

    def _strike_part(self, name: str, strikes: Sequence[Strike]) -> None:
        rng = Random(f"{self._seed} {name}")  # noqa: S311 - to be repeated, not to be unguessable
        try:
            first = True
            while first or time.monotonic() < self._over:
                for strike in rng.sample(strikes, len(strikes)):
                    if not first and time.monotonic() >= self._over:
                        break
                    time.sleep(rng.uniform(*_QUIET[name]))
                    self._report(strike.name)
                    self.strikes[strike.name] += 1
                    strike.strike(self._target, rng)
                first = False
        except Exception as error:  # noqa: BLE001 - `strike_for` raises it
            self._failures.append(error)
