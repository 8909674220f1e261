"""Which rows are old enough to be deleted, where the clock may be wrong.

Rows carry times of day. A time of day that jumps ahead would make fresh keys look old, so that they are forgotten and
could run again. Therefore a row is deleted only if it is old enough by two measures: by the time of day, and by how
long the host has been running.

On SQLite, `clock_marks` holds what the time of day was after how much running time: a mark at each start of a worker in
a new boot, and about one a day. A row is old enough if it is older than every mark of the last so many days of running
time. The marks are by the time since boot, which does not jump, and only running time counts: after a host was switched
off, keys are kept for longer. Rows from before the first mark are taken for as old as they say.

On PostgreSQL, both the server's time of day and that of the worker must say that a row is old enough.

In no case does the time of day count for more than one day past the newest end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import BigInteger, Connection, func, insert, select

from worker.ledger.tables import CLOCK_IS_SET, Now, clock_marks, to_microseconds, unlinks

if TYPE_CHECKING:
    from sqlalchemy import Row

    from worker.unlinks.ports.clock import Clock

_DAY: Final = 24 * 60 * 60 * 1_000_000

#: A time of day that has gone so much faster or slower than the time since boot has jumped.
_JUMP: Final = 60 * 60 * 1_000_000

_NOW: Final = select(Now(), func.max(unlinks.c.finished_at, type_=BigInteger()))
_MARKS: Final = select(clock_marks).where(clock_marks.c.at > to_microseconds(CLOCK_IS_SET)).order_by(clock_marks.c.id)


class Retention:
    """What is old enough.

    Args:
        clock: the worker's; its monotonic clock counts from the boot of the host, if there is a `boot`.
        boot: the ID of this boot of the host; None if there is none.
    """

    def __init__(self, clock: Clock, boot: str | None) -> None:
        self._clock = clock
        self._boot = boot

    def mark(self, connection: Connection) -> None:
        """Write down the time of day on SQLite, if there is no mark of this boot, the last is old, or it has jumped."""
        if connection.dialect.name != "sqlite":
            return
        last = connection.execute(select(clock_marks).order_by(clock_marks.c.id.desc()).limit(1)).one_or_none()
        now, running = to_microseconds(self._clock.now()), self._running(last)
        if last is not None and last.boot == self._boot:
            passed = running - last.running
            if passed < _DAY and abs(now - last.at - passed) < _JUMP:
                return
        connection.execute(
            insert(clock_marks).values(running=running, at=now, boot=self._boot, since_boot=self._since_boot())
        )

    def oldest_kept(self, connection: Connection, microseconds: int) -> int:
        """Rows of earlier times are older than so many microseconds. Changes nothing."""
        now, newest_end = connection.execute(_NOW).one()
        if newest_end is not None:
            now = min(now, newest_end + _DAY)
        now = min(now, to_microseconds(self._clock.now()))
        if connection.dialect.name != "sqlite":
            return int(now) - microseconds
        marks = connection.execute(_MARKS).all()
        if not marks:
            return int(now) - microseconds
        running, first = self._running(marks[-1]), marks[0]
        before = [mark for mark in marks if mark.running <= running - microseconds]
        # The last mark before that time, too: a row may be from the moment after it.
        limits = [mark.at for mark in marks[max(len(before) - 1, 0) :]]
        if not before:
            limits.append(first.at - (microseconds - (running - first.running)))
        return int(min(now - microseconds, *limits))

    def _running(self, last: Row[tuple[int, int, int, str | None, int]] | None) -> int:
        """How long the host has been running since the first mark, as far as is known."""
        if last is None:
            return 0
        if self._boot is None:  # the monotonic clocks of two processes may not be compared
            passed = to_microseconds(self._clock.now()) - last.at
            return int(last.running + min(max(passed, 0), _DAY))
        since_boot = self._since_boot()
        return int(last.running + (max(since_boot - last.since_boot, 0) if last.boot == self._boot else since_boot))

    def _since_boot(self) -> int:
        return round(self._clock.monotonic() * 1_000_000)
