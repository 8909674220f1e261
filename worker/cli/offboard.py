"""`unlink-worker offboard`: all links to a repository, as one batch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from worker.cli.catalogue import INCOMPLETE, catalogue_or_exit, print_links, warn_of_unread
from worker.cli.output.errors import refuse, settings_or_exit
from worker.cli.output.terminal import Output
from worker.cli.publishing.drafts import Draft, DraftError, draft, ticket_reference
from worker.cli.publishing.retries import RetryOfEarlier
from worker.cli.publishing.submission import outgoing, publish_all
from worker.enterprise_manager.catalogue import Catalogue
from worker.offboarding import commands_of, counts_of
from worker.settings import ClientSettings


def offboard(  # noqa: PLR0913 - one parameter an option
    *,
    repository: Annotated[str, typer.Option(help="The repository: its UID or its name.")],
    enterprise_manager: Annotated[
        str, typer.Option("--enterprise-manager", "--em", help="Its configured name.")
    ] = "default",
    backup_server: Annotated[str | None, typer.Option(help="Narrows a name to one backup server.")] = None,
    allow_linked_backups_removal: Annotated[
        bool, typer.Option("--allow-linked-backups-removal", help="Consent to the loss of the jobs' linked backups.")
    ] = False,
    ticket: Annotated[str | None, typer.Option(help="SYSTEM:ID, e.g. jira:OPS-4711.")] = None,
    ticket_url: Annotated[str | None, typer.Option(help="Where the ticket is.")] = None,
    requested_by: Annotated[str | None, typer.Option(help="Who asks.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, publish nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the ends; exit by them.")] = True,
    wait_seconds: Annotated[float | None, typer.Option(help="Wait at most this long; then exit with 3.", min=0)] = None,
    output: Annotated[
        Output,
        typer.Option(
            help="How events are printed; json prints the plan as one object with --dry-run, and the commands with "
            "--no-wait."
        ),
    ] = "text",
) -> None:
    """Remove all links to a repository: show the plan, ask, publish one command for each link, and wait.

    The commands are one batch. Each key is derived from ticket and link: interrupted and called again, it finishes the
    rest, and nothing is done twice. What had ended before without success is run again, unless --no-wait is given.

    Needs the settings UNLINK_ENTERPRISE_MANAGERS__... and UNLINK_BROKER__URL. The exit status is 0 if all links are
    gone, or there are none; 1 failed, 2 rejected or wrong usage, 3 timed out, 4 cancelled: the first of 2, 1, 3, 4 that
    occurred. It is also 1 if some jobs could not be read, or if it was not confirmed. Copy jobs made in version 11a or
    earlier, whose links may not be listed, are named on standard error and do not change it.
    """
    given = {
        "enterprise_manager": enterprise_manager,
        "allow_linked_backups_removal": allow_linked_backups_removal,
        "requested_by": requested_by,
        "reason": reason,
    }
    try:
        given["ticket"] = ticket_reference(ticket, ticket_url)
    except DraftError as error:
        refuse(str(error))
    catalogue = catalogue_or_exit(enterprise_manager, None, repository, backup_server)
    drafts = _commands(catalogue, given)
    if output == "text":
        _print_plan(catalogue, consent=allow_linked_backups_removal)
    elif dry_run:
        typer.echo(json.dumps(_plan(catalogue, drafts), ensure_ascii=False))
    warn_of_unread(catalogue)
    incomplete = INCOMPLETE if catalogue.unread else 0
    if dry_run or not drafts:
        raise typer.Exit(incomplete)
    settings = settings_or_exit(ClientSettings)
    if not yes:
        _confirm(len(drafts))
    again = RetryOfEarlier(drafts)
    commands = [outgoing(each) for each in drafts]
    status = publish_all(settings, commands, wait=wait, seconds=wait_seconds, output=output, again=again)
    if (unknown := len(catalogue.missing)) and wait:
        jobs = "1 job" if unknown == 1 else f"{unknown} jobs"
        typer.echo(
            f"The links of {jobs}, named above, are not known: the repository may still be linked there.", err=True
        )
    raise typer.Exit(status or incomplete)


def _commands(catalogue: Catalogue, given: Mapping[str, Any]) -> list[Draft]:
    try:
        return [draft(each) for each in commands_of(catalogue, given)]
    except DraftError as error:
        refuse(str(error))


def _plan(catalogue: Catalogue, drafts: list[Draft]) -> dict[str, Any]:
    """The plan for programs: the counts, the commands to publish, and the jobs whose links are not known."""
    return {
        **counts_of(catalogue),
        "commands": [json.loads(each.body) for each in drafts],
        "unread": list(catalogue.unread),
        "unlisted": [{"id": job.id, "name": job.name} for job in catalogue.unlisted],
    }


def _print_plan(catalogue: Catalogue, *, consent: bool) -> None:
    print_links(catalogue)
    if not catalogue.links:
        return
    counts = counts_of(catalogue)
    typer.echo(f"jobs {counts['jobs']}, links {counts['links']}, linked backups at risk ", nl=False)
    typer.echo(counts["linked_backups_at_risk"])
    if counts["linked_backups_at_risk"] and not consent:
        typer.echo("Jobs with linked backups will be left alone; --allow-linked-backups-removal consents to the loss.")


def _confirm(links: int) -> None:
    if not sys.stdin.isatty():
        refuse("Without a terminal to ask on, --yes is needed.")
    if not typer.confirm(f"Remove {'this link' if links == 1 else f'these {links} links'}?", err=True):
        refuse("Nothing was published.", status=1)
