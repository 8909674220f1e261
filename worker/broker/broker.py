"""The broker as the rest of the worker sees it: two connections, all queues, one outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from contracts.commands import UNKNOWN_NAME
from worker.broker import topology
from worker.broker.connection import SupervisedConnection, user_of
from worker.broker.delivery import BrokerDelivery, reply_patterns
from worker.broker.intake import QueueIntake
from worker.broker.large_messages import LargeMessages
from worker.broker.misrouted import misrouted_delivery
from worker.broker.outbox import BrokerOutbox
from worker.broker.problems import BrokerError
from worker.broker.topology import DELAY_TIERS, MISROUTED, command_queue
from worker.settings import BrokerSettings
from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection

#: Seconds that `Broker.close` waits for outstanding publisher confirms.
FLUSH_SECONDS = 10.0

#: The prefetch of `unlink.misrouted`.
MISROUTED_PREFETCH = 16

_log = structlog.get_logger()


class Broker:
    """RabbitMQ: consumes the command queues, publishes events, and recovers from every failure of the broker.

    It also consumes `unlink.misrouted`, which is called `UNKNOWN_NAME` in `pause` and `resume`.

    Args:
        queues: the prefetch of each Enterprise Manager's queue, by the Enterprise Manager's name.
        reply_to: comma-separated patterns (`fnmatch`) of the queues that a command may name in `reply_to`.
        deliver: called with each delivery, on the event loop; must not raise.
        event_headers: called in the publisher's context; returns headers for an event, such as its trace.
        forwarders: broker users whose statement about a message's original sender is trusted, besides the worker's own.
        delay_tiers: seconds of the delay queues.

    Raises:
        SettingsInvalidError: the URL or the CA file cannot be used.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        clock: Clock,
        *,
        queues: Mapping[str, int],
        reply_to: str,
        deliver: Callable[[BrokerDelivery], None],
        event_headers: Callable[[], Mapping[str, str]] = dict,
        forwarders: Collection[str] = (),
        delay_tiers: Sequence[int] = DELAY_TIERS,
    ) -> None:
        self.topology = topology.describe(queues, delay_tiers)
        user = user_of(settings)
        self._only_verify = settings.topology == "verify"
        self._listeners: list[Callable[[bool], None]] = []
        self._notified_up = False
        self._restoring: asyncio.Task[None] | None = None
        self._consume, self._publish = (
            SupervisedConnection(
                settings, clock, purpose=purpose, prepare=self._establish, changed=self._availability_changed
            )
            for purpose in ("consume", "publish")
        )
        self.outbox = BrokerOutbox(
            self._publish,
            clock,
            user=user,
            confirm_seconds=settings.confirm_seconds,
            delay_tiers=delay_tiers,
            restore=self._restore,
            event_headers=event_headers,
        )
        intake = partial(
            QueueIntake,
            connection=self._consume,
            clock=clock,
            receive=deliver,
            large=LargeMessages(clock),
            restore=self._restore,
        )
        given: dict[str, Any] = {"reply_patterns": reply_patterns(reply_to), "forwarders": {user, *forwarders}}
        self._commands = {
            name: intake(
                name, command_queue(name), prefetch, make=partial(BrokerDelivery, enterprise_manager=name, **given)
            )
            for name, prefetch in queues.items()
        }
        misrouted = partial(misrouted_delivery, served=frozenset(queues), **given)
        self._misrouted = intake(UNKNOWN_NAME, MISROUTED, MISROUTED_PREFETCH, make=misrouted)
        self._intakes = {**self._commands, UNKNOWN_NAME: self._misrouted}

    @property
    def up(self) -> bool:
        """Whether both connections are open, and the topology was declared or verified on them."""
        return self._consume.is_open and self._publish.is_open

    @property
    def consuming(self) -> frozenset[str]:
        """The Enterprise Managers on whose queues a consumer is registered on an open channel."""
        return frozenset(name for name, intake in self._commands.items() if intake.consuming)

    @property
    def consuming_misrouted(self) -> bool:
        """Whether a consumer is registered on `unlink.misrouted`."""
        return self._misrouted.consuming

    @property
    def wanted(self) -> frozenset[str]:
        """The Enterprise Managers whose queues should have a consumer: those that are not paused."""
        return frozenset(name for name, intake in self._commands.items() if intake.wanted)

    @property
    def last_problem(self) -> str | None:
        """Why the broker is not available, in one line; None while it is, and until the first attempt has failed."""
        return self._consume.problem or self._publish.problem

    def on_availability(self, listener: Callable[[bool], None]) -> None:
        """Call `listener` with the new value whenever `up` changes."""
        self._listeners.append(listener)

    async def start(self) -> None:
        """Connect, declare or verify the topology, and consume the command queues; returns when all of it is done.

        A queue that is paused is not waited for.
        While the broker cannot be reached or refuses, it retries with back-off, without a limit. The reason is in the
        log and in `last_problem`. A worker that exited instead would be restarted again and again.
        """
        self._consume.start()
        self._publish.start()
        self.outbox.start()
        for intake in self._intakes.values():
            intake.start()
        await self._publish.opened()
        await asyncio.gather(*(intake.until_consuming() for intake in self._commands.values()))

    def pause(self, enterprise_manager: str, why: str) -> None:
        """Hand on no delivery of one queue until every reason is removed.

        Unacknowledged deliveries are unaffected. The consumer stays registered as long as there are any. A second
        pause for the same reason has no effect.
        """
        self._intakes[enterprise_manager].pause(why)

    def resume(self, enterprise_manager: str, why: str) -> None:
        """Remove one reason. After the last one, consuming continues. An unknown reason is ignored."""
        self._intakes[enterprise_manager].resume(why)

    async def stop_consuming(self) -> None:
        """Cancel all consumers for good. Unacknowledged deliveries can still be acknowledged."""
        await asyncio.gather(*(intake.drain() for intake in self._intakes.values()))

    async def close(self) -> None:
        """Wait, within limits, for confirms and until the broker has received the acknowledgements; then disconnect.

        Unacknowledged deliveries return to their queues. A second call does nothing.
        """
        await self.outbox.close(FLUSH_SECONDS)
        if self._restoring is not None:
            self._restoring.cancel()
        await asyncio.gather(*(intake.close() for intake in self._intakes.values()))
        await asyncio.gather(self._consume.close(), self._publish.close())

    async def _establish(self, connection: AsyncioConnection) -> None:
        establish = topology.verify if self._only_verify else topology.declare
        await establish(self.topology, connection)

    async def _restore(self) -> None:
        """Declare the topology again, once for concurrent callers, on the connection that has no consumers."""
        if self._restoring is None or self._restoring.done():
            self._restoring = asyncio.create_task(self._restore_once())
        await asyncio.shield(self._restoring)

    async def _restore_once(self) -> None:
        try:
            await self._establish(await self._publish.opened())
        except BrokerError as error:
            _log.error("broker.topology_wrong", problem=str(error))

    def _availability_changed(self) -> None:
        if self.up is not self._notified_up:
            self._notified_up = self.up
            for listener in self._listeners:
                listener(self._notified_up)
