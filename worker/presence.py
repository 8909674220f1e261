"""The worker's status row in the ledger, written every ten seconds, for the console and the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import structlog

from worker.ledger.database import problem_in
from worker.ledger.presence import ManagerState, WorkerState
from worker.ledger.sql_ledger import SqlLedger
from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    from worker.enterprise_manager import Gateway

#: How often, in seconds.
REPORT_SECONDS: Final = 10.0

log = structlog.get_logger()


class Presence:
    """Writes the status row of one worker.

    Args:
        name: the worker's name.
        ledger: where it is written.
        gateways: its Enterprise Managers.
        in_flight: how many deliveries it works on.
        clean: takes secrets out of a text.
        clock: the time.
    """

    def __init__(
        self,
        *,
        name: str,
        ledger: SqlLedger,
        gateways: Mapping[str, Gateway],
        in_flight: Callable[[], int],
        clean: Callable[[str], str],
        clock: Clock,
    ) -> None:
        self._name = name
        self._ledger = ledger
        self._gateways = gateways
        self._in_flight = in_flight
        self._clean = clean
        self._clock = clock
        self._version = version("unlink-worker")
        self._since: dict[str, datetime] = dict.fromkeys(gateways, clock.now())
        self.draining = False
        for enterprise_manager, gateway in gateways.items():
            gateway.on_availability(partial(self._changed, enterprise_manager))

    async def report_forever(self) -> None:
        """Write the row every `REPORT_SECONDS`, until cancelled. While the ledger is away, this waits."""
        while True:
            try:
                await self._ledger.report_status(self.state())
            except Exception as error:  # noqa: BLE001 - after any error it is tried again
                log.warning("ledger.presence_failed", problem=problem_in(error))
            await self._clock.sleep(REPORT_SECONDS)

    def state(self) -> WorkerState:
        """How the worker is now."""
        return WorkerState(
            name=self._name,
            version=self._version,
            in_flight=self._in_flight(),
            draining=self.draining,
            enterprise_managers={
                name: ManagerState(each.up, self._since[name], self._problem(each))
                for name, each in self._gateways.items()
            },
        )

    def _problem(self, gateway: Gateway) -> str | None:
        return None if gateway.up or gateway.last_problem is None else self._clean(gateway.last_problem)

    def _changed(self, enterprise_manager: str, up: bool) -> None:  # noqa: FBT001 - the listener's shape
        del up
        self._since[enterprise_manager] = self._clock.now()
