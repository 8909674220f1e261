"""`unlink-worker submit`: one command from options; with `--wait`, its events up to the end."""

from __future__ import annotations

import json
import re
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from contracts.events import Outcome, rejection_id
from contracts.keys import derive_key
from contracts.reading import UnreadableMessageError, read_command
from worker.cli.mailbox import Heard, Mailbox, MailboxError
from worker.cli.refusals import refuse, settings_or_exit
from worker.cli.wording import in_words
from worker.settings import ClientSettings

if TYPE_CHECKING:
    from contracts.commands import UnlinkCommand

#: The exit status for each terminal outcome.
EXIT_STATUS = {
    Outcome.SUCCEEDED: 0,
    Outcome.PLANNED: 0,
    Outcome.FAILED: 1,
    Outcome.REJECTED: 2,
    Outcome.TIMED_OUT: 3,
    Outcome.CANCELLED: 4,
}

_LOOKS_LIKE_AN_ID = re.compile(r"^(urn:veeam:\w+:)?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")
_ON_CONSOLE = Console(stderr=True)


def submit(  # noqa: PLR0913 - one parameter an option
    *,
    job: Annotated[str, typer.Option(help="The backup copy job: its ID (UUID or urn:veeam:Job:...) or its name.")],
    link: Annotated[str | None, typer.Option(help="The link's ObjectInJobId.")] = None,
    repository: Annotated[
        str | None, typer.Option(help="Instead of --link: the repository's UID (UUID or urn:...) or its name.")
    ] = None,
    enterprise_manager: Annotated[
        str, typer.Option("--enterprise-manager", "--em", help="Its configured name.")
    ] = "default",
    key: Annotated[
        str | None, typer.Option(help="The idempotency key. Without it: derived from ticket, job and repository.")
    ] = None,
    job_server: Annotated[str | None, typer.Option(help="Narrows a job's name to one backup server.")] = None,
    repository_server: Annotated[str | None, typer.Option(help="Narrows a repository's name likewise.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look and plan, change nothing.")] = False,
    allow_linked_backups_removal: Annotated[
        bool, typer.Option("--allow-linked-backups-removal", help="Consent to the loss of the job's linked backups.")
    ] = False,
    if_absent: Annotated[
        Literal["succeed", "fail"], typer.Option(help="What a link that is not there means.")
    ] = "succeed",
    timeout: Annotated[int, typer.Option(help="Seconds from the DELETE to the end, 10 to 1500.")] = 600,
    not_after: Annotated[str | None, typer.Option(help="RFC 3339; past it, the command is not started.")] = None,
    requested_by: Annotated[str | None, typer.Option(help="Who asks.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    ticket: Annotated[str | None, typer.Option(help="SYSTEM:ID, e.g. jira:OPS-4711.")] = None,
    ticket_url: Annotated[str | None, typer.Option(help="Where the ticket is.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, repeated in the events. Up to 20.")] = None,
    correlation_id: Annotated[str | None, typer.Option(help="Repeated in the events.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; the exit status says how it ended.")] = False,
    wait_seconds: Annotated[float | None, typer.Option(help="Wait no longer than this; then exit with 3.")] = None,
    output: Annotated[Literal["text", "json"], typer.Option(help="How events are printed.")] = "text",
) -> None:
    """Put one unlink command on the queue.

    With --wait the exit status is 0 for succeeded or planned, 1 failed, 2 rejected or wrong usage, 3 timed out,
    4 cancelled.
    """
    content = {
        "command": "unlink.v1",
        "idempotency_key": key,
        "enterprise_manager": enterprise_manager,
        "job": _reference(job, "id") | ({"backup_server": job_server} if job_server else {}),
        "repository": _repository(link, repository)
        | ({"backup_server": repository_server} if repository_server else {}),
        "dry_run": dry_run,
        "allow_linked_backups_removal": allow_linked_backups_removal,
        "if_absent": if_absent,
        "timeout_seconds": timeout,
        "not_after": not_after,
        "requested_by": requested_by,
        "reason": reason,
        "ticket": _ticket(ticket, ticket_url),
        "labels": dict(_label(each) for each in label or []),
        "correlation_id": correlation_id,
    }
    content["idempotency_key"] = key or derive_key(content)
    body = json.dumps({name: value for name, value in content.items() if value is not None}).encode()
    try:
        command = read_command(body)
    except UnreadableMessageError as error:
        refuse(f"This is no valid command: {error}")
    settings = settings_or_exit(ClientSettings)
    try:
        with Mailbox(settings.broker) as mailbox:
            mailbox.require_queue(command.enterprise_manager)
            if wait:
                mailbox.listen(f"*.{command.enterprise_manager}")
            mailbox.publish(body, command.enterprise_manager)
            _say_submitted(command, output)
            status = _follow(mailbox, command, body, wait_seconds, output) if wait else 0
    except MailboxError as error:
        refuse(str(error), status=1)
    except KeyboardInterrupt:
        refuse(f"\nNo longer waiting. {_how_to_look_later(command)}", status=130)
    raise typer.Exit(status)


def _follow(mailbox: Mailbox, command: UnlinkCommand, body: bytes, seconds: float | None, output: str) -> int:
    over = None if seconds is None else time.monotonic() + seconds
    spinner = _ON_CONSOLE.status("waiting for a worker") if _ON_CONSOLE.is_terminal else nullcontext()
    with spinner as status:
        while over is None or time.monotonic() < over:
            event = mailbox.next_event(seconds=0.5)
            if event is None or not _answers(event, command, body):
                continue
            typer.echo(event.body.decode() if output == "json" else in_words(event))
            outcome = Outcome(event.outcome)
            if outcome.terminal:
                return EXIT_STATUS[outcome]
            if status is not None:
                status.update("Enterprise Manager is at work")
    typer.echo(f"No end within {seconds:g} s. {_how_to_look_later(command)}", err=True)
    return EXIT_STATUS[Outcome.TIMED_OUT]


def _answers(event: Heard, command: UnlinkCommand, body: bytes) -> bool:
    """Whether the event is about this command; a rejection is about this very message, since a key may be another's."""
    if event.outcome == Outcome.REJECTED:
        return event.id == rejection_id(body)
    return event.key == command.idempotency_key and (event.outcome == Outcome.PLANNED) == command.dry_run


def _say_submitted(command: UnlinkCommand, output: str) -> None:
    if output == "text":
        typer.echo(f"{command.idempotency_key}  on the queue of {command.enterprise_manager}")


def _how_to_look_later(command: UnlinkCommand) -> str:
    return f"The command stays with the broker; submitting it again with --key {command.idempotency_key} is safe."


def _reference(text: str, identifier: str) -> dict[str, Any]:
    return {identifier if _LOOKS_LIKE_AN_ID.match(text) else "name": text}


def _repository(link: str | None, repository: str | None) -> dict[str, Any]:
    if (link is None) == (repository is None):
        refuse("Name the link by exactly one of --link and --repository.")
    return {"link_id": link} if repository is None else _reference(repository, "uid")


def _ticket(ticket: str | None, url: str | None) -> dict[str, Any] | None:
    if ticket is None:
        return None
    system, colon, number = ticket.partition(":")
    if not (system and colon and number):
        refuse("--ticket is SYSTEM:ID, such as jira:OPS-4711.")
    return {"system": system, "id": number} | ({"url": url} if url else {})


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        refuse("--label is NAME=VALUE.")
    return name, value
