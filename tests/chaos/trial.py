"""One trial from start to end: prepare, command, strike, heal, wait, repeat old commands, reckon."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.chaos.administrator import Administrator
from tests.chaos.deployment import HOLD_SECONDS, Deployment
from tests.chaos.gauges import Course, Gauges, courses
from tests.chaos.nemesis import Nemesis
from tests.chaos.outsiders import OBSERVED, Observer, Publisher
from tests.chaos.plan import draw
from tests.chaos.reckoning import Books, Tally, reckon
from tests.chaos.strikes.strike import Strike, Target
from worker.broker.topology import COMMANDS, DEAD, DELAY_TIERS, UNROUTED, command_queue, delay_exchange
from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.supervisor import wait_until

#: How long everything may take to come to its end after the last strike, in seconds.
SETTLE_SECONDS = 180.0

#: How long after that a worker may take to be ready again, in seconds.
_READY_SECONDS = 90.0

#: How long the queues must have been empty, in seconds: RabbitMQ counts what a quorum queue holds every five seconds.
_EMPTY_SECONDS = 6.0

#: How much longer than its setting a delivery may be held, in seconds. When the hold is over, the worker publishes a
#: copy and waits for its confirm, and an alarm of the broker lasts 9 s, a node that is killed is away for 8 s and its
#: start, and a connection that is a black hole is given up after two heartbeats of 5 s.
HOLD_MARGIN_SECONDS = 20.0

#: After so many seconds it is looked whether the broker itself keeps messages back.
_SUSPICIOUS_SECONDS = 60.0

#: How many old commands are repeated when all is quiet.
_REPEATED = 50

#: What the strikes do to the host of a worker and to its way to Enterprise Manager, in the words of the worker's log;
#: and what pika and psycopg say where a connection ends while it is made or in use.
_EXPLAINED = (
    "can't start new thread",
    "Too many open files",
    "did not answer with TLS",
    "keeps refusing its own logon sessions",
    "cannot be reached",
    "answered with status 503",
    "_AsyncioIOReference.__init__.<locals>.on_done_adapter",
    "_AsyncTransportBase._connection_lost_notify_async",
    "error ignored terminating <psycopg.Pipeline [BAD]",
)

#: A worker's log events that say that something happened which nobody foresaw.
_UNFORESEEN = ("unlink.attempt_failed", "broker.part_failed", "unlink.requeued", "unlink.gave_up", "library.message")

_DELETE = re.compile(r"/linkedBackupRepositories/([0-9a-f-]{36})", re.IGNORECASE)

#: An event of a worker's log that is a warning or an error.
_WARNING = re.compile(r'"event": "([^"]+)"[^\n]*"level": "(?:warning|error)"')

_WORK = (COMMANDS, *(delay_exchange(seconds) for seconds in DELAY_TIERS))


@dataclass(frozen=True, slots=True)
class Options:
    """What a trial is like.

    Attributes:
        seed: decides what happens.
        unlinks: how many are commanded.
        workers: how many there are at once.
        minutes: how long things go wrong.
        thorough: whether all strikes happen, or those alone without which a trial proves little.
        soak: whether one worker lasts from start to end, and it is read whether anything grows.
        only: with it, those strikes alone whose name contains this.
        logs: where the workers' logs are kept.
    """

    seed: int
    unlinks: int
    workers: int
    minutes: float
    thorough: bool = True
    soak: bool = False
    only: str = ""
    logs: Path | None = None

    def chooses(self, strike: Strike) -> bool:
        """Whether the strike happens."""
        return self.only in strike.name if self.only else self.thorough or strike.vital


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a trial.

    Attributes:
        options: what it was like.
        tally: the reckoning.
        strikes: what went wrong, and how often.
        published: how many messages were published in all.
        put_back: how many links the administrator put back.
        orphaned: how many messages the broker kept for consumers that had gone, until its queue changed leader.
        warnings: the warnings and errors in the workers' logs, and how often: that what went wrong was felt.
        unforeseen: complaints in the workers' logs that a developer should read, and how often.
        courses: of a soak, how the gauges went.
        longest_hold: the longest time that a worker that was not suspended held a delivery unacknowledged, in seconds.
        settled_seconds: how long after the last repair everything had come to its end; None if it did not.
        seconds: how long all of it took.
    """

    options: Options
    tally: Tally
    strikes: Mapping[str, int]
    published: int
    put_back: int
    orphaned: int
    warnings: Mapping[str, int]
    unforeseen: Mapping[str, int]
    courses: Mapping[str, Course]
    longest_hold: float
    settled_seconds: float | None
    seconds: float

    @property
    def violations(self) -> dict[str, list[str]]:
        """Every broken promise, in words, with those that break it."""
        too_long = self.longest_hold > HOLD_SECONDS + HOLD_MARGIN_SECONDS
        return {
            **self.tally.violations,
            "messages that needed an operator's help": [f"{self.orphaned} until the leader changed"]
            * (self.orphaned > 0),
            "deliveries held too long": [f"{self.longest_hold:.1f} s"] * too_long,
            "complaints that no strike explains": [
                what for what in self.unforeseen if not any(words in what for words in _EXPLAINED)
            ],
            "gauges that grow": [name for name, course in sorted(self.courses.items()) if not course.flat],
        }

    @property
    def clean(self) -> bool:
        """Whether no promise was broken."""
        return not any(self.violations.values())


def _lastingly(condition: Callable[[], bool], within: float) -> bool:
    """Whether a condition holds within so many seconds, for long enough that the broker's counts show it."""
    busy_at = time.monotonic()

    def holds() -> bool:
        nonlocal busy_at
        if not condition():
            busy_at = time.monotonic()
        return time.monotonic() - busy_at >= _EMPTY_SECONDS

    return wait_until(holds, seconds=within, interval=1)


def run(options: Options, report: Callable[[str], None]) -> Result:
    """Run a trial; `report` is called with a line for each thing that happens."""
    began = time.monotonic()
    with Deployment(options.workers, lasting=int(options.soak)) as deployment:
        report(f"broker, ledger and Enterprise Manager are there; {options.workers} workers start")
        deployment.start_workers()
        try:
            return _Trial(options, deployment, report, began).run()
        finally:
            if options.logs is not None:
                options.logs.mkdir(parents=True, exist_ok=True)
                for worker in deployment.all_workers:
                    shutil.copy(worker.log_file, options.logs)


class _Trial:
    def __init__(self, options: Options, deployment: Deployment, report: Callable[[str], None], began: float) -> None:
        self._options = options
        self._deployment = deployment
        self._report = report
        self._began = began
        self._rng = Random(options.seed)  # noqa: S311 - to be repeated, not to be unguessable
        self._plan = draw(self._rng, options.unlinks, 60 * options.minutes)
        bodies = {key: unlink.body for key, unlink in self._plan.unlinks.items()} | self._plan.invalid
        self._publisher = Publisher(deployment.outsiders_url, bodies)
        self._observer = Observer(deployment.outsiders_url, self._plan.invalid)
        self._orphaned = 0
        target = Target(deployment, self._publisher, self._observer)
        self._nemesis = Nemesis(target, options.seed, report, options.chooses)

    def run(self) -> Result:
        self._deployment.prepare(self._plan)
        with self._observer, self._publisher, self._administrator() as administrator:
            if not self._observer.until_listening(60):
                raise PartFailedError("the observer cannot listen: the broker does not serve it")
            start = time.monotonic()
            for publication in self._plan.publications:
                self._publisher.publish(publication.key, start + publication.at)
            with Gauges(self._deployment) as gauges:
                self._nemesis.strike_for(60 * self._options.minutes)
            self._report("all is repaired; waiting until everything has come to its end")
            settled = self._settle()
            self._repeat_old_commands(administrator)
            wait_until(lambda: not self._unready(), seconds=_READY_SECONDS, interval=1)
            unready = self._unready()
            self._drain()
        return self._result(administrator, settled, unready, courses(gauges.readings) if self._options.soak else {})

    def _administrator(self) -> Administrator:
        return Administrator(
            self._deployment.enterprise_manager, self._plan.unlinks.values(), self._rng, again=self._publisher.publish
        )

    def _settle(self) -> float | None:
        began = time.monotonic()
        if not _lastingly(self._all_ended, within=_SUSPICIOUS_SECONDS):
            self._free_orphans()
        if _lastingly(self._all_ended, within=SETTLE_SECONDS):
            return time.monotonic() - began
        return None

    def _free_orphans(self) -> None:
        """Do what an operator must, so that the rest of the trial can be judged: see `Deployment.orphaned`."""
        # The two listings behind it are not of one moment, and one of them may be old: messages that are on their way
        # between two hands, or have been acknowledged meanwhile, are no orphans.
        orphaned, over = self._deployment.orphaned(), time.monotonic() + _EMPTY_SECONDS
        while orphaned > 0 and time.monotonic() < over:
            time.sleep(1)
            orphaned = min(orphaned, self._deployment.orphaned())
        if orphaned > 0:
            self._orphaned += orphaned
            self._report(f"the broker keeps {orphaned} messages for consumers that have gone: its queue changes leader")
            self._deployment.change_leader(command_queue("default"))

    def _all_ended(self) -> bool:
        if not self._publisher.idle:
            return False
        acknowledged = {each.key for each in self._publisher.published if each.confirmed}
        return acknowledged <= self._observer.ended and self._empty(*_WORK)

    def _empty(self, *queues: str) -> bool:
        try:
            return not sum(self._deployment.waiting(*queues).values())
        except PartFailedError:  # a node that has just come back may not know its queues yet
            return False

    def _repeat_old_commands(self, administrator: Administrator) -> None:
        keys = {*administrator.put_back.values(), *self._rng.sample(sorted(self._plan.unlinks), _REPEATED)}
        self._report(f"{len(keys)} old commands are repeated")
        for key in sorted(keys):
            self._publisher.publish(key)
        self._settle()

    def _drain(self) -> None:
        self._report("the workers are told to stop")
        for seat in self._deployment.seats:
            seat.worker.stop()
        # What they published last is received too.
        _lastingly(lambda: self._empty(OBSERVED), within=30)

    def _unready(self) -> list[str]:
        return [seat.worker.name for seat in self._deployment.seats if not seat.worker.ready()]

    def _result(
        self, administrator: Administrator, settled: float | None, unready: list[str], grown: Mapping[str, Course]
    ) -> Result:
        em = self._deployment.enterprise_manager
        named = (_DELETE.search(request.path) for request in em.requests if request.method == "DELETE")
        published = self._publisher.published
        books = Books(
            unlinks=self._plan.unlinks,
            published=published,
            received=self._observer.received,
            gone=self._deployment.gone(),
            nobodys=self._plan.bystanders | administrator.put_back.keys(),
            deletes=Counter(match.group(1).lower() for match in named if match),
            left=self._deployment.waiting(*_WORK, UNROUTED),
            unready=unready,
            invalid=self._plan.invalid,
            dead=self._deployment.bodies_in(DEAD),
        )
        return Result(
            options=self._options,
            tally=reckon(books),
            strikes=self._nemesis.strikes,
            published=len(published),
            put_back=len(administrator.put_back),
            orphaned=self._orphaned,
            warnings=self._warnings(),
            unforeseen=self._unforeseen(),
            courses=grown,
            longest_hold=self._deployment.longest_hold(),
            settled_seconds=settled,
            seconds=time.monotonic() - self._began,
        )

    def _warnings(self) -> Counter[str]:
        return Counter(
            sorted(event for worker in self._deployment.all_workers for event in _WARNING.findall(worker.log()))
        )

    def _unforeseen(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for worker in self._deployment.all_workers:
            for line in worker.log().splitlines():
                if any(f'"{event}"' in line for event in _UNFORESEEN):
                    said = json.loads(line)
                    what = said.get("problem") or said.get("part") or said.get("message") or ""
                    found[f"{said['event']}: {what[:200]}"] += 1
                elif not line.startswith("{"):
                    found[f"not a line of the log: {line[:100]}"] += 1
        return found
