"""`unlink-worker submit`: one command from options, or many from a file; with `--wait`, their events up to the end."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from contracts.commands import MAX_BATCH
from worker.cli.output.errors import refuse, settings_or_exit
from worker.cli.output.terminal import Output
from worker.cli.publishing.drafts import (
    Draft,
    DraftError,
    draft,
    from_csv,
    from_json_lines,
    in_batches,
    job_reference,
    repository_reference,
    ticket_reference,
    without_batch,
)
from worker.cli.publishing.retries import RetryOfEarlier
from worker.cli.publishing.submission import outgoing, publish_all
from worker.settings import ClientSettings

#: The format of a file by the end of its name.
_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}

#: The options that also apply to a file of commands.
_WITH_A_FILE = {"file", "file_format", "wait", "wait_seconds", "retry", "output"}


def submit(  # noqa: PLR0913 - one parameter an option
    context: typer.Context,
    *,
    job: Annotated[str | None, typer.Option(help="The backup copy job: its ID (UUID or urn:...) or its name.")] = None,
    link: Annotated[str | None, typer.Option(help="The link's ObjectInJobId.")] = None,
    repository: Annotated[
        str | None, typer.Option(help="Instead of --link: the repository's UID (UUID or urn:...) or its name.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Many commands: a file of JSON Lines or CSV; - is standard input.")
    ] = None,
    file_format: Annotated[
        Literal["jsonl", "csv"] | None,
        typer.Option("--format", help="The file's format, if neither its name nor its beginning shows it."),
    ] = None,
    enterprise_manager: Annotated[
        str, typer.Option("--enterprise-manager", "--em", help="Its configured name.")
    ] = "default",
    key: Annotated[
        str | None,
        typer.Option(
            help="The idempotency key. Without it: derived from ticket and content; without a ticket, new each time."
        ),
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
    not_before: Annotated[
        str | None, typer.Option(help="RFC 3339, at most 90 days ahead; until then, the command waits.")
    ] = None,
    requested_by: Annotated[str | None, typer.Option(help="Who asks.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    ticket: Annotated[str | None, typer.Option(help="SYSTEM:ID, e.g. jira:OPS-4711.")] = None,
    ticket_url: Annotated[str | None, typer.Option(help="Where the ticket is.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, repeated in the events. Up to 20.")] = None,
    correlation_id: Annotated[str | None, typer.Option(help="Repeated in the events.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; the exit status says how it ended.")] = False,
    retry: Annotated[
        bool,
        typer.Option("--retry", help="Run a key again whose last run did not succeed; any other is submitted. Waits."),
    ] = False,
    wait_seconds: Annotated[float | None, typer.Option(help="Wait at most this long; then exit with 3.", min=0)] = None,
    output: Annotated[
        Output, typer.Option(help="How events are printed; without --wait, json prints the commands.")
    ] = "text",
) -> None:
    """Put unlink commands on the queue: one from options, or many from a file.

    The commands of a file that name no batch are one, for each Enterprise Manager: one event says that all have ended.
    More than 10,000 are no batch, which is said.

    With --wait the exit status is 0 for succeeded or planned, 1 failed, 2 rejected or wrong usage, 3 timed out,
    4 cancelled, 5 for a dry run whose real command would be refused; of many, the first of 2, 1, 3, 4, 5 that occurred.

    With --retry, for the re-run button of a pipeline: if the answer is the end of a run from before, and that did not
    succeed, it is retried, with --not-before and --not-after if they are given, and the end of the next run counts.
    """
    try:
        if file is not None:
            drafts = in_batches(_from_file(file, file_format, other_options=_of_a_single_command(context)))
        else:
            content = {
                "idempotency_key": key,
                "enterprise_manager": enterprise_manager,
                "job": _job(job, job_server),
                "repository": repository_reference(link, repository, repository_server),
                "dry_run": dry_run,
                "allow_linked_backups_removal": allow_linked_backups_removal,
                "if_absent": if_absent,
                "timeout_seconds": timeout,
                "not_after": not_after,
                "not_before": not_before,
                "requested_by": requested_by,
                "reason": reason,
                "ticket": ticket_reference(ticket, ticket_url),
                "labels": dict(_label(each) for each in label or []),
                "correlation_id": correlation_id,
            }
            drafts = [draft(content)]
    except DraftError as error:
        refuse(f"Nothing was submitted.\n{error}")
    settings = settings_or_exit(ClientSettings)
    if file is not None:
        _warn_of_no_batch(drafts)
    again = RetryOfEarlier(drafts) if retry else lambda _event: None
    commands = [outgoing(each) for each in drafts]
    wait = wait or retry
    raise typer.Exit(publish_all(settings, commands, wait=wait, seconds=wait_seconds, output=output, again=again))


def _job(job: str | None, backup_server: str | None) -> dict[str, str]:
    if job is None:
        raise DraftError("name the job by --job, or a file of commands by --file")
    return job_reference(job, backup_server)


def _of_a_single_command(context: typer.Context) -> list[str]:
    """The given options that a file of commands would ignore: with `--dry-run`, its commands would really be run."""
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in _WITH_A_FILE
        and (source := context.get_parameter_source(str(parameter.name))) is not None
        and source.name != "DEFAULT"
    ]


def _from_file(path: Path, file_format: str | None, *, other_options: list[str]) -> list[Draft]:
    if other_options:
        given = ", ".join(other_options)
        raise DraftError(f"with --file, the commands are in the file; {given} is for a single command")
    is_standard_input = str(path) == "-"
    name = "standard input" if is_standard_input else str(path)
    try:
        text = (sys.stdin.buffer.read() if is_standard_input else path.read_bytes()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DraftError(f"{name} cannot be read: {error}") from error
    if not text.strip():
        raise DraftError(f"{name} is empty")
    is_csv = (file_format or _format_of(path, text)) == "csv"
    drafts = (from_csv if is_csv else from_json_lines)(io.StringIO(text, newline=""))
    if not drafts:
        typer.echo(f"{name} has a line of column names and no commands: there is nothing to submit.", err=True)
        raise typer.Exit
    return drafts


def _format_of(path: Path, text: str) -> str:
    """The format of a file: by the end of its name, else by its first character; JSON Lines begin with a brace."""
    named = _FORMATS.get(path.suffix.lower())
    return named or ("jsonl" if text.lstrip().startswith("{") else "csv")


def _warn_of_no_batch(drafts: list[Draft]) -> None:
    for name, count in without_batch(drafts).items():
        typer.echo(
            f"The {count} commands for {name} are no batch, which holds {MAX_BATCH} at most: no event will say that "
            "all have ended. Split the file to have one for each part.",
            err=True,
        )


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise DraftError("--label is NAME=VALUE")
    return name, value
