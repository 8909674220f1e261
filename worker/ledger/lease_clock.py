"""The clock that leases are measured by.

On PostgreSQL it is the server's clock, which all workers share. On SQLite all workers are on one host. The host's time
of day may jump, by NTP or because somebody sets it; leases would then end at once, or last for hours. The lease clock
therefore uses the time since boot, which never jumps and continues while the host is suspended. It is added to the time
of day of the boot, as the first worker of this boot computed it and stored it in the table `boots`, so that all workers
count from the same instant. If the operating system does not identify the boot, the time of day is used.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from worker.ledger.tables import EPOCH, boots, to_microseconds, unlinks, unsettled
from worker.unlinks.ports.clock import Clock


class LeaseClock:
    """The clock of leases on SQLite, for one worker.

    Args:
        clock: its monotonic clock counts from the boot of the host, in each process, if there is a `boot`.
        boot: the ID of this boot of the host; None if there is none.
    """

    def __init__(self, clock: Clock, boot: str | None) -> None:
        self._clock = clock
        self._boot = boot
        self._booted_at: int | None = None

    def now(self) -> int:
        """The present in microseconds."""
        if self._booted_at is None:
            return to_microseconds(self._clock.now())
        return self._booted_at + self._since_boot()

    def _since_boot(self) -> int:
        return round(self._clock.monotonic() * 1_000_000)

    def agree(self, connection: Connection) -> None:
        """Count from what the first worker of this boot has written. Leases of an earlier boot are over."""
        if self._boot is None or connection.dialect.name != "sqlite":
            return
        rows = connection.execute(select(boots)).mappings()
        found = {row["boot"]: row["booted_at"] for row in rows}
        if self._boot not in found:
            found[self._boot] = to_microseconds(self._clock.now()) - self._since_boot()
            connection.execute(delete(boots))
            connection.execute(insert(boots).values(boot=self._boot, booted_at=found[self._boot]))
            if len(found) > 1:  # else workers of an earlier version may be at work
                connection.execute(update(unlinks).where(unsettled).values(lease_until=EPOCH))
        self._booted_at = found[self._boot]
