"""The promises, checked while a run goes on and when it is over.

The observer sees what no worker can see: what is true in Enterprise Manager and in the database, at the instant at
which it becomes so. It keeps its own account of each key and trusts no port.

More than 400 lines: all promises are checked on one record of what happened.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from contracts.batches import BATCH_ENDED
from contracts.commands import UNKNOWN_NAME, CancelCommand, Command, RetryCommand, UnlinkCommand
from contracts.events import RETRIED, Outcome, rejection_id
from contracts.reading import UnreadableMessageError, read_message
from tests.simulation.astray import LATE
from tests.simulation.batches import BatchObserver
from tests.simulation.scenario import Scenario
from tests.simulation.untroubled import shortfall
from tests.simulation.world import EPOCH, Process, World
from worker.ledger.cancelling import Stored
from worker.unlinks.ports.enterprise_manager import TaskTicket
from worker.unlinks.ports.ledger import (
    AlreadySettled,
    CancelRequest,
    Claimed,
    Entry,
    Intended,
    Intent,
    Lease,
    NewClaim,
    NoSuchRun,
    Retry,
    SentAgain,
    Settled,
    Stage,
    Submitted,
    Withdrawn,
)
from worker.unlinks.workflow import MOST_SENDS

if TYPE_CHECKING:
    from tests.simulation.broker import Message
    from tests.simulation.enterprise_manager import Server, Span, TrueTask
    from worker.ledger.transaction import Renewed

NOTHING_LOST = "1 nothing is lost"
NOTHING_TWICE = "2 nothing is done twice"
NOTHING_CLAIMED = "3 nothing is claimed that is not so"
NOTHING_HURT = "4 nothing else is hurt"
KEEPS_GOING = "5 it keeps going"

#: Calls of a transaction that write nothing of a key whose lease is held.
NOT_OF_A_LEASE = {
    *("lock", "has_decided", "last_run", "cancelled_by"),
    *("join", "end_members", "ended_batches"),
}

#: After the hold, requests may have to time out, and a list be looked at for `verify` seconds.
HOLD_MARGIN_SECONDS = 500.0
#: So often a lease that its worker does not use may be renewed in a row: for more than twice its length.
MOST_RENEWALS_UNUSED = 50
#: A command for a name without a queue is rejected no earlier than this.
TURNED_AWAY_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, when, and how."""

    promise: str
    what: str
    when: float

    def __str__(self) -> str:
        return f"promise {self.promise}: {self.what} (at {self.when:.3f} s)"


@dataclass(slots=True)
class Story:
    """What is known of one key: of its row in the database, and of what was done for it.

    `outcome`, `evidence` and `changed` are of the run that ended last; `tasks` are of the present run.
    """

    key: str
    fingerprint: str
    command: UnlinkCommand
    claimed_at: float
    token: int = 0
    holder: Process | None = None
    stage: Stage = Stage.CLAIMED
    intent: Intent | None = None
    intended_at: float | None = None
    sent_at: float = 0.0
    settled: bytes | None = None
    settled_at: float | None = None
    outcome: str | None = None
    evidence: str | None = None
    changed: bool | None = None
    tasks: list[TrueTask] = field(default_factory=list)
    recorded: TaskTicket | None = None
    removed: int = 0
    #: How many DELETEs left for Enterprise Manager, and how often a worker died when one may have.
    left: int = 0
    unknown: int = 0
    run: int = 1
    run_claimed_at: float = 0.0
    earlier_may_act: bool = False
    earlier_tasks: list[TrueTask] = field(default_factory=list)
    #: The events of the runs that have ended, oldest first.
    ended: list[bytes] = field(default_factory=list)

    @property
    def may_be_retried(self) -> bool:
        """Whether a retry of its last run has to start another one."""
        return self.settled is not None and self.outcome in RETRIED

    def start_run(self, now: float, command: UnlinkCommand) -> None:
        """The next run begins."""
        self.command = command
        self.run += 1
        self.run_claimed_at = now
        self.earlier_may_act = self.changed is None
        self.earlier_tasks += self.tasks
        self.tasks, self.recorded, self.stage = [], None, Stage.CLAIMED
        self.left = self.unknown = 0
        self.settled = self.settled_at = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a message's bytes mean, read once."""

    command: Command | None
    rejection: str


class Observer:
    """Sees everything, and remembers the first promise that was broken."""

    def __init__(self, world: World, *, hold_seconds: float, unforeseen: bool) -> None:
        self.world = world
        self.hold_seconds = hold_seconds
        #: The keys that a process is at work on; and how often in a row it renewed a lease for another one.
        self.in_hand: dict[Process, Callable[[], Collection[str]]] = {}
        self._unused: dict[Process, Counter[tuple[str, int]]] = {}
        #: Whether the worker meets errors that nobody foresaw, and may so give a command up.
        self.unforeseen = unforeseen
        #: The rejections of commands that were given up.
        self.given_up: set[str] = set()
        #: How often situations came about that a run is meant to reach.
        self.situations: Counter[str] = Counter()
        self.server: Server
        self.violation: Violation | None = None
        self.stories: dict[str, Story] = {}
        self.readings: dict[bytes, Reading] = {}
        self.cancels: dict[tuple[str, int], float] = {}
        #: The runs that have to be started, by key: a retry was published of a run that had ended without success.
        self.due: dict[str, tuple[int, str]] = {}
        #: Called with each key whose run has ended without success.
        self.on_failure: Callable[[str], None] = lambda _key: None
        #: Whether an old task is over by the end of its settling time.
        self.strict = True
        self._looks: dict[tuple[str, str], float] = {}
        self._rejections: dict[str, bytes] = {}
        self._plans: dict[str, set[str]] = {}
        #: How often dry runs of each key arrived that no delayed copy had told of.
        self._arrivals: Counter[str] = Counter()
        #: How often each message was dead-lettered without an end in the database, and came back unacknowledged.
        self._dead: Counter[int] = Counter()
        self._returned: Counter[int] = Counter()
        #: Retries of runs that were not known then, and the rejections of those.
        self._no_such_run: set[tuple[str, int]] = set()
        self._rejected_runs: set[str] = set()
        #: The batch of the run, if it has one.
        self.batch = BatchObserver(self)
        #: When each message was first sent, and the rejections of those that no worker served in time.
        self._sent_at: dict[bytes, float] = {}
        self._turned_away: set[str] = set()

    def broken(self, promise: str, what: str) -> None:
        """Remember a violation, if it is the first."""
        if self.violation is None:
            self.violation = Violation(promise, what, self.world.now)
            self.world.note("OBSERVER", f"PROMISE {promise}: {what}")

    def read(self, body: bytes) -> Reading:
        """What a message means."""
        if body not in self.readings:
            try:
                command: Command | None = read_message(body)
            except UnreadableMessageError:
                command = None
            rejection = rejection_id(body)
            self._rejections[rejection] = body
            self.readings[body] = Reading(command, rejection)
        return self.readings[body]

    def published(self, body: bytes) -> None:
        """A publisher has sent a message. A retry of what has ended without success has to start a run."""
        self._sent_at.setdefault(body, self.world.now)
        reading = self.read(body)
        if isinstance(reading.command, RetryCommand):
            story = self.stories.get(reading.command.idempotency_key)
            if story is not None and story.may_be_retried and story.run == reading.command.run:
                self.due[story.key] = story.run + 1, reading.rejection

    # --- the broker -------------------------------------------------------------------------------------------------

    def acknowledged(self, process: Process, message: Message, held: float, *, unpaused: bool) -> None:
        """A worker acknowledges: something must have been confirmed to it that makes up for the message."""
        self._check_hold(process, held, unpaused=unpaused)
        if f"delayed {message.number}" in process.confirmed:
            return
        reading = self.read(message.body)
        if isinstance(reading.command, CancelCommand) and self.is_cancelled(reading.command.idempotency_key):
            return  # the request is in the database, and the end of the run answers it
        dead = f"dead {message.number}" in process.confirmed
        if dead and reading.rejection in self.given_up & process.confirmed:
            return
        if self.is_rejected(reading):
            confirmed = reading.rejection in process.confirmed
            if self.is_dead(reading):
                confirmed = confirmed and dead
            ends = {reading.rejection}
        else:
            ends = self.ends(reading)
            confirmed = not ends.isdisjoint(process.confirmed)
        if not confirmed:
            self.broken(NOTHING_LOST, f"message {message.number} was acknowledged before its end was confirmed")
        elif message.reply_to and not any(f"{end} to {message.reply_to}" in process.confirmed for end in ends):
            self.broken(NOTHING_LOST, f"message {message.number} was acknowledged, and {message.reply_to} has no reply")

    def _check_hold(self, process: Process, held: float, *, unpaused: bool) -> None:
        """No delivery is held for longer than the setting, but for requests that are under way by then.

        `hold_seconds` is infinite where the broker or the database may be away: without them nothing can be let go.
        """
        if unpaused and held > self.hold_seconds + HOLD_MARGIN_SECONDS:
            self.broken(KEEPS_GOING, f"{process.name} held a delivery for {held:.0f} s")

    def is_cancelled(self, key: str) -> bool:
        """Whether it was asked to cancel any run of a key."""
        return any(cancelled == key for cancelled, _ in self.cancels)

    def is_dead(self, reading: Reading) -> bool:
        """Whether a message can be run by nobody."""
        if reading.command is None or reading.rejection in self._turned_away:
            return True
        return reading.command.enterprise_manager not in {"default", LATE}

    def is_rejected(self, reading: Reading) -> bool:
        """Whether a message's right end is its rejection."""
        command = reading.command
        if command is None or self.is_dead(reading):
            return True
        if not isinstance(command, UnlinkCommand):
            return False
        story = self.stories.get(command.idempotency_key)
        return not command.dry_run and story is not None and story.fingerprint != command.fingerprint

    def ends(self, reading: Reading) -> set[str]:
        """The IDs of the events with which a message that can be run may end."""
        if reading.command is None:
            return set()
        key = reading.command.idempotency_key
        story = self.stories.get(key)
        if isinstance(reading.command, UnlinkCommand) and reading.command.dry_run:
            return self._plans.get(key, set())
        ends = [] if story is None else story.ended
        if isinstance(reading.command, RetryCommand):
            rejected = {reading.rejection} & self._rejected_runs
            return rejected | {json.loads(end)["id"] for end in ends[reading.command.run - 1 :]}
        return {json.loads(end)["id"] for end in ends}

    def arrived(self, body: bytes) -> None:
        """A message is delivered that is no delayed copy."""
        command = self.read(body).command
        if isinstance(command, UnlinkCommand) and command.dry_run:
            self._arrivals[command.idempotency_key] += 1

    def dead_lettered(self, message: Message) -> None:
        """A worker's dead letter of a message is confirmed, and it acknowledges the message next."""
        self._dead[message.number] += 1
        if self._dead[message.number] > 1 + self._returned[message.number]:
            self.broken(NOTHING_TWICE, f"message {message.number} was dead-lettered again without a crash")

    def delayed(self, message: Message) -> None:
        """A copy of a message goes to a delay queue: it will be answered, and perhaps dead-lettered, once more."""
        if self._dead[message.number] > self._returned[message.number]:
            self.broken(NOTHING_TWICE, f"message {message.number} was dead-lettered, and is delayed after that")

    def returned(self, message: Message) -> None:
        """A message came back unacknowledged."""
        self._returned[message.number] += 1

    def handed_over(self, process: Process, body: bytes) -> str:
        """A worker wants an event published. Returns its ID."""
        event = json.loads(body)
        data = event["data"]
        if event["type"] == BATCH_ENDED:
            self.batch.published(event)
            return str(event["id"])
        key = data["idempotency_key"]
        story = self.stories.get(key)
        self.world.note(process.name, f"publishes {data['outcome']} of {key}")
        if event["id"] in self._rejections:
            self._rejected(event["id"], data)
        elif data["outcome"] == Outcome.PLANNED:
            self._planned(key, event)
        elif story is None:
            self.broken(NOTHING_TWICE, f"{data['outcome']} of {key} was published without a claim")
        elif data["outcome"] == Outcome.SUBMITTED:
            self._progress(process, story)
        elif data["run"] > len(story.ended):
            self.broken(NOTHING_TWICE, f"{data['outcome']} of {key} was published before it was settled")
        elif story.ended[data["run"] - 1] != body:
            self.broken(NOTHING_TWICE, f"{data['outcome']} of {key} was published; settled was {story.outcome}")
        return str(event["id"])

    def _rejected(self, rejection: str, data: dict[str, Any]) -> None:
        match data["reason"]["code"]:
            case "unknown_enterprise_manager":
                self._turn_away(rejection, data)
            case "gave_up":
                self._given_up(rejection, data)
            case "run_not_found":
                self._run_rejected(rejection)
            case _ if not self.is_rejected(self.readings[self._rejections[rejection]]):
                key = data["idempotency_key"]
                self.broken(NOTHING_LOST, f"a command with the key {key} was rejected that should have been run")

    def _run_rejected(self, rejection: str) -> None:
        """A retry is rejected: there must have been no such run."""
        command = self.readings[self._rejections[rejection]].command
        if not isinstance(command, RetryCommand):
            self.broken(NOTHING_LOST, "a command that is no retry was rejected for its run")
            return
        story = self.stories.get(command.idempotency_key)
        known = story is not None and story.run >= command.run
        if known and (command.idempotency_key, command.run) not in self._no_such_run:
            self.broken(NOTHING_LOST, f"a retry of run {command.run} of {command.idempotency_key} was rejected")
        self.situations["run not found"] += 1
        self._rejected_runs.add(rejection)

    def _turn_away(self, rejection: str, data: dict[str, Any]) -> None:
        self._turned_away.add(rejection)
        if data["enterprise_manager"] in {"default", UNKNOWN_NAME}:
            return  # one of another name on the queue of this one, or no name at all
        self.situations["turned away"] += 1
        waited = self.world.now - self._sent_at[self._rejections[rejection]]
        if waited < TURNED_AWAY_SECONDS:
            self.broken(NOTHING_LOST, f"{data['idempotency_key']} was rejected after {waited:.0f} s without a queue")

    def _given_up(self, rejection: str, data: dict[str, Any]) -> None:
        self.situations["given up"] += 1
        self.given_up.add(rejection)
        if not self.unforeseen:
            self.broken(KEEPS_GOING, f"{data['idempotency_key']} was given up, and nothing unforeseen happened")
        if data["changed"] is not None:
            self.broken(NOTHING_CLAIMED, "a command was given up, and its event says whether it changed anything")

    def _planned(self, key: str, event: dict[str, Any]) -> None:
        data = event["data"]
        self._plans.setdefault(key, set()).add(event["id"])
        if len(self._plans[key]) > self._arrivals[key]:
            self.broken(NOTHING_TWICE, f"the plan of {key} has another ID than when it was refused")
        commands = [reading.command for reading in self.readings.values() if isinstance(reading.command, UnlinkCommand)]
        if not any(command.idempotency_key == key and command.dry_run for command in commands):
            self.broken(NOTHING_CLAIMED, f"{key} was planned, and is no dry run")
        elif data["changed"] is not False:
            self.broken(NOTHING_CLAIMED, f"a dry run says changed: {data['changed']}")

    def _progress(self, process: Process, story: Story) -> None:
        if not story.tasks:
            self.broken(NOTHING_CLAIMED, f"submitted of {story.key} was published, and nothing was submitted")
        elif story.holder is not process:
            self.broken(NOTHING_TWICE, f"{process.name} published submitted of {story.key} after a take-over")

    # --- the database -----------------------------------------------------------------------------------------------

    def wrote(self, process: Process, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        """A call of a worker has taken effect."""
        if name in {"claim", "retry"}:
            self._claimed(process, arguments[0], result)
        elif name in {"cancel", "mark_cancelled"}:
            self._cancel_asked(arguments[0], result)
        elif name == "count_rejected":
            self.batch.rejected(*arguments)
        elif name == "renew":
            self._renewed(process, result)
        elif name not in NOT_OF_A_LEASE:
            self._wrote_of_lease(process, name, arguments, result)

    def _renewed(self, process: Process, renewed: Renewed) -> None:
        """A worker that keeps the lease of what it does not work on keeps all others from it."""
        in_hand, before = self.in_hand[process](), self._unused.get(process, Counter())
        unused = [lease for lease in renewed.tokens.items() if lease[0] not in in_hand]
        self._unused[process] = Counter({lease: before[lease] + 1 for lease in unused})
        for (key, _), renewals in self._unused[process].items():
            if renewals > MOST_RENEWALS_UNUSED:
                self.broken(KEEPS_GOING, f"{process.name} renews the lease of {key}, and does not work on it")

    def _wrote_of_lease(self, process: Process, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        lease: Lease = arguments[0]
        story = self.stories[lease.key]
        self.world.note("ledger", f"{name} {lease.key} token {lease.token} by {process.name}: {result}")
        if name == "release":
            return
        if lease.token != story.token or story.holder is not process or story.stage is Stage.SETTLED:
            self.broken(NOTHING_TWICE, f"{process.name} wrote {name} of {lease.key} after it was taken over or settled")
        match arguments[1]:
            case Intended(intent, sent_at):
                self._intended(story, intent, sent_at, free=result)
            case Withdrawn(send):
                self._withdrawn(story, send)
            case SentAgain():
                self._sent_again(story, process)
            case Submitted(task, _):
                story.stage, story.recorded = Stage.SUBMITTED, task
            case Settled(_, event, _):
                self._settled(story, process, event)

    def _cancel_asked(self, request: CancelRequest, result: Any) -> None:
        key = request.key
        self.world.note("ledger", f"cancel {key}: {result if result is None else type(result).__name__}")
        if isinstance(result, Stored):
            self.cancels.setdefault((key, result.run), self.world.now)
            if request.run is not None and request.run != result.run:
                self.broken(NOTHING_HURT, f"run {result.run} of {key} is cancelled by a request for run {request.run}")
        elif isinstance(result, AlreadySettled):
            self._check_latest(self.stories[key], result.event)

    def _check_latest(self, story: Story, event: bytes) -> None:
        if not story.ended or event != story.ended[-1]:
            self.broken(NOTHING_TWICE, f"{story.key} has another event than it was settled with")

    def _claimed(self, process: Process, claim: Any, result: Any) -> None:
        self.world.note("ledger", f"claim {claim.key} by {process.name}: {type(result).__name__}")
        if isinstance(result, Claimed):
            self._taken(process, claim, result)
        elif isinstance(result, AlreadySettled):
            self._check_latest(self.stories[claim.key], result.event)
        elif isinstance(result, NoSuchRun):
            self._no_such_run.add((claim.key, claim.run))

    def _taken(self, process: Process, claim: NewClaim | Retry, result: Claimed) -> None:
        entry = result.entry
        story = self.stories.get(claim.key)
        if story is None:
            story = self._first_claimed(claim)
        elif entry.run != story.run:
            self._run_started(story, claim, entry)
        if entry.lease.token <= story.token or story.settled is not None:
            self.broken(NOTHING_TWICE, f"{claim.key} was given away twice with token {story.token}")
        if story.holder is not None and story.holder is not process:
            self.situations[f"taken over when {story.stage}"] += 1
            story.unknown += story.stage is Stage.INTENDED
        story.token, story.holder = entry.lease.token, process

    def _first_claimed(self, claim: NewClaim | Retry) -> Story:
        command = self.read(claim.command).command if isinstance(claim, NewClaim) else None
        if not isinstance(claim, NewClaim) or not isinstance(command, UnlinkCommand) or command.dry_run:
            raise AssertionError("only a command to unlink is claimed")
        story = Story(claim.key, claim.fingerprint, command, self.world.now, run_claimed_at=self.world.now)
        self.stories[claim.key] = story
        return story

    def _run_started(self, story: Story, claim: NewClaim | Retry, entry: Entry) -> None:
        """A retry has started a run: exactly the next one of the run that it names, which has not succeeded."""
        self.situations[f"run started after {story.outcome}, changed {story.changed}"] += 1
        self.world.note("ledger", f"run {entry.run} of {story.key} begins")
        named = claim.run if isinstance(claim, Retry) else None
        if named != story.run or entry.run != story.run + 1 or not story.may_be_retried:
            self.broken(NOTHING_TWICE, f"run {entry.run} of {story.key} was started by a retry of {named}")
        if entry.intent != story.intent:
            self.broken(NOTHING_TWICE, f"run {entry.run} of {story.key} means another link")
        if entry.cancelled and (story.key, entry.run) not in self.cancels:
            self.broken(NOTHING_LOST, f"run {entry.run} of {story.key} is cancelled, and nobody asked for it")
        command = self.read(entry.command).command
        if not isinstance(command, UnlinkCommand):
            raise TypeError(command)
        story.start_run(self.world.now, command)

    def _intended(self, story: Story, intent: Intent, sent_at: datetime, *, free: bool) -> None:
        if story.intent is None:
            story.intended_at = self.world.now
        elif story.intent.link.object_in_job_id != intent.link.object_in_job_id:
            self.broken(NOTHING_TWICE, f"{story.key} meant another link before")
        story.intent = intent
        if not free:
            self.situations["job busy elsewhere"] += 1
            return
        story.stage = Stage.INTENDED
        story.sent_at = self.world.now
        if story.command.not_after is not None and sent_at > story.command.not_after:
            self.broken(NOTHING_HURT, f"{story.key} was started after its not_after")
        if story.command.not_before is not None:
            if story.command.not_before > EPOCH + timedelta(seconds=story.run_claimed_at):
                self.situations["waited for its time" if story.run == 1 else "another run waited for its time"] += 1
            if sent_at < story.command.not_before:
                self.broken(NOTHING_HURT, f"{story.key} was started before its not_before")
        self._require_no_cancel(story)
        for other in self.stories.values():
            if (
                other is not story
                and other.stage in {Stage.INTENDED, Stage.SUBMITTED}
                and other.intent is not None
                and other.intent.job_id == intent.job_id
            ):
                self.broken(NOTHING_TWICE, f"{story.key} and {other.key} edit one job at a time")

    def _require_no_cancel(self, story: Story) -> None:
        if (story.key, story.run) in self.cancels:
            self.broken(NOTHING_HURT, f"{story.key} is sent, and somebody asked to cancel it")

    def _sent_again(self, story: Story, process: Process) -> None:
        self.situations["sent again"] += 1
        self._require_no_cancel(story)
        if self._can_follow(story, process) is not None:
            self.broken(NOTHING_TWICE, f"{story.key} is sent again, and its task is known")
        story.stage, story.recorded = Stage.INTENDED, None

    def _withdrawn(self, story: Story, send: int) -> None:
        if send > 1:  # the DELETE before it may be carried out
            return
        story.stage, story.recorded = Stage.CLAIMED, None
        if story.tasks:
            self.broken(NOTHING_CLAIMED, f"{story.key} was withdrawn, and its DELETE had arrived")

    def _settled(self, story: Story, process: Process, body: bytes) -> None:
        data = json.loads(body)["data"]
        story.stage, story.settled, story.settled_at = Stage.SETTLED, body, self.world.now
        story.outcome, story.evidence, story.changed = data["outcome"], data["evidence"], data["changed"]
        story.ended.append(body)
        self.batch.look()
        if len(story.ended) != story.run or data["run"] != story.run:
            self.broken(NOTHING_TWICE, f"run {story.run} of {story.key} ends as run {data['run']}")
        if story.command.enterprise_manager == LATE:
            self.situations["found its queue"] += 1
        self.world.note("ledger", f"{story.key} is {story.outcome}, changed {story.changed}, {data['evidence']}")
        self.situations[f"{story.outcome} {data['evidence'] or (data['reason'] or {}).get('code')}"] += 1
        self._check_tasks_left(story, process)
        if story.changed is False and story.removed:
            self.broken(NOTHING_CLAIMED, f"{story.key} is {story.outcome}, changed: false, and had removed its link")
        if story.outcome == Outcome.SUCCEEDED:
            self._check_success(story, data)
        elif story.outcome == Outcome.FAILED:
            self._check_failure(story, data)
        elif story.outcome == Outcome.TIMED_OUT:
            self._check_time_out(story)
        if story.may_be_retried:
            self.on_failure(story.key)
        asked = self.cancels.get((story.key, story.run))
        if story.outcome == Outcome.CANCELLED and asked is None:
            self.broken(NOTHING_CLAIMED, f"{story.key} was cancelled, and nobody asked for it")
        if story.outcome != Outcome.CANCELLED and asked is not None and asked < story.run_claimed_at:
            self.broken(NOTHING_HURT, f"{story.key} is {story.outcome}, and was cancelled before it came")

    # --- what an event claims ---------------------------------------------------------------------------------------

    def _check_success(self, story: Story, data: dict[str, Any]) -> None:
        # What an earlier run may have done counts as done by this one.
        start, end = story.claimed_at if story.earlier_may_act else story.run_claimed_at, self.world.now
        evidence, link_id = data["evidence"], data["repository"]["link_id"]
        if evidence == "absent":
            if data["changed"] is not False or data["verified"] is not True:
                self.broken(NOTHING_CLAIMED, f"{story.key} was absent, changed {data['changed']}")
            if not self._was_absent(story, start, end):
                self.broken(NOTHING_CLAIMED, f"{story.key} was never absent")
            return
        if story.intent is None or link_id != story.intent.link.object_in_job_id or data["changed"] is not True:
            self.broken(NOTHING_CLAIMED, f"{story.key} succeeded with a link that it did not mean")
            return
        link = self.server.jobs[story.intent.job_id].links[link_id]
        if _always(link.present, start, end):
            self.broken(NOTHING_CLAIMED, f"{story.key} succeeded, and its link was there all the time")
        if data["verified"] and _always(link.listed, start, end):
            self.broken(NOTHING_CLAIMED, f"{story.key} was verified, and its link was listed all the time")
        if not any(span.end is None or span.end >= start for span in link.listed):
            self.broken(NOTHING_CLAIMED, f"{story.key} changed something that was gone before")
        if evidence == "task" and not any(task.finished and task.success for task in story.tasks):
            self.broken(NOTHING_CLAIMED, f"{story.key} succeeded by a task that had not succeeded")
        if evidence == "links" and _always(link.listed, start, end):
            self.broken(NOTHING_CLAIMED, f"{story.key} succeeded by its links, which always showed it")

    def _was_absent(self, story: Story, start: float, end: float) -> bool:
        command = story.command
        job = next(job for job in self.server.jobs.values() if command.job.id == job.id or command.job.name == job.name)
        link_id = story.intent.link.object_in_job_id if story.intent is not None else command.repository.link_id
        if link_id is not None:
            link = job.links.get(link_id)
            return link is None or not _always(link.present, start, end)
        return job.lacked_repository(self.uid_of(command), start, end)

    def uid_of(self, command: UnlinkCommand) -> str:
        """The UID of the repository that a command names by UID or name."""
        named = command.repository
        if named.uid is not None:
            return named.uid
        return next((uid for uid, name in self.server.repositories.items() if name == named.name), "")

    def _check_failure(self, story: Story, data: dict[str, Any]) -> None:
        code = data["reason"]["code"]
        if code == "link_absent" and not self._was_absent(story, story.run_claimed_at, self.world.now):
            self.broken(NOTHING_CLAIMED, f"{story.key} failed as absent, and never was")
        if code == "gave_up":
            self._check_gave_up(story, data)
        if code == "task_failed" and not any(task.finished and task.success is False for task in story.tasks):
            self.broken(NOTHING_CLAIMED, f"{story.key} failed by a task that had not failed")

    def _check_gave_up(self, story: Story, data: dict[str, Any]) -> None:
        sent_often = data["reason"]["message"].startswith("sent ")
        if sent_often and story.left + story.unknown < MOST_SENDS:
            self.broken(NOTHING_CLAIMED, f"{story.key} was given up after {story.left} DELETEs: {data['reason']}")

    def _check_time_out(self, story: Story) -> None:
        spent = self.world.now - story.sent_at
        if spent < story.command.timeout_seconds:
            self.broken(NOTHING_CLAIMED, f"{story.key} timed out after {spent:.0f} s")

    def _check_tasks_left(self, story: Story, process: Process) -> None:
        """A worker that can follow its task to the end does so, while the command's time lasts."""
        time_is_over = self.world.now - story.sent_at >= story.command.timeout_seconds
        if story.changed is None or time_is_over:
            return
        task = self._can_follow(story, process)
        if task is not None and not task.finished:
            self.broken(NOTHING_CLAIMED, f"{story.key} was settled before {task.ticket.task_id} was finished")

    def _can_follow(self, story: Story, process: Process) -> TrueTask | None:
        """The task of a key, if it is recorded, and this process still has the session that started it."""
        for task in story.tasks:
            alive = task.ticket.session in self.server.sessions and not task.forgotten
            if task.ticket == story.recorded and task.known and task.sender is process and alive:
                return task
        return None

    # --- Enterprise Manager -----------------------------------------------------------------------------------------

    def looked_for_backups(self, process: Process, job_id: str) -> None:
        """A worker is told which linked backups an edit of the job would drop."""
        self._looks[process.name, job_id] = self.world.now

    def delete_called(self, process: Process, key: str, job_id: str, link_id: str) -> int:
        """The core sends a DELETE. Returns the run that it belongs to."""
        story = self.stories.get(key)
        self.world.note(process.name, f"sends DELETE {link_id[:8]} for {key}")
        if story is None:
            self.broken(NOTHING_TWICE, f"a DELETE for {key}, which was never claimed")
            return 0
        if story.holder is not process or story.stage is not Stage.INTENDED:
            self.broken(NOTHING_TWICE, f"{process.name} sent a DELETE for {key} without a living intent")
        if story.intent is None or (story.intent.job_id, story.intent.link.object_in_job_id) != (job_id, link_id):
            self.broken(NOTHING_TWICE, f"a DELETE for {key} of another link than recorded")
        self._check_consent(process, story, job_id)
        return story.run

    def delete_permitted(self, process: Process, key: str) -> None:
        """The core permits a DELETE to leave: it has its slot."""
        story = self.stories.get(key)
        if story is not None and (story.holder is not process or story.stage is not Stage.INTENDED):
            self.broken(NOTHING_TWICE, f"{process.name} let a DELETE for {key} leave without a living intent")

    def _check_consent(self, process: Process, story: Story, job_id: str) -> None:
        looked_at = self._looks.get((process.name, job_id), -1.0)
        at_risk = [backup for backup, since in self.server.jobs[job_id].backups.items() if since <= looked_at]
        unseen = looked_at < 0 and self.server.jobs[job_id].backups
        if (at_risk or unseen) and not story.command.allow_linked_backups_removal:
            self.broken(NOTHING_HURT, f"{story.key} drops linked backups without consent")

    def delete_left(self, key: str) -> None:
        """A DELETE has left its worker; whether it arrives is another matter."""
        if key in self.stories:
            self.stories[key].left += 1

    def delete_arrived(self, task: TrueTask) -> None:
        """A DELETE is accepted."""
        story = self.stories.get(task.key)
        if story is None:
            self.broken(NOTHING_TWICE, f"a DELETE arrived for {task.key}, which was never claimed")
            return
        self._check_named(story, task)
        if task.run != story.run:  # it was on its way for so long that its run has ended meanwhile
            if self.strict and not all(each.finished for each in story.tasks):
                self._beside_an_earlier_run(story)
            story.earlier_tasks.append(task)
            return
        self._check_overlap(story, task)
        story.tasks.append(task)
        if len(story.tasks) > MOST_SENDS:
            self.broken(NOTHING_TWICE, f"{story.key} sent more than {MOST_SENDS} DELETEs")

    def _check_named(self, story: Story, task: TrueTask) -> None:
        named = story.command.repository
        link = task.job.links.get(task.link_id)
        if link is None:
            self.broken(NOTHING_HURT, f"a DELETE for {story.key} of a link that never was")
        elif named.link_id is not None:
            if named.link_id != task.link_id:
                self.broken(NOTHING_HURT, f"a DELETE for {story.key} of a link that it did not name")
        elif link.uid != self.uid_of(story.command):
            self.broken(NOTHING_HURT, f"a DELETE for {story.key} of another repository's link")
        elif story.intended_at is None or link.present[0].start > story.intended_at:
            self.broken(NOTHING_TWICE, f"a DELETE for {story.key} of a link that was put there afterwards")
        if story.command.job.id not in {None, task.job.id} or story.command.job.name not in {None, task.job.name}:
            self.broken(NOTHING_HURT, f"a DELETE for {story.key} of another job's link")

    def _check_overlap(self, story: Story, task: TrueTask) -> None:
        """No two edits of a job at a time.

        Except with one that could not be followed, or outlived its command's time: its key is settled (by the links, or
        as timed out), and nobody can tell that its task still runs. `_check_tasks_left` sees to it that the others are
        followed to their end before they are settled.
        """
        if self.strict and story.earlier_may_act and not all(each.finished for each in story.earlier_tasks):
            self._beside_an_earlier_run(story)
        if story.holder is not task.sender or story.stage is not Stage.INTENDED:
            return  # it was on its way for so long that its worker has lost the key meanwhile
        for other in self.stories.values():
            if other is story:
                continue
            running = [each for each in other.tasks if each.job is task.job and not each.finished]
            if running and other.settled is None:
                self.broken(NOTHING_TWICE, f"the DELETE for {story.key} met the running task of {other.key}")

    def _beside_an_earlier_run(self, story: Story) -> None:
        self.broken(NOTHING_TWICE, f"run {story.run} of {story.key} sent a DELETE beside one of an earlier run")

    def link_removed(self, task: TrueTask) -> None:
        """A task has removed its link."""
        story = self.stories[task.key]
        story.removed += 1
        if story.settled is not None or task not in story.tasks:
            self.situations["link removed after the end"] += 1
        under_way = story.settled is None and task in story.tasks
        if not under_way and story.changed is False:
            self.broken(NOTHING_CLAIMED, f"{task.key} said changed: false, and then its link went")

    def removed_for_another(self, story: Story, link_id: str) -> bool:
        """Whether a link was removed for another key."""
        return any(
            other is not story and task.link_id == link_id and task.applied_at is not None
            for other in self.stories.values()
            for task in (*other.earlier_tasks, *other.tasks)
        )

    # --- when it is over --------------------------------------------------------------------------------------------

    def check_ends(self, scenario: Scenario, bodies: list[bytes], events: list[bytes], dead: list[bytes]) -> None:
        """Every command has come to its end, and to one only."""
        published: dict[str, set[bytes]] = {}
        kinds: dict[str, set[str]] = {}
        for body in dict.fromkeys(events):
            event = json.loads(body)
            published.setdefault(event["id"], set()).add(body)
            if event["type"] == BATCH_ENDED:
                continue
            no_end = event["data"]["outcome"] in {Outcome.SUBMITTED, Outcome.PLANNED}
            if not no_end and event["id"] not in self._rejections:
                kinds.setdefault(f"{event['subject']} {event['data']['run']}", set()).add(event["id"])
        dead_keys = {reading.command.idempotency_key for body in dead if (reading := self.read(body)).command}
        self.batch.check_end(published)
        for story in self.stories.values():
            self._check_story(story, published, kinds, dead_keys)
            if (lacking := shortfall(self, story, scenario, published)) is not None:
                self.broken(KEEPS_GOING, lacking)
        for body in dict.fromkeys(bodies):
            reading = self.read(body)
            ends = {reading.rejection} if self.is_rejected(reading) else self.ends(reading)
            if isinstance(reading.command, CancelCommand) and reading.command.idempotency_key not in self.stories:
                continue  # its unlink never came
            if ends.isdisjoint(published):
                self.broken(NOTHING_LOST, f"a command has no end: {body[:120]!r}")
            if self.is_dead(reading) and body not in dead:
                self.broken(NOTHING_LOST, f"an unreadable command is in no dead letter: {body[:120]!r}")

    def _check_story(
        self, story: Story, published: dict[str, set[bytes]], kinds: dict[str, set[str]], dead_keys: set[str]
    ) -> None:
        if story.settled is None:
            self.broken(KEEPS_GOING, f"{story.key} was never settled; it is {story.stage}")
        due, rejection = self.due.get(story.key, (0, ""))
        if due > story.run and rejection not in self.given_up:
            self.broken(NOTHING_LOST, f"a retry of {story.key} has started no run {due}")
        for run, end in enumerate(story.ended, start=1):
            event = json.loads(end)
            if published.get(event["id"], set()) != {end}:
                self.broken(NOTHING_LOST, f"{story.key} is settled, and its event was not published as it is")
            elif len(kinds.get(f"{story.key} {run}", ())) > 1:
                self.broken(NOTHING_TWICE, f"run {run} of {story.key} ended in two ways")
            gave_up = event["data"]["outcome"] == Outcome.FAILED and event["data"]["reason"]["code"] == "gave_up"
            if gave_up and story.key not in dead_keys:
                self.broken(NOTHING_LOST, f"{story.key} was given up, and is in no dead letter")


def _always(spans: list[Span], start: float, end: float) -> bool:
    return any(span.covers(start, end) for span in spans)
