"""The leases of this process, as known without a query.

A lease lasts `lease_seconds` from the moment at which the database last wrote it, and the database did so after the
transaction began here. So until `lease_seconds` after that beginning, by the monotonic clock, no other worker can have
taken the key over. A margin is subtracted, because clocks run at different speeds.

The monotonic clock of a virtual machine stands still while the machine is stopped. The time that the time of day has
gained on it since then is therefore subtracted, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.ledger import Lease

#: The part of a lease that is subtracted as a margin.
MARGIN: Final = 0.1

#: How many times a lease is renewed in its length. No lease is lost if the database is away for less than the length
#: minus one interval and one pause between tries; see docs/decisions/0006-a-lease-of-eleven-seconds.md.
RENEWALS_IN_A_LEASE: Final = 22
#: How many times in that length the worker reads the pauses, and whether it may still use the schema.
LOOKS_IN_A_LEASE: Final = 3

#: How long after an outage of the database this worker leaves leases that have run out to their holders, in seconds.
#: The others have had no database either, and renew their leases as soon as they notice that it is back.
GRACE_SECONDS: Final = 3.0


@dataclass(slots=True)
class _Held:
    token: int
    certain_until: float
    ahead: float


class Leases:
    """The leases of one worker, in this process. For the event loop only: not safe in threads."""

    def __init__(self, clock: Clock, lease_seconds: float) -> None:
        self._clock = clock
        self._certain_seconds = lease_seconds * (1 - MARGIN)
        self._held: dict[str, _Held] = {}
        self._unused: dict[Lease, float] = {}

    def had(self, lease: Lease, began: float) -> None:
        """The lease was claimed, in a transaction that began at `began`."""
        self._held[lease.key] = _Held(lease.token, began + self._certain_seconds, self._ahead())

    def renewed(self, tokens: Mapping[str, int], locked: Mapping[str, int], began: float) -> list[str]:
        """Exactly the leases of `tokens` were renewed; one that is held here and in neither was taken over.

        Those of `locked` could not be renewed. Return the keys of those that have lasted for half their time.
        """
        certain_until, ahead = began + self._certain_seconds, self._ahead()
        self._held = {key: held for key, held in self._held.items() if held.token in {tokens.get(key), locked.get(key)}}
        half_over = began + self._certain_seconds / 2
        endangered = []
        for key, held in self._held.items():
            if key in tokens:
                if certain_until > held.certain_until:
                    held.certain_until, held.ahead = certain_until, ahead
            elif held.certain_until < half_over:
                endangered.append(key)
        return endangered

    def unused(self, tokens: Mapping[str, int], began: float) -> list[Lease]:
        """The renewed leases that were not held here for as long as a lease lasts, each once in that time.

        A release may have failed, or a claim whose answer was lost. Renewed without end, they would keep other workers
        from the key. To be called after `renewed`.
        """
        unheld = (Lease(key, token) for key, token in tokens.items() if key not in self._held)
        self._unused = {lease: self._unused.get(lease, began) for lease in unheld}
        over = [lease for lease, since in self._unused.items() if since + self._certain_seconds <= began]
        for lease in over:
            self._unused[lease] = began
        return over

    def __len__(self) -> int:
        """The number of leases."""
        return len(self._held)

    def holds(self, key: str) -> bool:
        """Whether there is a lease for the key, even one that may be over."""
        return key in self._held

    def end(self, lease: Lease) -> None:
        """The lease is over."""
        held = self._held.get(lease.key)
        if held is not None and held.token == lease.token:
            del self._held[lease.key]

    def end_all(self) -> None:
        """All leases are over."""
        self._held.clear()

    def alive(self, lease: Lease) -> bool:
        """Whether no other worker can have the key yet."""
        return self.seconds_left(lease) > 0

    def seconds_left(self, lease: Lease) -> float:
        """For how many seconds no other worker can have the key."""
        held = self._held.get(lease.key)
        if held is None or held.token != lease.token:
            return 0.0
        stopped = max(self._ahead() - held.ahead, 0.0)
        return max(held.certain_until - self._clock.monotonic() - stopped, 0.0)

    def _ahead(self) -> float:
        """How much the time of day is ahead of the monotonic clock."""
        return self._clock.now().timestamp() - self._clock.monotonic()
