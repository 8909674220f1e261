"""The clock that leases are measured by.

On PostgreSQL it is the server's clock: all workers ask the same one. On SQLite all workers are on one host. Its time of
day may jump, by NTP or by hand, and leases would end at once, or last for hours; so the time since boot is taken, which
never jumps and goes on while the host is suspended. To look like a time of day, it is counted from the time of day at
which the host seemed to have booted when the first worker of this boot asked; the table `boots` keeps that, so that
all workers count from the same. Where the operating system names no boot, it is the time of day after all.
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
