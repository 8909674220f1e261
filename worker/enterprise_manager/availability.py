"""Whether an Enterprise Manager is available: up, in doubt, or down.

An Enterprise Manager that cannot be reached is down: its listeners are notified, calls fail at once, and it is probed
with growing, jittered pauses until a probe succeeds. If only one resource fails, it is in doubt: `until_up` blocks
until a probe succeeds, and other calls continue unless the probe fails too.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable

import structlog

from worker.unlinks.back_off import BackOff
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import Unavailable

#: The pauses between probes, in seconds, before jitter: doubled from the first to the longest.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0

#: The problem of a probe that ended with an unforeseen error, whose stack trace is in the log.
UNFORESEEN = "the probe ended with an unforeseen error; see enterprise_manager.probe_failed in the log"

log = structlog.get_logger()


class Availability:
    """Whether calls may be made. `probe` raises `Unavailable` as long as they may not."""

    def __init__(self, name: str, clock: Clock, probe: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._clock = clock
        self._probe = probe
        self._listeners: list[Callable[[bool], None]] = []
        self._probing: asyncio.Task[None] | None = None
        self._closed = False
        self._back_off = BackOff(clock, FIRST_PAUSE, LONGEST_PAUSE)
        self._down_since: float | None = None
        self.last_problem: str | None = None

    @property
    def up(self) -> bool:
        """False from the moment it was found down until a probe succeeds."""
        return self._down_since is None

    def on_change(self, listener: Callable[[bool], None]) -> None:
        """Call `listener` on the event loop with False when it goes down, and with True when it is up again."""
        self._listeners.append(listener)

    def require_up(self) -> None:
        """Return if it is up.

        Raises:
            Unavailable: it is down. The error names the last problem.
        """
        if not self.up:
            raise Unavailable(self.last_problem or "not available")

    def went_right(self) -> None:
        """Record a successful call. The next back-off starts with the shortest pause."""
        self._back_off.reset()

    def went_wrong(self, problem: str, *, everywhere: bool) -> None:
        """Record a call that ended with `Unavailable`. Pass `everywhere` if other calls would fail too."""
        if self._closed:
            return
        if everywhere:
            self._go_down(problem)
        elif self.up:
            self.last_problem = problem
            log.warning("enterprise_manager.in_doubt", enterprise_manager=self._name, problem=problem)
        if self._probing is None:
            # The task gets its own context: it serves all unlinks, so its log lines must not have one unlink's fields.
            self._probing = asyncio.create_task(
                self._probe_until_up(), name=f"probe Enterprise Manager {self._name}", context=contextvars.Context()
            )
            self._probing.add_done_callback(self._probed)

    async def probe(self) -> None:
        """Probe once, before any call. If the probe fails, mark it down and probe until it is up. Never raises."""
        problem = await self._problem()
        if problem is not None:
            self.went_wrong(problem, everywhere=True)

    async def until_up(self) -> None:
        """Return at once if it is neither down nor in doubt; otherwise wait for a successful probe."""
        while self._probing is not None:
            await asyncio.wait([self._probing])

    async def close(self) -> None:
        """Stop probing, for good."""
        self._closed = True
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])

    def _probed(self, task: asyncio.Task[None]) -> None:
        self._probing = None
        if not task.cancelled():
            task.result()

    async def _probe_until_up(self) -> None:
        while True:
            await self._clock.sleep(self._back_off.pause())
            problem = await self._problem()
            if problem is None:
                self._come_up()
                return
            self._go_down(problem)

    async def _problem(self) -> str | None:
        """Probe once. None if the probe succeeded."""
        try:
            await self._probe()
        except Unavailable as error:
            return str(error)
        except Exception:  # an exception would end the probes for good
            log.warning("enterprise_manager.probe_failed", enterprise_manager=self._name, exc_info=True)
            return UNFORESEEN
        return None

    def _go_down(self, problem: str) -> None:
        if problem != self.last_problem or self.up:
            log.error("enterprise_manager.down", enterprise_manager=self._name, problem=problem)
        self.last_problem = problem
        if self.up:
            self._down_since = self._clock.monotonic()
            self._notify(up=False)

    def _come_up(self) -> None:
        if self._down_since is None:
            return
        seconds = round(self._clock.monotonic() - self._down_since, 1)
        log.info("enterprise_manager.up", enterprise_manager=self._name, seconds_down=seconds)
        self._down_since = None
        self._notify(up=True)

    def _notify(self, *, up: bool) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            # A separate callback for each listener: a listener that raises does not stop the probes.
            loop.call_soon(listener, up)
