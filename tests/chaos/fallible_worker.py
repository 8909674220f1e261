"""`unlink-worker run` with a host that fails on demand: no more threads, and a wall clock that jumps.

Run as `python fallible_worker.py FILE`, FILE being JSON with some of the keys of `Ailments`, read again and again. The
program also writes beside it, as `FILE.hold`, the longest time that a delivery was in its hands. The time in which the
process was suspended does not count: it could not do anything.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from worker.broker.intake import QueueIntake
from worker.cli.run import run
from worker.clock import SystemClock

#: How often the file is read, in seconds, and the deliveries are looked at.
_TICK = 0.1

#: A thread that only sleeps and is this late, in seconds, was suspended with its process.
_SUSPENDED_SECONDS = 2.0


class Ailments:
    """What is wrong with the host; nothing, to begin with."""

    #: Whether no thread can be started.
    no_threads = False
    #: By how many seconds the wall clock is wrong.
    clock_off = 0.0

    def read(self, file: Path) -> None:
        """Take over what a file says, if there is one."""
        if file.exists():
            vars(self).clear()
            vars(self).update(json.loads(file.read_text()))


def _make_threads_scarce(ailments: Ailments) -> None:
    start = threading.Thread.start

    def start_or_fail(thread: threading.Thread) -> None:
        if ailments.no_threads:
            structlog.get_logger().warning("chaos.no_thread", name=thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    threading.Thread.start = start_or_fail  # type: ignore[method-assign,assignment] # the host's part is played here


def _make_clock_jump(ailments: Ailments) -> None:
    now = SystemClock.now

    def now_or_then(clock: SystemClock) -> datetime:
        return now(clock) + timedelta(seconds=ailments.clock_off)

    SystemClock.now = now_or_then  # type: ignore[method-assign,assignment] # as above


def _watch_intakes() -> list[Any]:
    """The intakes, each as soon as it is made."""
    intakes: list[Any] = []
    make = QueueIntake.__init__

    def make_and_note(intake: QueueIntake, *positional: Any, **named: Any) -> None:
        make(intake, *positional, **named)
        intakes.append(intake)

    QueueIntake.__init__ = make_and_note  # type: ignore[method-assign,assignment] # as above
    return intakes


class Hold:
    """The longest time that a delivery was held, in seconds, without those in which the process was suspended."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last: float | None = None
        #: When the process was suspended, and for how long.
        self._suspended: list[tuple[float, float]] = []

    def note(self, now: float, taken: Iterable[float]) -> None:
        """Look at the deliveries in hand, by the times at which they were taken; `now` and these are monotonic."""
        if self._last is not None and now - self._last > _SUSPENDED_SECONDS:
            self._suspended.append((self._last, now - self._last))
        self._last = now
        for at in taken:
            asleep = sum(min(seconds, max(since + seconds - at, 0.0)) for since, seconds in self._suspended)
            self.longest = max(self.longest, now - at - asleep)


def _live(ailments: Ailments, file: Path, intakes: list[Any]) -> None:
    hold = Hold()
    while True:
        hold.note(SystemClock().monotonic(), _taken(intakes))
        with suppress(OSError):  # no file can be opened now
            ailments.read(file)
            file.with_suffix(".hold").write_text(f"{hold.longest:.1f}")
        time.sleep(_TICK)


def _taken(intakes: list[Any]) -> list[float]:
    """When each of its deliveries was taken."""
    return [each.taken_at for intake in intakes for each in (*intake._handed_on, *intake._kept)]  # noqa: SLF001


def main(file: Path) -> None:
    """Run the worker; see above."""
    ailments = Ailments()
    threading.Thread(target=_live, args=(ailments, file, _watch_intakes()), daemon=True).start()
    _make_threads_scarce(ailments)
    _make_clock_jump(ailments)
    run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
