"""The wait for a command's `not_before`: in delay queues, without a slot. Only the last seconds pass in the process.

The command is claimed and stored before it waits. While it waits, its deliveries return now and then, and are delayed
again without another claim.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from contracts.commands import Command, RetryCommand, UnlinkCommand
from contracts.reading import UnreadableMessageError, read_command
from worker.unlinks.ports.ledger import KnownRun
from worker.unlinks.waiting import DeferredError

#: How far ahead a `not_before` may be: for as long as settled keys are kept.
LONGEST_AHEAD = timedelta(days=90)
#: The delays, in seconds. The longest one that ends before `not_before` is used.
_DELAYS = (600.0, 120.0, 30.0, 5.0)


def seconds_until_start(command: UnlinkCommand, now: datetime) -> float:
    """How long the command has to wait for its `not_before`, in seconds. A dry run does not wait."""
    if command.not_before is None or command.dry_run:
        return 0.0
    return max((command.not_before - now).total_seconds(), 0.0)


def require_soon(seconds: float) -> None:
    """Return if the process may wait so many seconds.

    Raises:
        DeferredError: the wait is too long; the command goes to a delay queue.
    """
    delay = next((delay for delay in _DELAYS if delay <= seconds), None)
    if delay is not None:
        raise DeferredError("its not_before has not come", delay)


def require_started(command: UnlinkCommand, now: datetime) -> None:
    """Return if `not_before` has passed: the clock may have been set back since the wait.

    Raises:
        DeferredError: it has not.
    """
    if seconds_until_start(command, now) > 0:
        raise DeferredError("its not_before has not come", _DELAYS[-1])


def seconds_of_waiting(known: KnownRun | None, now: datetime) -> float:
    """How long a run that is under way has to wait for its `not_before`, in seconds."""
    if known is None or not known.under_way:
        return 0.0
    try:
        return seconds_until_start(read_command(known.command), now)
    except UnreadableMessageError:
        return 0.0


def problem_with_times(command: Command, retried: KnownRun | None, now: datetime) -> str | None:
    """Why a command can never be started at its `not_before`; None if it can.

    `retried` is the run that a retry may follow with another one.
    """
    if not isinstance(command, UnlinkCommand | RetryCommand) or command.not_before is None:
        return None
    if command.not_before - now > LONGEST_AHEAD:
        return f"not_before: it is more than {LONGEST_AHEAD.days} days ahead"
    if retried is None or command.not_after is not None:
        return None
    try:
        not_after = read_command(retried.command).not_after
    except UnreadableMessageError:
        return None
    if not_after is not None and command.not_before >= not_after:
        return f"not_before: it is not before the not_after of the command, {not_after}; give a new one"
    return None
