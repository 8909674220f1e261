"""One run: the world is made, troubled, calmed, and asked whether the promises were kept."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

import structlog

from tests.simulation.astray import LATE
from tests.simulation.broker import Broker, Message
from tests.simulation.enterprise_manager import Server, TrueJob
from tests.simulation.ledger import Database
from tests.simulation.promises import KEEPS_GOING, Observer, Story, Violation
from tests.simulation.scenario import (
    SECONDS_AHEAD,
    Scenario,
    Trouble,
    Weather,
    draw,
    encode,
    repository_name,
    repository_uid,
)
from tests.simulation.worker import SimulatedWorker
from tests.simulation.world import EPOCH, DatabaseClock, EndlessLoopError, Process, World
from worker.unlinks.ports.broker import ReplyTo

#: While one of these lasts, a delivery cannot be deferred, however long it was held.
NOTHING_LET_GO = {"publishes_lost", "confirms_late", "broker_away", "database_away", "database_slow"}
#: After the last fault, everything has to come to its end within so many seconds.
CALM_SECONDS = 6 * 3600.0
#: So many steps are more than a run needs: the longest of 150 had 71,023. A worker that lets its commands go again and
#: again would take half an hour of a processor until the calm is over.
MOST_STEPS = 500_000
#: A key that has been run so often is retried no more, before all is at rest.
MOST_RUNS = 3
#: When an operator replays the dead letters, in seconds after the last fault.
REPLAY_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a run."""

    seed: int
    scenario: Scenario
    violation: Violation | None
    trace: list[str]
    virtual_seconds: float
    steps: int
    situations: Counter[str]


class Simulation:
    """One seed's world."""

    def __init__(self, seed: int, *, scenario: Scenario | None = None, tracing: bool = False) -> None:
        self.scenario = scenario = scenario or draw(seed)
        self.world = world = World(f"world {seed}", tracing=tracing)
        hold = scenario.rules.hold_seconds
        self.observer = Observer(
            world,
            hold_seconds=float("inf") if scenario.faults & NOTHING_LET_GO or "delay" in scenario.refused else hold,
            unforeseen=not scenario.faults.isdisjoint({"ports_break", "surprises"}),
        )
        self.weather = Weather(world, **scenario.weather)
        self.broker = Broker(world, self.observer, self.weather, scenario.astray.delivery_limit)
        self.server = Server(world, self.observer, self.weather)
        self.observer.server = self.server
        self.observer.batch.drawn = scenario.batch
        self.observer.strict = "longest_task" not in scenario.weather
        self.observer.on_failure = self._maybe_retry
        #: Apart, so that the other draws stay as they were.
        self._retries = Random(f"retries {seed}")  # noqa: S311 - a simulation's chance must be repeatable
        self._waits = Random(f"waiting retries {seed}")  # noqa: S311 - as above
        self.database = Database(DatabaseClock(world))
        self._link_ids = self._furnish()
        self._to_come = 0
        self.sent: list[bytes] = []
        self.workers = [
            SimulatedWorker(
                number, scenario, world, self.broker, self.server, self.database, self.observer, self.weather
            )
            for number in range(scenario.workers)
        ]

    def _furnish(self) -> dict[str, str]:
        server, scenario = self.server, self.scenario
        for number in range(scenario.repositories):
            server.repositories[repository_uid(number)] = repository_name(number)
        link_ids: dict[str, str] = {}
        for drawn in scenario.jobs:
            job = TrueJob(drawn.id, drawn.name, drawn.copies)
            job.backups.update(
                {f"{drawn.number:08x}-{number:04x}-bbbb-8000-000000000000": 0.0 for number in range(drawn.backups)}
            )
            server.jobs[job.id] = job
            for number in drawn.linked:
                link = server.add_link(job, repository_uid(number))
                for spelling in (drawn.id, drawn.name):
                    link_ids[f"the link of {number} in {spelling}"] = link.object_in_job_id
        return link_ids

    # --- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """From the first command to the last check."""
        world, scenario = self.world, self.scenario
        for at, command in scenario.commands:
            self._publish_after(at, encode(command, self._link_ids))
        for at, name, astray in scenario.astray.commands:
            self._publish_after(at, encode(astray, self._link_ids), name)
        for trouble in scenario.troubles:
            world.after(trouble.at, partial(self._happen, trouble))
        world.after(scenario.horizon, self._calm)
        if "ports_break" in scenario.faults:
            self._to_come += 1
            world.after(scenario.horizon + REPLAY_SECONDS, self._replay)
        try:
            self._run_until_quiet()
            self._put_links_back()
            self._retry_what_ended()
            for command in scenario.late:
                self._publish_after(world.random.random() * 10, encode(command, self._link_ids))
            self._run_until_quiet()
            dead = [message.body for message in self.broker.dead_letters]
            self.observer.check_ends(self.scenario, self.sent, self.broker.events, dead)
        except EndlessLoopError as error:
            self.observer.broken(KEEPS_GOING, f"{error} never waits")
        finally:
            self._end()
        return Result(
            seed=scenario.seed,
            scenario=scenario,
            violation=self.observer.violation,
            trace=world.trace,
            virtual_seconds=world.now,
            steps=world.steps,
            situations=self.observer.situations,
        )

    def _publish_after(self, seconds: float, body: bytes, name: str = "default") -> None:
        self._to_come += 1

        def publish() -> None:
            self._to_come -= 1
            number = self.world.serial()
            self.world.note("publisher", f"message {number}: {body.decode()}")
            self.sent.append(body)
            self.observer.published(body)
            reply_to = ReplyTo("reply.shared", str(number)) if self.world.chance(0.3) else None
            self.broker.publish(Message(number, body, reply_to=reply_to, name=name))

        self.world.after(seconds, publish)

    def _maybe_retry(self, key: str) -> None:
        """Somebody who is notified of a failure retries it, now and then twice, or cancels what they have retried."""
        story, chance = self.observer.stories[key], self._retries
        if story.command.enterprise_manager == LATE:
            return
        if story.run > MOST_RUNS or chance.random() >= self.scenario.retries:
            return
        seconds = chance.choice((0.05, 3, 60)) * chance.random()
        while True:
            self._publish_after(seconds, self._retry(story, story.run, seconds))
            seconds += chance.choice((0, 5, 100)) * chance.random()
            if chance.random() < 0.6:
                break
        if chance.random() < 0.2:
            run = chance.choice(({}, {"run": story.run}, {"run": story.run + 1}))
            cancel = {"command": "cancel.v1", "idempotency_key": key, **run}
            self._publish_after(seconds * chance.random(), json.dumps(cancel).encode())

    def _retry_what_ended(self) -> None:
        """Old retries come once more, and new ones of what did not succeed."""
        for story in self.observer.stories.values():
            if story.command.enterprise_manager != LATE and self._retries.random() < self.scenario.retries:
                for run in {1, story.run}:
                    seconds = self._retries.random() * 10
                    self._publish_after(seconds, self._retry(story, run, seconds))

    def _retry(self, story: Story, run: int, seconds: float) -> bytes:
        """A retry that is to be published in so many seconds; some are not to be started at once."""
        retry: dict[str, Any] = {"command": "retry.v1", "idempotency_key": story.key, "run": run}
        if self._waits.random() < self.scenario.waiting_retries and story.command.not_after is None:
            ahead = seconds + self._waits.choice(SECONDS_AHEAD)
            retry["not_before"] = (EPOCH + timedelta(seconds=self.world.now + ahead)).isoformat()
        return json.dumps(retry).encode()

    def _replay(self) -> None:
        """An operator replays what was given up: else a command that was given up in flight would block its job."""
        self._to_come -= 1
        for message in self.broker.dead_letters:
            if self.observer.read(message.body).rejection in self.observer.given_up:
                self.world.note("operator", f"replays {message.number}")
                fresh = replace(message, number=self.world.serial(), attempt=1, returned=0, returns=0)
                self.broker.publish(replace(fresh, misrouted_seconds=0, taken_away=None, arrived_at=None))

    def _put_links_back(self) -> None:
        """Before old commands come once more, somebody links again what was unlinked."""
        for job in self.server.jobs.values():
            for uid in self.server.repositories:
                if self.world.chance(0.5):
                    self.server.add_again_by_others(job, uid)

    def _run_until_quiet(self) -> None:
        last = self.scenario.horizon + CALM_SECONDS
        while self.observer.violation is None and not self._quiet():
            if not self.world.step() or self.world.now > max(last, self.scenario.horizon):
                self.observer.broken(KEEPS_GOING, f"not at rest {CALM_SECONDS:.0f} s after the last fault")
            if self.world.steps > MOST_STEPS:
                self.observer.broken(KEEPS_GOING, f"not at rest after {MOST_STEPS} steps")

    def _quiet(self) -> bool:
        return (
            self.world.now > self.scenario.horizon
            and not self._to_come
            and self.broker.empty
            and all(worker.idle for worker in self.workers)
            and all(task.finished for task in self.server.tasks.values())
        )

    def _end(self) -> None:
        for process in self.processes:
            if self.observer.violation is None and (unretrieved := process.unretrieved()):
                self.observer.broken(KEEPS_GOING, f"{process.name}: nobody retrieved {unretrieved[0]}")
        for process in self.processes:
            process.end()
        self.database.connection.close()

    @property
    def processes(self) -> list[Process]:
        """All that ever ran."""
        return [process for worker in self.workers for process in worker.processes]

    # --- trouble ----------------------------------------------------------------------------------------------------

    def _happen(self, trouble: Trouble) -> None:
        worker = self.workers[trouble.worker]
        match trouble.kind:
            case "crash":
                worker.crash()
            case "death":
                worker.die_at_request(1 + int(trouble.more * 30))
            case "pause":
                worker.pause(trouble.seconds)
            case "drain":
                worker.drain(trouble.more * 30)
            case "cut":
                worker.cut(trouble.seconds % 40, trouble.more * 40)
            case "clock_jump":
                worker.jump((trouble.more - 0.5) * 4000)
            case _:
                self._happen_to_servers(trouble)

    def _happen_to_servers(self, trouble: Trouble) -> None:
        world = self.world
        match trouble.kind:
            case "broker_away":
                self.weather.broker_away_until = world.now + trouble.seconds
                for each in self.workers:
                    each.cut(0.0, world.travel())
            case "sessions_end":
                self.server.end_sessions()
            case "enterprise_manager_away":
                self._enterprise_manager_away(trouble)
            case "others_edit":
                self._others_edit()
            case "database_away":
                world.note("ledger", f"AWAY for {trouble.seconds:.0f} s")
                self.weather.database_away_until = world.now + trouble.seconds

    def _enterprise_manager_away(self, trouble: Trouble) -> None:
        self.server.down = True
        self.world.note("EM", f"AWAY for {trouble.seconds:.0f} s")
        if trouble.more < 0.5:
            self.server.end_sessions()

        def back() -> None:
            self.server.down = False
            self.world.note("EM", "back")

        self.world.after(trouble.seconds, back)

    def _others_edit(self) -> None:
        chance = self.world.random
        job = chance.choice(list(self.server.jobs.values()))
        uid = repository_uid(chance.randrange(self.scenario.repositories))
        what = chance.random()
        if what < 0.5:
            self.server.remove_by_others(job, uid)
            self.server.add_again_by_others(job, uid)
        elif what < 0.8:
            self.server.remove_by_others(job, uid)
        else:
            self.world.note("EM", f"a linked backup is added to job {job.name}")
            job.backups[f"{self.world.serial():08x}-bbbb-4000-8000-000000000000"] = self.world.now

    def _calm(self) -> None:
        self.world.note("WORLD", "calm")
        self.weather.calm()
        self.server.down = False
        for worker in self.workers:
            worker.process.die_later(0)
            worker.process.resume()


def run(seed: int, *, tracing: bool = False) -> Result:
    """Run one seed."""
    with logs_in_timeline(tracing=tracing):
        return Simulation(seed, tracing=tracing).run()


@contextmanager
def logs_in_timeline(*, tracing: bool) -> Iterator[None]:
    """The core's log goes to the timeline, or nowhere."""
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _to_timeline],
        wrapper_class=structlog.make_filtering_bound_logger(0 if tracing else 50),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def _to_timeline(_logger: Any, _method: str, event: Any) -> str:
    process = asyncio._get_running_loop()  # noqa: SLF001 - None outside, without raising
    if isinstance(process, Process):
        name = event.pop("event")
        event.pop("enterprise_manager", None)
        shown = " ".join(f"{key}={value}" for key, value in sorted(event.items()) if key != "exc_info")
        process.world.note(process.name, f"   log {name} {shown}")
    raise structlog.DropEvent
