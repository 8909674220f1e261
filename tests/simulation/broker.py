"""The broker: command queues, misrouted commands, delay queues, events, dead letters; and a worker's way to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from contracts.batches import BatchEnded
from contracts.commands import UNKNOWN_NAME
from contracts.events import Event, Reason
from tests.simulation.astray import NO_NAME
from tests.simulation.promises import Observer
from tests.simulation.scenario import Weather
from tests.simulation.world import EPOCH, Process, World
from worker.unlinks.ports.broker import DELIVERY_LIMIT, Delivery, Misrouting, PublishRefusedError, ReplyTo

#: The delay queues, in seconds.
TIERS = (5, 30, 120, 600)
#: For how long a refused publish is repeated, and with which pauses, in seconds (`worker.broker.outbox`).
REFUSED_SECONDS = 60.0
REFUSED_AGAIN_SECONDS = 5.0
PAUSE_SECONDS = 7.0
#: A connection is closed by the broker when nothing came from its worker for so long, in seconds.
HEARTBEAT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Message:
    """A message as the broker holds it; a copy in a delay queue has another number."""

    number: int
    body: bytes
    attempt: int = 1
    reply_to: ReplyTo | None = None
    name: str = "default"
    misrouted: bool = False
    misrouted_seconds: int = 0
    #: How often this copy came back unacknowledged, and all copies together.
    returned: int = 0
    returns: int = 0
    refusals: int = 0
    taken_away: str | None = None
    #: When it was first delivered, by the worker's clock; of a copy, that of the original.
    arrived_at: datetime | None = None


@dataclass(eq=False, slots=True)
class Connection:
    """A worker's connection for consuming. The two ends learn at different times that it is lost."""

    process: Process
    take: Callable[[SimulatedDelivery], None]
    prefetch: int
    names: frozenset[str]
    open_here: bool = True
    open_at_worker: bool = True
    unacknowledged: dict[int, Message] = field(default_factory=dict)

    def may_take(self, message: Message) -> bool:
        """Whether it consumes the message's queue, and the prefetch leaves room."""
        if not message.misrouted and message.name not in self.names:
            return False
        queue = (message.misrouted, None if message.misrouted else message.name)
        held = [(each.misrouted, None if each.misrouted else each.name) for each in self.unacknowledged.values()]
        return held.count(queue) < self.prefetch


class Broker:
    """The server. `delivery_limit` is that of the command queues."""

    def __init__(self, world: World, observer: Observer, weather: Weather, delivery_limit: int) -> None:
        self._world = world
        self._observer = observer
        self._weather = weather
        self.delivery_limit = delivery_limit
        self._names: set[str] = {"default"}
        self._ready: list[Message] = []
        self._connections: list[Connection] = []
        self.delayed = 0
        self.events: list[bytes] = []
        self.dead_letters: list[Message] = []
        self._pumping = False

    @property
    def empty(self) -> bool:
        """Whether no command is anywhere in it."""
        return not self._ready and not self.delayed and not any(each.unacknowledged for each in self._connections)

    def publish(self, message: Message) -> None:
        """Route a message by its name, to the misrouted ones if there is no queue for it."""
        misrouted = message.name not in self._names
        if misrouted:
            self._observer.situations["without a queue"] += 1
        self._put(replace(message, misrouted=misrouted))

    def _put(self, message: Message, *, first: bool = False) -> None:
        self._ready.insert(0 if first else len(self._ready), message)
        self._pump_soon()

    def _give_back(self, message: Message) -> None:
        """Put a delivered message back into its queue, unless it was delivered too often."""
        self._observer.returned(message)
        returned = replace(message, returned=message.returned + 1, returns=message.returns + 1)
        if message.misrouted or returned.returned <= self.delivery_limit:
            self._put(returned, first=True)
        else:
            self._observer.situations["taken away"] += 1
            self._world.note("broker", f"takes message {message.number} away")
            self._put(replace(returned, misrouted=True, returned=0, taken_away=DELIVERY_LIMIT))

    def delay(self, message: Message, tier: int) -> None:
        """Put a message into a delay queue."""
        self.delayed += 1

        def back() -> None:
            self.delayed -= 1
            self.publish(message)

        self._world.after(tier, back)

    # --- consumers --------------------------------------------------------------------------------------------------

    def connect(self, connection: Connection) -> None:
        """Begin to deliver."""
        self._connections.append(connection)
        self._names |= connection.names
        self._pump_soon()

    def close(self, connection: Connection) -> None:
        """The broker learns that a connection is lost: what was unacknowledged is delivered again."""
        if connection.open_here:
            connection.open_here = False
            self._connections.remove(connection)
            for message in connection.unacknowledged.values():
                self._give_back(message)
            connection.unacknowledged.clear()

    def acknowledge(self, connection: Connection, number: int) -> None:
        """A worker is done with a message."""
        if connection.open_here and connection.unacknowledged.pop(number, None) is not None:
            self._pump_soon()

    def requeue(self, connection: Connection, number: int) -> None:
        """A worker gives a message back."""
        if connection.open_here and (message := connection.unacknowledged.pop(number, None)) is not None:
            self._give_back(message)

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._world.after(0.001, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        world = self._world
        while takers := self._takers():
            taker = takers[world.random.randrange(len(takers))]
            deliverable = [place for place, message in enumerate(self._ready) if taker.may_take(message)]
            place = world.random.randrange(len(deliverable)) if world.chance(self._weather.reordered) else 0
            message = self._ready.pop(deliverable[place])
            number = world.serial()
            taker.unacknowledged[number] = message
            self._deliver(taker, number, message)

    def _takers(self) -> list[Connection]:
        """The connections that may take the first message that any of them may take."""
        for message in self._ready:
            if takers := [each for each in self._connections if each.may_take(message)]:
                return takers
        return []

    def _deliver(self, connection: Connection, number: int, message: Message) -> None:
        process = connection.process

        def arrive() -> None:
            if connection.open_at_worker:
                delivery = SimulatedDelivery(self, self._observer, connection, number, message)
                process.world.note(process.name, f"<- message {message.number} attempt {message.attempt}")
                connection.take(delivery)

        self._world.after(self._world.travel(), lambda: process.deliver(arrive))


class SimulatedDelivery:
    """`worker.unlinks.ports.broker.Delivery`."""

    def __init__(
        self, broker: Broker, observer: Observer, connection: Connection, number: int, message: Message
    ) -> None:
        self._broker = broker
        self._observer = observer
        self._connection = connection
        self._number = number
        self.message = message
        self.taken_at = connection.process.time()
        process = connection.process
        if message.arrived_at is None:
            observer.arrived(message.body)
        self.arrived_at = message.arrived_at or EPOCH + timedelta(seconds=process.world.now + process.wall_offset)
        self._pauses = connection.process.pauses

    body = property(lambda self: self.message.body)
    reply_to = property(lambda self: self.message.reply_to and self.message.reply_to.queue)
    correlation_id = property(lambda self: self.message.reply_to and self.message.reply_to.correlation_id)
    attempt = property(lambda self: self.message.attempt)
    live = property(lambda self: self._connection.open_at_worker)
    redelivered = property(lambda self: self.message.returned > 0)
    content_type: str | None = None
    user_id: str | None = None
    headers: Mapping[str, object] = {}
    returns = property(lambda self: self.message.returns)
    refusals = property(lambda self: self.message.refusals)

    @property
    def taken_away(self) -> str | None:
        """As the port has it."""
        too_often = self.returns > self._broker.delivery_limit
        return self.message.taken_away or (DELIVERY_LIMIT if too_often else None)

    @property
    def enterprise_manager(self) -> str:
        """As the port has it."""
        return UNKNOWN_NAME if self.message.name == NO_NAME else self.message.name

    @property
    def misrouting(self) -> Misrouting | None:
        """As the port has it. What this worker serves is counted from the start each time."""
        if not self.message.misrouted:
            return None
        served = self.message.name in self._connection.names
        return Misrouting(self.message.name, 0 if served else self.message.misrouted_seconds)

    def acknowledge(self) -> None:
        """As the port has it."""
        self._send(self._broker.acknowledge, acknowledged=True)

    def requeue(self) -> None:
        """As the port has it."""
        self._send(self._broker.requeue, acknowledged=False)

    def _send(self, what: Callable[[Connection, int], None], *, acknowledged: bool) -> None:
        process = self._connection.process
        if process.dead or process.ending or not self._connection.open_at_worker:
            return
        if acknowledged:
            process.world.note(process.name, f"-> ack message {self.message.number}")
            held = process.time() - self.taken_at
            self._observer.acknowledged(process, self.message, held, unpaused=self._pauses == process.pauses)
        process.world.after(process.world.travel(), lambda: what(self._connection, self._number))


def _kind_of(body: bytes) -> str:
    """The kind of an event: its routing key without the Enterprise Manager."""
    return str(json.loads(body)["type"]).split(".")[1]


def _message(delivery: Delivery) -> Message:
    if not isinstance(delivery, SimulatedDelivery):
        raise TypeError(delivery)
    return delivery.message


def _patience(refusals: int) -> float:
    return REFUSED_AGAIN_SECONDS if refusals else REFUSED_SECONDS


class SimulatedOutbox:
    """`worker.unlinks.ports.broker.Outbox`: publishes again until the broker has confirmed, or refused for a minute."""

    def __init__(self, broker: Broker, process: Process, observer: Observer, weather: Weather) -> None:
        self._broker = broker
        self._process = process
        self._observer = observer
        self._weather = weather

    async def publish(
        self, event: Event | BatchEnded | bytes, reply_to: Collection[ReplyTo] = (), *, refusals: int = 0
    ) -> None:
        """As the port has it."""
        body = event if isinstance(event, bytes) else event.to_bytes()
        story = self._observer.handed_over(self._process, body)
        patience = _patience(refusals)
        await self._until_confirmed(lambda: self._broker.events.append(body), story, _kind_of(body), patience)
        self._process.confirmed.update(f"{story} to {each}" for each in reply_to)

    async def offer(self, event: Event) -> None:
        """As the port has it."""
        body = event.to_bytes()
        story = self._observer.handed_over(self._process, body)
        await self._until_confirmed(lambda: self._broker.events.append(body), story, _kind_of(body), 0)

    async def delay(self, delivery: Delivery, seconds: float, *, failed: bool = False, refused: bool = False) -> None:
        """As the port has it."""
        message = _message(delivery)
        self._observer.delayed(message)
        tier = min(TIERS, key=lambda each: abs(each - seconds))
        waited = 0 if delivery.misrouting is None else delivery.misrouting.seconds + tier

        world = self._process.world

        def store() -> None:
            number, attempt = world.serial(), message.attempt + failed
            copy = replace(message, number=number, attempt=attempt, misrouted_seconds=waited, returned=0)
            copy = replace(copy, arrived_at=delivery.arrived_at, refusals=message.refusals + refused)
            world.note("broker", f"message {message.number} waits {seconds:.0f} s as {copy.number}")
            self._broker.delay(copy, tier)

        await self._until_confirmed(store, f"delayed {message.number}", "delay", REFUSED_SECONDS)

    async def dead_letter(self, delivery: Delivery, reason: Reason, run: int | None = None) -> None:
        """As the port has it."""
        del reason
        message = _message(delivery)
        store = lambda: self._broker.dead_letters.append(message)  # noqa: E731 - as in `publish`
        await self._until_confirmed(store, f"dead {message.number}", "dead letter", _patience(delivery.refusals))
        if run is None:
            self._observer.dead_lettered(message)

    async def _until_confirmed(self, store: Callable[[], None], what: str, kind: str, patience: float) -> None:
        process, world, weather = self._process, self._process.world, self._weather

        def stored() -> bool:
            if weather.refuses_publish(kind):
                world.note("broker", f"refuses {what} of {process.name}")
                return False
            world.note("broker", f"stores {what} of {process.name}")
            store()
            return True

        weather.break_now_and_then()
        began = process.time()
        while True:
            lost = weather.fate_of_publish()
            try:
                # A lost confirm is noticed when the connection is found to be lost, or at the latest by its time-out.
                async with asyncio.timeout(30 if not lost else world.random.choice((0.1, 2, 30))):
                    confirmed = await process.request(stored, lost=lost, back=weather.lateness())
            except TimeoutError:
                continue
            if not confirmed:
                self._observer.situations[f"refused {kind}"] += 1
                if process.time() - began >= patience:
                    raise PublishRefusedError(f"{kind} is refused")
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            process.confirmed.add(what)
            weather.break_now_and_then()
            return
