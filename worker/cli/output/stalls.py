"""Why awaited commands do not start: their Enterprise Manager is paused, or no worker consumes their queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from worker.cli.output.terminal import local_time, printable
from worker.settings import LedgerClientSettings, SettingsInvalidError, load

if TYPE_CHECKING:
    from worker.broker.client import BrokerClient

#: The time without an event, in seconds, before the first check for a cause, and between further checks.
_QUIET_SECONDS: Final = 3.0
_AGAIN_SECONDS: Final = 10.0


class Stalls:
    """Prints each cause once, while no event arrives.

    Args:
        client: the connection that receives the events.
        enterprise_managers: the Enterprise Managers of the awaited commands.
        report: prints a line.
        look_further: looks for other causes, each time that it is time to look.
    """

    def __init__(
        self,
        client: BrokerClient,
        enterprise_managers: Iterable[str],
        report: Callable[[str], None],
        look_further: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._look_further = look_further
        self._enterprise_managers = sorted(set(enterprise_managers))
        self._report = report
        self._next = time.monotonic() + _QUIET_SECONDS
        self._reported: dict[str, str] = {}

    def look(self, *, quiet: bool) -> None:
        """Look for a cause if it is time. Call it after each wait for an event; `quiet` says that none arrived."""
        now = time.monotonic()
        if not quiet:
            self._next = max(self._next, now + _QUIET_SECONDS)
        elif now >= self._next:
            self._next = now + _AGAIN_SECONDS
            pauses = _pauses()
            for name in self._enterprise_managers:
                reason = pauses.get(name) or self._without_consumer(name)
                if reason is not None and self._reported.get(name) != reason:
                    self._reported[name] = reason
                    self._report(reason)
            self._look_further()

    def _without_consumer(self, enterprise_manager: str) -> str | None:
        if self._client.consumers(enterprise_manager) != 0:
            return None
        return (
            f"No worker consumes the commands of {enterprise_manager} now: it is paused, Enterprise Manager or the "
            "ledger is away, or no worker runs. The commands stay on their queue."
        )


def _pauses() -> dict[str, str]:
    """A line for each paused Enterprise Manager, by the ledger; none if no ledger is configured here."""
    from worker.clock import SystemClock  # noqa: PLC0415 - SQLAlchemy is imported only if no event comes
    from worker.ledger import Inspection, InspectionError  # noqa: PLC0415

    try:
        pauses = Inspection(load(LedgerClientSettings).ledger, SystemClock()).pauses()
    except (SettingsInvalidError, InspectionError):
        return {}
    return {
        pause.enterprise_manager: printable(
            f"{pause.enterprise_manager} was paused {local_time(pause.paused_at)} by {pause.paused_by or 'a user'}"
            f"{f' ({pause.reason})' if pause.reason else ''}. The commands stay on their queue until "
            f"`unlink-worker resume {pause.enterprise_manager}`."
        )
        for pause in pauses
    }
