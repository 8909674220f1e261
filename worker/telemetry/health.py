"""Liveness and readiness of the worker.

The worker is live if its event loop runs and if every queue that it should consume has a consumer on an open channel.
An unavailable part (broker, ledger, Enterprise Manager) does not require a restart: the worker waits for it, and is not
ready meanwhile.

The event loop records its heartbeat and the missing consumers. The HTTP server's thread answers the probes, so that
they are answered even if the loop is blocked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

#: How often the loop records its heartbeat, in seconds.
BEAT_SECONDS: Final = 0.5

#: The problem that is reported if the database is not available.
_NO_ANSWER: Final = "the database does not answer; the log (ledger.database_lost) says why"


@dataclass(frozen=True, slots=True)
class GracePeriods:
    """How long, in seconds, a condition may last before the worker counts as not live.

    loop: the event loop does not run. Longer than any callback on the loop.
    consumer: a consumer is missing while the connection is open. Longer than the sum of an attempt to register the
        consumer and the longest back-off after it, which take up to half a minute each.
    """

    loop: float = 20
    consumer: float = 120


class BrokerState(Protocol):
    """The state of the broker that `Health` reads."""

    @property
    def up(self) -> bool:
        """Whether it is connected."""
        ...

    @property
    def consuming(self) -> frozenset[str]:
        """The Enterprise Managers with a consumer registered on an open channel."""
        ...

    @property
    def wanted(self) -> frozenset[str]:
        """The Enterprise Managers that should have a consumer."""
        ...

    @property
    def last_problem(self) -> str | None:
        """The reason why the broker is not available."""
        ...


class LedgerState(Protocol):
    """The state of the ledger that `Health` reads."""

    @property
    def up(self) -> bool:
        """Whether the last query was answered."""
        ...


class EnterpriseManagerState(Protocol):
    """The state of an Enterprise Manager that `Health` reads."""

    @property
    def up(self) -> bool:
        """Whether it is available, according to the latest calls and probes."""
        ...

    @property
    def last_problem(self) -> str | None:
        """The last problem."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a probe: whether it succeeded, and the state of each part."""

    good: bool
    parts: Mapping[str, Any]


class Health:
    """The results for `/livez` and `/readyz`.

    Args:
        clean: removes secrets from a text. Problems may quote text from other systems.
    """

    def __init__(
        self,
        *,
        broker: BrokerState,
        ledger: LedgerState,
        enterprise_managers: Mapping[str, EnterpriseManagerState],
        monotonic: Callable[[], float],
        clean: Callable[[str], str],
        grace: GracePeriods | None = None,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._enterprise_managers = enterprise_managers
        self._monotonic = monotonic
        self._clean = clean
        self._grace = grace or GracePeriods()
        self._last_beat = monotonic()
        self._missing_since: Mapping[str, float] = {}
        self.draining = False

    async def keep_watch(self) -> NoReturn:
        """Record heartbeats and missing consumers until cancelled. Run it on the worker's event loop."""
        while True:
            self._last_beat = self._monotonic()
            self._missing_since = self._missing(self._last_beat)
            await asyncio.sleep(BEAT_SECONDS)

    def _missing(self, now: float) -> Mapping[str, float]:
        if not self._broker.up:
            return {}
        return {name: self._missing_since.get(name, now) for name in self._broker.wanted - self._broker.consuming}

    # --- from any thread --------------------------------------------------------------------------------------------

    def live(self) -> Report:
        """Whether the event loop runs and no consumer is missing, within the grace periods."""
        now = self._monotonic()
        still = max(now - self._last_beat, 0.0)
        missing = {name: now - since for name, since in self._missing_since.items()}
        parts = {
            "loop": _part(still <= self._grace.loop, f"the event loop has not run for {still:.0f} s"),
            "consumers": _part(
                all(seconds <= self._grace.consumer for seconds in missing.values()),
                "connected, and yet no consumer on the queue of "
                + ", ".join(f"{name} for {seconds:.0f} s" for name, seconds in sorted(missing.items())),
            ),
        }
        return Report(_all_good(parts), parts)

    def ready(self) -> Report:
        """Whether the worker can work. One available Enterprise Manager is enough: they do not affect each other."""
        managers = {
            name: _part(each.up, self._clean(each.last_problem or "not available"))
            for name, each in self._enterprise_managers.items()
        }
        parts = {
            "broker": _part(self._broker.up, self._clean(self._broker.last_problem or "not connected yet")),
            "ledger": _part(self._ledger.up, _NO_ANSWER),
            "drain": _part(not self.draining, "stopping: it takes no new commands"),
        }
        good = _all_good(parts) and any(manager["ok"] for manager in managers.values())
        return Report(good, {**parts, "enterprise_managers": managers})


def _part(ok: bool, problem: str) -> dict[str, Any]:  # noqa: FBT001 - the calls form a table
    return {"ok": True} if ok else {"ok": False, "problem": problem}


def _all_good(parts: Mapping[str, Mapping[str, Any]]) -> bool:
    return all(part["ok"] for part in parts.values())
