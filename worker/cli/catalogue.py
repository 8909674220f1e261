"""Looking up what can be unlinked, with the settings of the environment: shared by `links` and `offboard`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Self

import structlog
import typer
from pydantic import ValidationError
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from contracts.commands import JobReference, RepositoryReference
from contracts.events import ReasonCode
from contracts.reading import describe
from worker.cli.output.errors import WRONG_USAGE, refuse, refuse_settings, settings_or_exit
from worker.cli.output.terminal import console, fits, print_unfolded, printable
from worker.cli.publishing.drafts import job_reference, repository_reference
from worker.clock import SystemClock
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.catalogue import Catalogue, links_of_job, links_to_repository
from worker.offboarding import backups_of
from worker.settings import EnterpriseManagerClientSettings, SettingsInvalidError
from worker.unlinks.ports.enterprise_manager import EnterpriseManagerError, Refused

#: The exit status if some jobs could not be read, so that the list may lack links.
INCOMPLETE = 1

_WRONG_NAME = {
    ReasonCode.JOB_NOT_FOUND,
    ReasonCode.JOB_AMBIGUOUS,
    ReasonCode.NOT_A_COPY_JOB,
    ReasonCode.REPOSITORY_NOT_FOUND,
    ReasonCode.REPOSITORY_AMBIGUOUS,
}


def catalogue_or_exit(
    enterprise_manager: str, job: str | None, repository: str | None, backup_server: str | None
) -> Catalogue:
    """The links of a job, or those to a repository. An error is printed as one line on standard error and exits."""
    settings = settings_or_exit(EnterpriseManagerClientSettings)
    if enterprise_manager not in settings.enterprise_managers:
        configured = ", ".join(settings.enterprise_managers)
        refuse(f"No Enterprise Manager is configured as {printable(enterprise_manager)}; there is {configured}.")
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    async def look(gateway: Gateway) -> Catalogue:
        if job is not None:
            return await links_of_job(gateway, JobReference(**job_reference(job, backup_server)))
        named = RepositoryReference(**repository_reference(None, repository, backup_server))
        with _Progress() as progress:
            return await links_to_repository(gateway, named, progress.show)

    try:
        return asyncio.run(_with_gateway(settings, enterprise_manager, look))
    except SettingsInvalidError as error:
        refuse_settings(error)
    except ValidationError as error:
        refuse(describe(error))
    except EnterpriseManagerError as error:
        refuse(printable(str(error)), status=WRONG_USAGE if _is_wrong_name(error) else 1)


def warn_of_unread(catalogue: Catalogue) -> None:
    """Name each job whose links are not known, on standard error."""
    for problem in catalogue.unread:
        typer.echo(f"Not read, so its links are missing here: {printable(problem)}", err=True)
    for job in catalogue.unlisted:
        typer.echo(
            f"Not listed by Enterprise Manager: the links of {printable(job.name or '?')} ({job.id}), a copy job made "
            "in version 11a or earlier. Check in Veeam whether it is linked to the repository.",
            err=True,
        )


async def _with_gateway(
    settings: EnterpriseManagerClientSettings, name: str, look: Callable[[Gateway], Any]
) -> Catalogue:
    gateway = Gateway(name, settings.enterprise_managers[name], SystemClock())
    try:
        catalogue: Catalogue = await look(gateway)
    finally:
        await gateway.close(log_off=True)
    return catalogue


def _is_wrong_name(error: EnterpriseManagerError) -> bool:
    return isinstance(error, Refused) and error.code in _WRONG_NAME


class _Progress:
    """How many jobs were read: a bar on a terminal, nothing in a pipe. A context manager."""

    def __init__(self) -> None:
        screen = console(stderr=True)
        columns = (TextColumn("jobs read"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)
        self._task = self._progress.add_task("jobs", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def show(self, done: int, total: int) -> None:
        """Show how many of the jobs have been read."""
        self._progress.update(self._task, completed=done, total=total)


def print_links(catalogue: Catalogue) -> None:
    """Print the links, with the linked backups that an edit of each job drops: a table, or lines on a narrow screen."""
    if not catalogue.links:
        typer.echo("No link is listed." if catalogue.missing else "There are no links.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("job", "repository", "link", "linked backups at risk"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "link")
    rows = [
        (
            printable(each.job.name or each.job.id),
            printable(each.link.repository_name or each.link.repository_uid),
            each.link.object_in_job_id,
            printable(", ".join(backups_of(each))),
        )
        for each in catalogue.links
    ]
    for row in rows:
        table.add_row(*row)
    screen = console()
    if fits(table, screen):
        print_unfolded(table)
        return
    for job, repository, link, backups in rows:
        screen.print(Text(f"{job} / {repository}"), soft_wrap=True)
        screen.print(Text(f"  {link}"), soft_wrap=True)
        if backups:
            screen.print(Padding(Text(f"linked backups at risk: {backups}"), (0, 0, 0, 2)))
