"""`unlink-worker links`: what can be unlinked."""

from __future__ import annotations

import asyncio
import csv
import json
import logging
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import structlog
import typer
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from contracts.commands import JobReference, RepositoryReference
from contracts.events import ReasonCode
from contracts.reading import describe
from worker.cli.output.errors import WRONG_USAGE, refuse, refuse_settings, settings_or_exit
from worker.cli.output.terminal import console, printable
from worker.cli.submit.drafts import job_reference, repository_reference
from worker.clock import SystemClock
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.catalogue import Catalogue, links_of_job, links_to_repository
from worker.settings import EnterpriseManagerClientSettings, SettingsInvalidError
from worker.unlinks.ports.enterprise_manager import EnterpriseManagerError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.enterprise_manager.catalogue import LinkedJob

#: The exit status if some jobs could not be read, so that the list may lack links.
INCOMPLETE = 1

_WRONG_NAME = {
    ReasonCode.JOB_NOT_FOUND,
    ReasonCode.JOB_AMBIGUOUS,
    ReasonCode.NOT_A_COPY_JOB,
    ReasonCode.REPOSITORY_NOT_FOUND,
    ReasonCode.REPOSITORY_AMBIGUOUS,
}

#: How a name is written into a label, at most so long (contract, `labels`).
_LONGEST_LABEL = 200


def links(
    *,
    job: Annotated[str | None, typer.Option(help="The links of this copy job: its ID or its name.")] = None,
    repository: Annotated[
        str | None, typer.Option(help="The links of all copy jobs to this repository: its UID or its name.")
    ] = None,
    enterprise_manager: Annotated[
        str, typer.Option("--enterprise-manager", "--em", help="Its configured name.")
    ] = "default",
    backup_server: Annotated[str | None, typer.Option(help="Narrows a name to one backup server.")] = None,
    output: Annotated[
        Literal["table", "json", "csv"],
        typer.Option(help="json (one command a line) and csv are valid input of `submit --file -`."),
    ] = "table",
) -> None:
    """List what can be unlinked: a copy job's links, or all links to a repository. Changes nothing.

    Needs the settings UNLINK_ENTERPRISE_MANAGERS__... only. Exit status 0; 1 if Enterprise Manager does not answer, or
    if some jobs could not be read; 2 wrong usage or settings, or a name that is not known.
    """
    if (job is None) == (repository is None):
        refuse("Name either --job or --repository.")
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
        catalogue = asyncio.run(_with_gateway(settings, enterprise_manager, look))
    except SettingsInvalidError as error:
        refuse_settings(error)
    except ValidationError as error:
        refuse(describe(error))
    except EnterpriseManagerError as error:
        refuse(printable(str(error)), status=WRONG_USAGE if _is_wrong_name(error) else 1)
    _WRITERS[output](enterprise_manager, catalogue)
    for problem in catalogue.unread:
        typer.echo(f"Not read, so its links are missing here: {printable(problem)}", err=True)
    raise typer.Exit(INCOMPLETE if catalogue.unread else 0)


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
        """Show how far it is."""
        self._progress.update(self._task, completed=done, total=total)


# --- what is printed ------------------------------------------------------------------------------------------------


def _print_table(_enterprise_manager: str, catalogue: Catalogue) -> None:
    if not catalogue.links:
        typer.echo("There are no links.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("job", "repository", "link", "linked backups at risk"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "link")
    for each in catalogue.links:
        table.add_row(
            printable(each.job.name or each.job.id),
            printable(each.link.repository_name or each.link.repository_uid),
            each.link.object_in_job_id,
            printable(", ".join(_backups(each))),
        )
    console().print(table)


def _backups(each: LinkedJob) -> list[str]:
    return [backup.name or backup.uid or backup.object_in_job_id for backup in each.job.linked_backups or ()]


def _labels(each: LinkedJob) -> dict[str, str]:
    """The names in a line, for people; the command's events repeat them."""
    labels = {"job": each.job.name, "repository": each.link.repository_name, "linked_backups": str(len(_backups(each)))}
    return {name: text[:_LONGEST_LABEL] for name, text in labels.items() if text}


def _print_json(enterprise_manager: str, catalogue: Catalogue) -> None:
    for each in catalogue.links:
        command = {
            "enterprise_manager": enterprise_manager,
            "job": {"id": each.job.id},
            "repository": {"link_id": each.link.object_in_job_id},
            "labels": _labels(each),
        }
        typer.echo(json.dumps(command, ensure_ascii=False))


def _print_csv(enterprise_manager: str, catalogue: Catalogue) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = ("job", "repository", "linked_backups")
    writer.writerow(["enterprise_manager", "job", "link_id", *(f"label.{name}" for name in names)])
    for each in catalogue.links:
        labels = _labels(each)
        row = [enterprise_manager, each.job.id, each.link.object_in_job_id, *(labels.get(name, "") for name in names)]
        writer.writerow(row)


_WRITERS = {"table": _print_table, "json": _print_json, "csv": _print_csv}
