"""`unlink-worker cancel`: stop an unlink; with `--wait`, see how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from contracts.reading import UnreadableMessageError, read_message
from worker.broker.awaited import Awaited
from worker.broker.client import BrokerClient, BrokerClientError, NoQueueError
from worker.broker.received_event import ReceivedEvent
from worker.cli.output.errors import INTERRUPTED, UNKNOWN, WRONG_USAGE, refuse, settings_or_exit
from worker.cli.output.event_text import in_words
from worker.cli.output.stalls import Stalls
from worker.cli.output.terminal import Output, Spinner
from worker.cli.publishing.awaiting import Following
from worker.settings import ClientSettings, LedgerClientSettings, SettingsInvalidError, load

if TYPE_CHECKING:
    from worker.ledger import KeyHistory


def cancel(
    *,
    key: Annotated[str, typer.Argument(help="The idempotency key of the unlink.", show_default=False)],
    enterprise_manager: Annotated[
        str, typer.Option("--enterprise-manager", "--em", metavar="NAME", help="As in the unlink's command.")
    ] = "default",
    run: Annotated[
        int | None, typer.Option(min=1, help="The run to cancel; if it has ended, a later one is not cancelled.")
    ] = None,
    requested_by: Annotated[str | None, typer.Option(help="Who asks for it to be stopped.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the unlink's end; exit by it.")] = False,
    wait_seconds: Annotated[float | None, typer.Option(help="Wait at most this long; then exit with 3.", min=0)] = None,
    output: Annotated[Output, typer.Option(help="How events are printed.")] = "text",
) -> None:
    """Ask for an unlink to be stopped.

    If the DELETE was not sent to Enterprise Manager, it is never sent. If it was, the task is stopped if possible, and
    the job's links decide the outcome. If the command comes later, it ends as cancelled when it comes.

    With --wait the exit status is 4 for cancelled, 0 if it had succeeded, 1 failed, 2 the request was rejected or wrong
    usage, 3 timed out, 6 if no command with this key was accepted, which only UNLINK_LEDGER__URL can tell.
    """
    body = _command(key, enterprise_manager, run, requested_by, reason)
    settings = settings_or_exit(ClientSettings)
    following = Following([Awaited(key, body)])
    try:
        with BrokerClient(settings.broker) as client:
            client.require_queue(enterprise_manager)
            if wait:
                client.listen(f"*.{enterprise_manager}")
            client.publish(body, enterprise_manager)
            if output == "text":
                typer.echo(f"{key}  the request to cancel is on the queue of {enterprise_manager}")
            if wait:
                _follow(following, client, key, enterprise_manager, wait_seconds, output)
            else:
                _warn_if_unknown(key)
    except BrokerClientError as error:
        refuse(str(error), status=WRONG_USAGE if isinstance(error, NoQueueError) else 1)
    except _UnknownKeyError:
        refuse(_unknown(key), status=UNKNOWN)
    except KeyboardInterrupt:
        refuse(f"\nNo longer waiting. {_how_to_look_later(key)}", status=INTERRUPTED)
    if wait and following.open:
        typer.echo(f"No end within {wait_seconds:g} s. {_how_to_look_later(key)}", err=True)
    raise typer.Exit(following.exit_status if wait else 0)


def _command(key: str, enterprise_manager: str, run: int | None, requested_by: str | None, reason: str | None) -> bytes:
    content = {
        "command": "cancel.v1",
        "idempotency_key": key,
        "enterprise_manager": enterprise_manager,
        "run": run,
        "requested_by": requested_by,
        "reason": reason,
    }
    body = json.dumps({name: value for name, value in content.items() if value is not None}).encode()
    try:
        read_message(body)
    except UnreadableMessageError as error:
        refuse(f"This is no valid command: {error}")
    return body


def _follow(
    following: Following,
    client: BrokerClient,
    key: str,
    enterprise_manager: str,
    seconds: float | None,
    output: Output,
) -> None:
    with Spinner("waiting for the unlink to end") as spinner:

        def report(event: ReceivedEvent) -> None:
            spinner.say(event.line if output == "json" else in_words(event))

        client.skipped = warn = partial(spinner.say, err=True)
        stalls = Stalls(client, [enterprise_manager], warn, _Unknown(key, enterprise_manager, warn).look)
        following.until_ended(client, seconds, report, stalls)


class _NoLedgerError(Exception):
    pass


class _UnknownKeyError(Exception):
    pass


class _Unknown:
    """Ends the wait if no command with the key was accepted: no event answers a cancel that comes first."""

    def __init__(self, key: str, enterprise_manager: str, warn: Callable[[str], None]) -> None:
        self._key = key
        self._enterprise_manager = enterprise_manager
        self._warn = warn
        self._warned = False

    def look(self) -> None:
        """Look whether the ledger has the request and no command. Without the ledger, say once what may be.

        Raises:
            _UnknownKeyError: it has.
        """
        try:
            history = _history(self._key)
        except _NoLedgerError:
            if not self._warned:
                self._warn(f"Either the unlink is being stopped, or no command has the key {self._key}.")
            self._warned = True
            return
        if history is not None and history.record is None and self._is_recorded(history):
            raise _UnknownKeyError

    def _is_recorded(self, history: KeyHistory) -> bool:
        return any(each.enterprise_manager == self._enterprise_manager for each in history.cancellations)


def _warn_if_unknown(key: str) -> None:
    with suppress(_NoLedgerError):
        history = _history(key)
        if history is None or history.record is None:
            typer.echo(_unknown(key), err=True)


def _history(key: str) -> KeyHistory | None:
    """What the ledger has of the key.

    Raises:
        _NoLedgerError: no ledger is configured here, or it cannot be read now.
    """
    from worker.clock import SystemClock  # noqa: PLC0415 - SQLAlchemy is imported only if the ledger is read
    from worker.ledger import Inspection, InspectionError  # noqa: PLC0415

    try:
        return Inspection(load(LedgerClientSettings).ledger, SystemClock()).history(key)
    except (SettingsInvalidError, InspectionError) as error:
        raise _NoLedgerError from error


def _unknown(key: str) -> str:
    return f"No command with the key {key} has been accepted yet. If one comes, it ends as cancelled."


def _how_to_look_later(key: str) -> str:
    return f"The request stays with the broker; `unlink-worker status {key}` shows the state of the unlink."
