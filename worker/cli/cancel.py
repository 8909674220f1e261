"""`unlink-worker cancel`: stop an unlink; with `--wait`, see how it ended."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from contracts.reading import UnreadableMessageError, read_message
from worker.broker.awaited import Awaited
from worker.broker.client import BrokerClient, BrokerClientError, NoQueueError
from worker.broker.received_event import ReceivedEvent
from worker.cli.output.errors import INTERRUPTED, WRONG_USAGE, refuse, settings_or_exit
from worker.cli.output.event_text import in_words
from worker.cli.output.stalls import Stalls
from worker.cli.output.terminal import Output, Spinner
from worker.cli.publishing.awaiting import Following
from worker.settings import ClientSettings


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
    usage, 3 timed out.
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
                _follow(following, client, enterprise_manager, wait_seconds, output)
    except BrokerClientError as error:
        refuse(str(error), status=WRONG_USAGE if isinstance(error, NoQueueError) else 1)
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
    following: Following, client: BrokerClient, enterprise_manager: str, seconds: float | None, output: Output
) -> None:
    with Spinner("waiting for the unlink to end") as spinner:

        def report(event: ReceivedEvent) -> None:
            spinner.say(event.body.decode() if output == "json" else in_words(event))

        stalls = Stalls(client, [enterprise_manager], lambda line: typer.echo(line, err=True))
        following.until_ended(client, seconds, report, stalls)


def _how_to_look_later(key: str) -> str:
    return f"The request stays with the broker; `unlink-worker status {key}` shows the state of the unlink."
