"""What happens in one run: drawn from the seed, and from nothing else.

More than 400 lines: all that a seed decides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.simulation.astray import ASTRAY, Astray, draw_astray
from tests.simulation.batches import DrawnBatch, draw_batch
from tests.simulation.world import World
from worker.unlinks.ports.steps import Step
from worker.unlinks.rules import Pace, Rules

#: What can go wrong. Each run has some of it, so that each fault is also seen without the others.
FAULTS = (
    "crashes",
    "deaths_at_requests",
    "pauses",
    "drains",
    "consumers_cut",
    "publishes_lost",
    "confirms_late",
    "broker_away",
    "reordering",
    "requests_lost",
    "answers_lost",
    "requests_late",
    "sessions_end",
    "enterprise_manager_away",
    "refusals",
    "surprises",
    "tasks_fail",
    "tasks_slow",
    "tasks_forgotten",
    "lists_lag",
    "others_edit",
    "database_away",
    "database_slow",
    "clock_jumps",
)


#: What is likely to go wrong while each fault is about: rates of the weather.
RATES_OF_FAULTS = {
    "reordering": {"reordered": 0.5},
    "publishes_lost": {"publish_lost": 0.2, "confirm_lost": 0.3},
    "confirms_late": {"confirm_late": 0.3},
    "requests_lost": {"request_lost": 0.1},
    "answers_lost": {"answer_lost": 0.15},
    "requests_late": {"request_late": 0.1},
    "refusals": {"refused": 0.3},
    "surprises": {"surprising": 0.2},
    "tasks_fail": {"task_fails": 0.4},
    "tasks_slow": {"task_slow": 0.6},
    "tasks_forgotten": {"forgets": 0.5},
    "lists_lag": {"list_lags": 0.6},
    "others_edit": {"added_again": 0.5},
    "database_slow": {"database_slow": 0.1},
    "ports_break": {"breaking": 0.1},
    "sinks_break": {"sinks_breaking": 0.1},
    "requests_hang": {"hanging": 0.1},
}
RATES = [name for rates in RATES_OF_FAULTS.values() for name in rates]


#: The fault, and how often it is there: it is drawn apart, so that the other draws stay as they were.
REFUSED = "publishes_refused"
REFUSED_RATE = 0.15
#: What may be refused: events by outcome, those of batches, dead letters, and copies for the delay queues.
REFUSED_KINDS = (
    *("submitted", "succeeded", "failed", "rejected", "cancelled", "timed_out", "planned", "batch_ended"),
    *("rejected", "planned", "dead letter", "dead letter", "delay"),
)

#: How often commands of a run have a `not_before`, and how often each of them has; and each retry in another run.
WAITS = 0.15
WAITING = 0.4
#: How many seconds ahead the `not_before` of a retry is.
SECONDS_AHEAD = (5, 60, 360)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the broker refuses for a while, such as the events of one outcome while a subscriber's queue is full."""

    start: float
    end: float
    what: frozenset[str]

    def covers(self, what: str, now: float) -> bool:
        """Whether this is refused now."""
        return self.start <= now < self.end and what in self.what


@dataclass(slots=True)
class Weather:
    """How likely each thing is that can go wrong at any time; all of it is zero once the weather is calm."""

    world: World
    reordered: float = 0
    publish_lost: float = 0
    confirm_lost: float = 0
    confirm_late: float = 0
    request_lost: float = 0
    answer_lost: float = 0
    request_late: float = 0
    refused: float = 0
    surprising: float = 0
    task_fails: float = 0
    task_slow: float = 0
    list_lags: float = 0
    forgets: float = 0
    added_again: float = 0
    database_slow: float = 0
    breaking: float = 0
    sinks_breaking: float = 0
    hanging: float = 0
    #: What the broker refuses, from when until when.
    refusals: tuple[Refusal, ...] = ()
    broker_away_until: float = 0
    database_away_until: float = 0
    #: What Enterprise Manager does where its documentation leaves it open.
    absent_is_404: bool = True
    absent_is_ok: bool = False
    stop_works: bool = True
    stop_forgets: bool = False
    #: The longest that a DELETE may take on its way, its task, and the list until it shows it, in seconds.
    longest_travel: float = 20
    longest_task: float = 40
    longest_lag: float = 30

    def calm(self) -> None:
        """From now on nothing goes wrong any more."""
        for name in RATES:
            setattr(self, name, 0)
        self.broker_away_until = self.database_away_until = 0
        self.refusals = ()

    def refuses_publish(self, what: str) -> bool:
        """Whether the broker answers a publish of this kind with a nack."""
        return any(refusal.covers(what, self.world.now) for refusal in self.refusals)

    def fate_of_publish(self) -> str:
        """Whether a publish is lost, on the way there ("request") or back ("answer")."""
        if self.world.now < self.broker_away_until or self.world.chance(self.publish_lost):
            return "request"
        return "answer" if self.world.chance(self.confirm_lost) else ""

    def lateness(self) -> float | None:
        """How long a confirm takes, if it is late."""
        return self.world.random.random() * 60 if self.world.chance(self.confirm_late) else None

    def way_to_database(self) -> tuple[float, float]:
        """How long a call takes there and back."""
        there, back = self.world.travel(), self.world.travel()
        if self.world.chance(self.database_slow):
            there += self.world.random.random() * 20
        if self.world.chance(self.database_slow):
            back += self.world.random.random() * 20
        away = self.database_away_until - self.world.now
        if away > 0:
            there, back = (there + away, back) if self.world.chance(0.7) else (there, back + away)
        return there, back

    def way_to_enterprise_manager(self) -> tuple[float, float, str]:
        """How long a request takes there and back, and whether it or its answer is lost."""
        world = self.world
        there, back = world.travel(), world.travel()
        if world.chance(self.request_lost):
            return there, back, "request"
        if world.chance(self.answer_lost):
            return there, back, "answer"
        if world.chance(self.request_late):
            there = world.random.random() * self.longest_travel
        if world.chance(self.request_late):
            back = world.random.random() * 60
        return there, back, ""

    def hangs(self) -> bool:
        """Whether a request is not answered for a long time, and keeps its slot."""
        return self.world.chance(self.hanging)

    def refuses(self) -> bool:
        """Whether a DELETE is answered with a definite no."""
        return self.world.chance(self.refused)

    def surprises(self) -> bool:
        """Whether a call fails in a way that nobody foresaw."""
        return self.world.chance(self.surprising)

    def break_now_and_then(self) -> None:
        """Fail as code fails that has a mistake: with an error that nobody foresaw."""
        if self.breaking and self.world.chance(self.breaking):
            raise RuntimeError("a mistake")

    def report(self, step: Step) -> None:
        """Fail now and then, as a span exporter or a metric may (`worker.unlinks.ports.steps.Steps`)."""
        if self.world.chance(self.sinks_breaking):
            raise RuntimeError(f"an odd label of {step.kind}")

    def fate_of_task(self) -> str:
        """What becomes of a task."""
        if not self.world.chance(self.task_fails):
            return "succeeds"
        return self.world.random.choice(
            ("fails", "fails", "fails_late", "fails_but_did", "no_result", "no_result_but_did")
        )

    def task_seconds(self) -> float:
        """How long an operation takes on the backup server."""
        longest = self.longest_task if self.world.chance(self.task_slow) else min(self.longest_task, 8)
        return 0.1 + self.world.random.random() * longest

    def collect_seconds(self) -> float:
        """How long a task stays `OperationFinished`."""
        return self.world.random.random() * self.longest_task / 4

    def list_lag(self) -> float:
        """How long a link is listed that is gone."""
        return self.world.random.random() * self.longest_lag if self.world.chance(self.list_lags) else 0.0

    def forgets_after(self) -> float | None:
        """After how long a finished task is forgotten."""
        return self.world.random.random() * 10 if self.world.chance(self.forgets) else None

    def added_again_after(self) -> float | None:
        """After how long somebody puts a removed link back."""
        return self.world.random.random() * 200 if self.world.chance(self.added_again) else None


@dataclass(slots=True)
class Repositories:
    """A job as it is at the start: which repositories are linked, and whether it has linked backups."""

    number: int
    copies: bool
    linked: list[int]
    backups: int

    @property
    def id(self) -> str:
        """The job's ID."""
        return f"{self.number:08x}-0000-4000-8000-000000000000"

    @property
    def name(self) -> str:
        """The job's name."""
        return f"job-{self.number}"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that happens to a worker, or to a server, at a time. `worker` is its number."""

    at: float
    kind: str
    worker: int = 0
    seconds: float = 0
    more: float = 0


@dataclass(slots=True)
class Scenario:
    """Everything that one run begins with."""

    seed: int
    faults: frozenset[str]
    workers: int
    prefetch: int
    lease_seconds: float
    rules: Rules
    same_names: bool
    horizon: float
    jobs: list[Repositories]
    repositories: int
    weather: dict[str, Any]
    commands: list[tuple[float, dict[str, Any] | bytes]] = field(default_factory=list)
    late: list[dict[str, Any] | bytes] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    #: How likely it is that a run that failed is retried.
    retries: float = 0.0
    #: How likely it is that such a retry has a `not_before`.
    waiting_retries: float = 0.0
    astray: Astray = field(default_factory=Astray)
    batch: DrawnBatch | None = None

    @property
    def refused(self) -> frozenset[str]:
        """What the broker refuses at some time."""
        refusals: tuple[Refusal, ...] = self.weather.get("refusals", ())
        return frozenset[str]().union(*(refusal.what for refusal in refusals))

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.workers} workers, prefetch {self.prefetch}, lease {self.lease_seconds} s, "
            f"{self.rules}, faults until {self.horizon:.0f} s: {', '.join(sorted(self.faults)) or 'none'}"
        )


def repository_uid(number: int) -> str:
    """The UID of a repository."""
    return f"{number:08x}-aaaa-4000-8000-000000000000"


def repository_name(number: int) -> str:
    """The name of a repository."""
    return f"repository-{number}"


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    chance = Random(f"scenario {seed}")  # noqa: S311 - must be repeatable
    appetite = chance.choice((0.0, 0.15, 0.3, 0.3, 0.5))
    faults = [fault for fault in FAULTS if chance.random() < appetite]
    if Random(f"ports {seed}").random() < appetite / 3:  # noqa: S311 - repeatable, and apart: other draws stay as they were
        faults.append("ports_break")
    if Random(f"sinks {seed}").random() < 0.1:  # noqa: S311 - as above
        faults.append("sinks_break")
    if Random(f"hangs {seed}").random() < 0.1:  # noqa: S311 - as above
        faults.append("requests_hang")
    horizon = chance.uniform(60, 600)
    refusals = _refusals(Random(f"refused publishes {seed}"), horizon)  # noqa: S311 - as above
    if refusals:
        faults.append(REFUSED)
    astray = draw_astray(seed, horizon)
    strict = chance.random() < 0.8
    settling = chance.choice((90, 120, 120))
    pace = Pace(poll_interval=chance.choice((1, 2, 5)), verify=chance.choice((20, 60, 60)), settling=settling)
    scenario = Scenario(
        seed=seed,
        faults=frozenset([*faults, *astray.faults]),
        workers=chance.choice((1, 2, 2, 3)),
        prefetch=chance.choice((1, 3, 20)),
        lease_seconds=chance.choice((11, 30, 30)),
        rules=Rules(
            hold_seconds=chance.choice((40, 150, 600, 1500)),
            max_attempts=chance.choice((2, 4, 10)),
            paces={"default": pace},
        ),
        same_names=chance.random() < 0.3,
        horizon=horizon,
        jobs=[
            Repositories(
                number=number,
                copies=chance.random() < 0.95,
                linked=[repository for repository in range(4) if chance.random() < 0.7],
                backups=chance.choice((0, 0, 0, 2)),
            )
            for number in range(1, chance.choice((1, 1, 2)) + 1)
        ],
        repositories=4,
        weather=_weather(chance, faults, strict=strict) | {"refusals": refusals},
        astray=astray,
    )
    _add_commands(chance, scenario)
    _add_retries(Random(f"early retries {seed}"), scenario)  # noqa: S311 - as above
    _add_waits(Random(f"waits {seed}"), scenario)  # noqa: S311 - as above
    draw_batch(seed, scenario)
    for fault in faults:
        _add_troubles(chance, scenario, fault)
    if ASTRAY in astray.faults:  # each worker is updated, one after the other
        updates = enumerate(range(scenario.workers), start=1)
        scenario.troubles += [Trouble(astray.late_at + 10 * turn, "drain", worker) for turn, worker in updates]
    scenario.troubles.sort(key=lambda trouble: trouble.at)
    return scenario


def _weather(chance: Random, faults: list[str], *, strict: bool) -> dict[str, Any]:
    """The rates. Unless `strict`, an old task may be at work for longer than the settling time allows for."""
    weather: dict[str, Any] = {
        name: rate * chance.choice((0.3, 1, 2))
        for fault in faults
        for name, rate in RATES_OF_FAULTS.get(fault, {}).items()
    }
    weather |= {name: chance.random() < 0.5 for name in ("absent_is_404", "absent_is_ok", "stop_works", "stop_forgets")}
    if not strict:
        weather |= {"longest_travel": 200.0, "longest_task": 400.0, "longest_lag": 200.0}
    return weather


def _refusals(chance: Random, horizon: float) -> tuple[Refusal, ...]:
    """In some runs, what the broker refuses to some queues, once or twice."""
    if chance.random() >= REFUSED_RATE:
        return ()
    refusals = []
    for _ in range(chance.randint(1, 2)):
        start = chance.choice((0.0, chance.random() * horizon / 2))
        what = chance.sample(REFUSED_KINDS, chance.choice((1, 2, 6)))
        refusals.append(Refusal(start, chance.uniform(start, horizon), frozenset(what)))
    return tuple(refusals)


def _add_commands(chance: Random, scenario: Scenario) -> None:
    for number in range(chance.randint(1, 7)):
        command = _command(chance, scenario, f"key-{number}")
        spread = scenario.horizon * chance.choice((0.05, 0.5, 1))
        at = chance.random() * spread
        scenario.commands.append((at, command))
        while chance.random() < 0.3:
            scenario.commands.append((at + chance.choice((0, 1, 10, 100)) * chance.random(), command))
        if chance.random() < 0.08 and isinstance(command, dict):
            other = command | {"if_absent": "fail" if command.get("if_absent") != "fail" else "succeed"}
            scenario.commands.append((chance.random() * spread, other))
        if chance.random() < 0.3:
            repeat = command
            if isinstance(command, dict) and "enterprise_manager" not in command:
                repeat = command | {"reason": "the same request by somebody else", "timeout_seconds": 1000}
            scenario.late.append(repeat)
        if chance.random() < 0.15:
            cancel = {"command": "cancel.v1", "idempotency_key": f"key-{number}"}
            scenario.commands.append((max(at + chance.choice((-5, 0.1, 2, 20, 60)) * chance.random(), 0), cancel))
        if chance.random() < 0.05 and isinstance(command, dict):
            scenario.commands.append((chance.random() * spread, command | {"dry_run": True}))


def _add_waits(chance: Random, scenario: Scenario) -> None:
    """In some runs, a time before which some commands are not started; in some, such times for retries."""
    waits = chance.random()
    if waits >= 1 - WAITS:
        scenario.waiting_retries = WAITING
    if waits >= WAITS:
        return
    for _, command in scenario.commands:
        if isinstance(command, dict) and command["command"] == "unlink.v1" and chance.random() < WAITING:
            not_before = chance.choice(("2030-01-01T00:00:05Z", "2030-01-01T00:01:00Z", "2030-01-01T00:06:00Z"))
            if "not_after" not in command:
                command["not_before"] = not_before


def _add_retries(chance: Random, scenario: Scenario) -> None:
    """Retries that nobody was asked for: of a run that is under way, that never was, or that succeeded.

    Where runs are retried, half of them have little time for slow tasks, so that old tasks are met.
    """
    scenario.retries = chance.choice((0.0, 0.0, 0.3, 0.8))
    if chance.random() < scenario.retries:
        scenario.faults |= {"tasks_slow"}
        scenario.weather["task_slow"] = 0.6
        for _, command in scenario.commands:
            if isinstance(command, dict) and command["command"] == "unlink.v1" and chance.random() < 0.5:
                command["timeout_seconds"] = 10
    for number in range(8):
        if chance.random() < scenario.retries / 4:
            retry = {"command": "retry.v1", "idempotency_key": f"key-{number}", "run": chance.choice((1, 1, 1, 2, 5))}
            scenario.commands.append((chance.random() * scenario.horizon, retry))


def _command(chance: Random, scenario: Scenario, key: str) -> dict[str, Any] | bytes:
    if chance.random() < 0.04:
        return chance.choice((b"not JSON", b"[]", b'{"command": "unlink.v1", "idempotency_key": "%s"}' % key.encode()))
    job = chance.choice(scenario.jobs)
    repository = chance.choice(job.linked) if job.linked and chance.random() < 0.85 else chance.randrange(5)
    command: dict[str, Any] = {
        "command": "unlink.v1",
        "idempotency_key": key,
        "job": {"id": job.id} if chance.random() < 0.5 else {"name": job.name},
        "repository": chance.choice(
            (
                {"uid": repository_uid(repository)},
                {"name": repository_name(repository)},
                {"link_id": f"the link of {repository}"},
            )
        ),
    }
    if chance.random() < 0.03:
        command["job"] = {"name": "no such job"}
    if chance.random() < 0.02:
        command["enterprise_manager"] = "unknown"
    if chance.random() < 0.05:
        command["dry_run"] = True
    if chance.random() < 0.5:
        command["allow_linked_backups_removal"] = True
    if chance.random() < 0.2:
        command["if_absent"] = "fail"
    if chance.random() < 0.6:
        command["timeout_seconds"] = chance.choice((10, 30, 60, 200, 400, 1500))
    if chance.random() < 0.05:
        command["not_after"] = chance.choice(("2030-01-01T00:00:30Z", "2029-12-31T23:59:59Z"))
    return command


def _add_troubles(chance: Random, scenario: Scenario, fault: str) -> None:
    """When it happens, how often, to whom and for how long."""
    kinds = {
        "crashes": ("crash", 4),
        "deaths_at_requests": ("death", 4),
        "pauses": ("pause", 3),
        "drains": ("drain", 3),
        "consumers_cut": ("cut", 4),
        "broker_away": ("broker_away", 2),
        "sessions_end": ("sessions_end", 3),
        "enterprise_manager_away": ("enterprise_manager_away", 2),
        "others_edit": ("others_edit", 4),
        "database_away": ("database_away", 2),
        "clock_jumps": ("clock_jump", 2),
    }
    if fault not in kinds:
        return
    kind, most = kinds[fault]
    for _ in range(chance.randint(1, most)):
        seconds = chance.choice((2, 20, 70, 200)) * chance.uniform(0.5, 1.5)
        if kind == "enterprise_manager_away" and chance.random() < 0.2:
            seconds *= 5
        more = chance.random()
        worker = chance.randrange(scenario.workers)
        scenario.troubles.append(Trouble(chance.random() * scenario.horizon, kind, worker, seconds, more))


def encode(command: dict[str, Any] | bytes, link_ids: dict[str, str]) -> bytes:
    """A command as it is sent; `link_ids` are the IDs that links were given when the world was made."""
    if isinstance(command, bytes):
        return command
    if "repository" not in command:
        return json.dumps(command).encode()
    named = command["repository"].get("link_id")
    if named is not None:
        job = command["job"].get("id") or command["job"]["name"]
        unknown = "ffffffff-1111-4000-8000-000000000000"
        command = command | {"repository": {"link_id": link_ids.get(f"{named} in {job}", unknown)}}
    return json.dumps(command).encode()
