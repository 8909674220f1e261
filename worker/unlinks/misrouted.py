"""Commands without a queue.

A worker that serves the name of such a command may be starting, or there may be none. The command is therefore put into
delay queues, whose messages return to `unlink.commands` and reach the command's queue once it exists. After ten minutes
in delay queues it is rejected. The minutes are the sum of the delays, so that a clock that jumps rejects no command.

A command that the broker took from its queue arrives here, too. A worker that serves its name answers it from the
ledger. Any other worker returns it to its queue, for a worker that serves it.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from contracts.commands import UNKNOWN_NAME, CancelCommand, Command, RetryCommand, UnlinkCommand
from contracts.events import ReasonCode
from contracts.reading import PartialParse, UnreadableMessageError
from worker.unlinks.outcome import Ending, cancelled, failed
from worker.unlinks.ports.broker import DELIVERY_LIMIT, Delivery, Misrouting
from worker.unlinks.ports.ledger import Entry, Ledger, Stage
from worker.unlinks.ports.steps import Reporter
from worker.unlinks.replies import Replies
from worker.unlinks.waiting import DeferredError

#: How long a command waits for its queue to be declared, in seconds.
GIVE_UP_SECONDS = 600
#: The next delay, in seconds, of a command by the time that it has waited; the delays add up to ten minutes.
_DELAYS = ((120, 120.0), (30, 30.0), (0, 5.0))


@dataclass(frozen=True, slots=True)
class Misrouted:
    """Answers misrouted deliveries. `served`: the Enterprise Managers that are configured here."""

    ledger: Ledger
    replies: Replies
    served: Container[str]

    def without_queue(self, delivery: Delivery) -> Misrouting | None:
        """How it was misrouted; None if it is answered like a command from a command queue."""
        answered_here = delivery.taken_away is not None and delivery.enterprise_manager in self.served
        return None if answered_here else delivery.misrouting

    async def reject_unless_known(
        self, command: Command | Exception, delivery: Delivery, misrouting: Misrouting, report: Reporter
    ) -> UnlinkCommand | RetryCommand | None:
        """Reject a command. If its key is in the ledger, a rejection would be wrong: return the command instead.

        Raises:
            DeferredError: its queue may be declared later.
        """
        name = delivery.enterprise_manager
        if name == UNKNOWN_NAME:
            problem = f"the routing key {misrouting.routing_key[:64]!r} is not the name of an Enterprise Manager"
        elif name in self.served or misrouting.seconds < GIVE_UP_SECONDS:
            delay = next(delay for waited, delay in _DELAYS if misrouting.seconds >= waited)
            left = float(GIVE_UP_SECONDS - misrouting.seconds)
            raise DeferredError(f"there is no queue for the commands of {name!r}", min(delay, left))
        else:
            problem = f"no Enterprise Manager is configured as {name!r}: there is no queue for its commands"
        known: Command | PartialParse
        if isinstance(command, UnreadableMessageError):
            known = command.partial
        elif isinstance(command, Exception):
            raise command
        elif not isinstance(command, CancelCommand) and await self._is_known(command, delivery):
            return command
        else:
            known = command
        code = ReasonCode.UNKNOWN_ENTERPRISE_MANAGER
        await self.replies.reject(delivery, known, code, problem, report, dead_letter=True)
        return None

    async def _is_known(self, command: UnlinkCommand | RetryCommand, delivery: Delivery) -> bool:
        """Whether the key is past its claim: its Enterprise Manager may have been configured earlier."""
        if command.enterprise_manager != delivery.enterprise_manager:
            return False
        if isinstance(command, RetryCommand):
            known = await self.ledger.last_run(command.idempotency_key)
            return known is not None and known.run > command.run
        if command.dry_run:
            return False
        return await self.ledger.has_decided(command.idempotency_key, command.fingerprint)


def ending_of_given_up(entry: Entry, why: str) -> Ending:
    """The ending of a claimed key whose command is not run. It is cancelled if that was asked before any DELETE."""
    if entry.cancelled and entry.stage is Stage.CLAIMED:
        return cancelled(entry.intent, changed=None if entry.may_act else False)
    return failed(ReasonCode.GAVE_UP, why, changed=None, seen=entry.intent)


def given_up(delivery: Delivery) -> str | None:
    """Why a command is not run but answered from the ledger; None if it is to be run."""
    if delivery.taken_away == DELIVERY_LIMIT:
        return "gave up: the broker took the command from its queue after too many deliveries"
    if delivery.taken_away is not None:
        return f"gave up: the broker took the command from its queue ({delivery.taken_away})"
    if delivery.misrouting is not None:
        return f"gave up: no Enterprise Manager is configured as {delivery.enterprise_manager!r} any more"
    return None
