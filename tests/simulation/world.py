"""Virtual time, and processes that live in it: each an event loop of its own that can be paused and killed.

Nothing here reads a clock, opens a file or starts a thread. Time stands still while callbacks run, and jumps to the
next thing that is due when there is nothing left to run.

More than 400 lines: event loop, clock and processes of a simulated world depend on each other.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar

#: The time of day at which every run begins.
EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
#: A process that runs so many callbacks in one instant will never stop by itself.
MOST_CALLBACKS_AT_ONCE = 100_000

Answer = TypeVar("Answer")


class EndlessLoopError(Exception):
    """A process kept running and never waited."""


class Callback:
    """Something that will be called, unless it is cancelled: what a loop returns from `call_soon` and `call_at`."""

    __slots__ = ("_act", "_args", "_cancelled", "_context", "_when")

    def __init__(
        self, act: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context, when: float = 0.0
    ) -> None:
        self._act = act
        self._args = args
        self._context = context
        self._cancelled = False
        self._when = when

    def cancel(self) -> None:
        """See to it that it is not called."""
        self._cancelled = True

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def when(self) -> float:
        """When it is due, by the loop's time."""
        return self._when

    def call(self) -> None:
        """Call it."""
        self._context.run(self._act, *self._args)

    def due(self) -> None:
        """Its time has come."""
        self.call()


class Timer(Callback):
    """A callback of a process, which may be paused or dead when it is due."""

    __slots__ = ("_process",)

    def __init__(
        self,
        process: Process,
        act: Callable[..., Any],
        args: tuple[Any, ...],
        context: contextvars.Context,
        when: float,
    ) -> None:
        super().__init__(act, args, context, when)
        self._process = process

    def due(self) -> None:
        """Its time has come: the process runs it when it can."""
        self._process.fire(self)


class World:
    """Time, chance, and what is due."""

    def __init__(self, seed: str, *, tracing: bool = False) -> None:
        self.now = 0.0
        #: How many things have happened.
        self.steps = 0
        self.random = Random(seed)  # noqa: S311 - a simulation's chance must be repeatable
        self.tracing = tracing
        self.trace: list[str] = []
        self._due: list[tuple[float, int, Callback | Callable[[], None]]] = []
        self._serial = 0
        self._awake: deque[Process] = deque()

    def serial(self) -> int:
        """A number that was never given before."""
        self._serial += 1
        return self._serial

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call `act` when `seconds` have passed."""
        heapq.heappush(self._due, (self.now + seconds, self.serial(), act))

    def at(self, when: float, callback: Callback) -> None:
        """Have a callback called, unless it is cancelled before."""
        heapq.heappush(self._due, (max(when, self.now), self.serial(), callback))

    def awake(self, process: Process) -> None:
        """Note that a process has something to run now."""
        self._awake.append(process)

    def note(self, who: str, what: str) -> None:
        """Write a line of the timeline."""
        if self.tracing:
            self.trace.append(f"{self.now:10.3f}  {who:<14} {what}")

    def chance(self, probability: float) -> bool:
        """True as often as `probability` says."""
        return probability > 0 and self.random.random() < probability

    def travel(self) -> float:
        """How long a message travels, in seconds: mostly milliseconds, now and then seconds."""
        seconds = self.random.random() * 0.02
        return seconds + self.random.random() * 2 if self.random.random() < 0.01 else seconds

    def step(self) -> bool:
        """Let the next thing happen; False if nothing ever will."""
        self.steps += 1
        self.settle()
        while self._due:
            when, _, act = heapq.heappop(self._due)
            if isinstance(act, Callback):
                if act.cancelled():
                    continue
                self.now = when
                act.due()
            else:
                self.now = when
                act()
            self.settle()
            return True
        return False

    def settle(self) -> None:
        """Run the processes until each of them waits."""
        while self._awake:
            self._awake.popleft().run()


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is its number, so that a set of tasks has the same order in every run."""

    def __init__(self, coroutine: Any, *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class Process(asyncio.AbstractEventLoop):
    """One worker process, and its event loop.

    A killed process runs nothing any more, not even its `finally` blocks. A paused one runs nothing until it is
    resumed; its clock goes on, and then all that was due meanwhile happens at once.
    """

    def __init__(self, world: World, name: str, *, wall_offset: float = 0.0) -> None:
        self.world = world
        self.name = name
        self.wall_offset = wall_offset
        self.dead = False
        self.paused = False
        self.ending = False
        self.pauses = 0
        #: What the broker has confirmed to this process: event IDs, and copies of messages by their number.
        self.confirmed: set[str] = set()
        self.on_death: Callable[[], None] = lambda: None
        self._requests_to_live = 0
        self._uptime = float(world.random.randrange(1000))
        self._ready: deque[Callback] = deque()
        self._queued = False
        self._frozen: list[Callback] = []
        self._tasks: list[SimulatedTask] = []

    # --- life and death ---------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End it, between two steps of its coroutines."""
        if not self.dead:
            self.dead = True
            self.world.note(self.name, "KILLED")
            self.on_death()

    def die_later(self, count: int) -> None:
        """Kill it just before or just after its n-th request to the outside from now on; 0 for not at all."""
        self._requests_to_live = count

    def pause(self) -> None:
        """Stop running it."""
        self.paused = True
        self.pauses += 1
        self.world.note(self.name, "PAUSED")

    def resume(self) -> None:
        """Run it again: first what it missed, in order, or its timers first."""
        if not self.paused:
            return
        self.paused = False
        self.world.note(self.name, "RESUMED")
        frozen, self._frozen = self._frozen, []
        if self.world.chance(0.5):
            frozen.sort(key=lambda callback: callback.when() == 0.0)
        self._ready.extend(frozen)
        self._wake()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Start a coroutine in the process, from outside."""
        self.call_soon(lambda: self.create_task(coroutine))

    def deliver(self, act: Callable[[], None]) -> None:
        """Something from outside reaches the process."""
        self.fire(Callback(act, (), contextvars.Context()))

    async def request(
        self, act: Callable[[], Answer], there: float | None = None, back: float | None = None, *, lost: str = ""
    ) -> Answer:
        """Have `act` done outside after `there` seconds; its answer, or what it raises, is back `back` seconds later.

        `lost` is empty, "request" or "answer": a caller whose request or answer is lost waits for ever.
        """
        await self.may_die()
        future: asyncio.Future[Answer] = self.create_future()
        world = self.world

        def arrive() -> None:
            if lost == "request" or self.ending:
                return
            answer, error = None, None
            try:
                answer = act()
            except Exception as raised:  # noqa: BLE001 - whatever it is, it is the answer
                error = raised
            if lost != "answer":
                world.after(world.travel() if back is None else back, lambda: self.deliver(lambda: land(answer, error)))

        def land(answer: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)

        world.after(world.travel() if there is None else there, arrive)
        await self.may_die()
        return await future

    async def may_die(self) -> None:
        """Count a request to the outside. Never returns if the process dies of it."""
        if self.ending:
            raise asyncio.CancelledError
        self.count_request()
        if self.dead:
            await self.create_future()

    def count_request(self) -> None:
        """Kill the process if `die_later` said so."""
        if self._requests_to_live:
            self._requests_to_live -= 1
            if not self._requests_to_live:
                self.kill()

    def run(self) -> None:
        """Run what is ready, until the process waits."""
        self._queued = False
        asyncio._set_running_loop(self)  # noqa: SLF001 - documented for authors of event loops
        try:
            for _ in range(MOST_CALLBACKS_AT_ONCE):
                if not self._ready or self.dead or self.paused:
                    return
                callback = self._ready.popleft()
                if not callback.cancelled():
                    callback.call()
            raise EndlessLoopError(self.name)
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001 - as above

    def unretrieved(self) -> list[str]:
        """Exceptions of tasks that nobody waited for. One that was killed with work to do may have had to wait yet."""
        if self.dead and self._ready:
            return []
        return [
            repr(task.exception())
            for task in self._tasks
            if task.done() and not task.cancelled() and task._log_traceback  # noqa: SLF001 - says whether it was retrieved
        ]

    def end(self) -> None:
        """After the run: unwind all coroutines, without any effect outside."""
        self.ending = True
        self.dead = self.paused = False
        for _ in range(20):
            unfinished = [task for task in self._tasks if not task.done()]
            if not unfinished:
                break
            for task in unfinished:
                task.cancel()
            self.run()
        self._tasks.clear()
        self._ready.clear()
        self._frozen.clear()

    # --- the event loop, as far as asyncio asks for it ---------------------------------------------------------------

    def time(self) -> float:
        """Its monotonic clock."""
        return self.world.now + self._uptime

    def call_soon(  # type: ignore[override]  # any handle with `cancel` serves
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> Callback:
        """As asyncio has it."""
        handle = Callback(callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(handle)
        self._wake()
        return handle

    def call_later(  # type: ignore[override]  # as above
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> Callback:
        """As asyncio has it."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> Callback:
        """As asyncio has it."""
        timer = Timer(self, callback, args, contextvars.copy_context() if context is None else context, when)
        self.world.at(when - self._uptime, timer)
        return timer

    def fire(self, callback: Callback) -> None:
        """Run a callback as soon as it can be: not while paused, and never when dead."""
        if self.dead:
            return
        if self.paused:
            self._frozen.append(callback)
        else:
            self._ready.append(callback)
            self._wake()

    def _wake(self) -> None:
        if not self._queued and not self.paused and not self.dead:
            self._queued = True
            self.world.awake(self)

    def create_future(self) -> asyncio.Future[Any]:
        """As asyncio has it."""
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Generator[Any, None, Answer] | Coroutine[Any, Any, Answer], **options: Any
    ) -> asyncio.Task[Answer]:
        """As asyncio has it."""
        task = SimulatedTask(coro, number=self.world.serial(), loop=self, **options)
        self._tasks.append(task)
        return task

    def get_debug(self) -> bool:
        """As asyncio has it."""
        return False

    def is_running(self) -> bool:
        """As asyncio has it."""
        return True

    def is_closed(self) -> bool:
        """As asyncio has it."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Called with an exception that nobody retrieved, when memory is freed; `unretrieved` reports it, too."""
        del context


class ProcessClock:
    """One process's clock and chance (`worker.unlinks.ports.clock.Clock`)."""

    def __init__(self, process: Process, seed: str) -> None:
        self._process = process
        self._random = Random(seed)  # noqa: S311 - a simulation's chance must be repeatable

    def now(self) -> datetime:
        """The time of day as this machine has it."""
        return EPOCH + timedelta(seconds=self._process.world.now + self._process.wall_offset)

    def monotonic(self) -> float:
        """The process's monotonic clock."""
        return self._process.time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def jitter(self, seconds: float) -> float:
        """As the port has it."""
        return seconds * self._random.uniform(0.5, 1.5)


class DatabaseClock:
    """The database server's own clock, which never jumps."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> datetime:
        """The time of day."""
        return EPOCH + timedelta(seconds=self._world.now)

    def monotonic(self) -> float:
        """Seconds since the run began."""
        return self._world.now

    async def sleep(self, seconds: float) -> None:
        """Never asked for."""
        raise NotImplementedError(seconds)

    def jitter(self, seconds: float) -> float:
        """Never asked for."""
        raise NotImplementedError(seconds)
