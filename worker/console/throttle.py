"""Throttling of logins: after each wrong password the next login has to wait longer.

An IPv6 client is counted by its /64: it may use any address in it.

A browser in which the user has signed in before is counted by itself, so that nobody is locked out by others who guess.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from worker.console.addresses import block_of
from worker.unlinks.ports.clock import Clock

#: How many failures have no effect: from one address for one name, from one address, for one name.
_FREE: Final = (5, 20, 50)
_LONGEST_SECONDS: Final = 300.0
#: How long after the last failure the failures are forgotten.
_MEMORY_SECONDS: Final = 900.0
_MOST: Final = 10_000


class Throttle:
    """Counts failed logins, in memory: each console has its own count."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[tuple[str, ...], tuple[int, float]] = OrderedDict()

    def seconds_to_wait(self, name: str, address: str, known: str | None = None) -> float:
        """How long logins of this name from this address are refused; 0 if they are checked now.

        `known`: the mark of a browser in which the user has signed in before.
        """
        now = self._clock.monotonic()
        waits = [0.0]
        for key, free in zip(_keys(name, address, known), _FREE, strict=False):
            count, last = self._failures.get(key, (0, 0.0))
            if count >= free:
                waits.append(last + min(2.0 ** min(count - free + 1, 10), _LONGEST_SECONDS) - now)
        return max(waits)

    def failed(self, name: str, address: str, known: str | None = None) -> None:
        """Count a login as failed. Called before the password is compared, so that simultaneous logins count, too."""
        now = self._clock.monotonic()
        for key in _keys(name, address, known):
            count, last = self._failures.pop(key, (0, 0.0))
            self._failures[key] = (count + 1 if now - last < _MEMORY_SECONDS else 1, now)
        while len(self._failures) > _MOST:
            self._failures.popitem(last=False)

    def succeeded(self, name: str, address: str, known: str | None = None) -> None:
        """Forget the failures of this name from this address. Failures from other addresses still count."""
        keys = _keys(name, address, known)
        self._failures.pop(keys[0], None)
        for key in keys[1:]:
            if key in self._failures:
                count, last = self._failures[key]
                self._failures[key] = (count - 1, last)


def _keys(name: str, address: str, known: str | None) -> tuple[tuple[str, ...], ...]:
    if known is not None:
        return (("known", known),)
    address = block_of(address)
    return ("both", name, address), ("address", address), ("name", name)
