"""`unlink-worker links`: what can be unlinked."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer

from worker.cli.catalogue import INCOMPLETE, catalogue_or_exit, print_links, warn_of_unread
from worker.cli.output.errors import refuse
from worker.enterprise_manager.catalogue import Catalogue
from worker.offboarding import labels_of
from worker.spreadsheet import as_cell, line_of


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
        typer.Option(
            help="json (one command a line) and csv are valid input of `submit --file -`. In csv, a name that a "
            "spreadsheet would take for a formula begins with an apostrophe, which `submit` removes."
        ),
    ] = "table",
) -> None:
    """List what can be unlinked: a copy job's links, or all links to a repository. Changes nothing.

    Needs the settings UNLINK_ENTERPRISE_MANAGERS__... only. Exit status 0; 1 if Enterprise Manager does not answer, or
    if some jobs could not be read; 2 wrong usage or settings, or a name that is not known. With --repository, copy jobs
    made in version 11a or earlier, whose links may not be listed, are named on standard error and do not change it.
    """
    if (job is None) == (repository is None):
        refuse("Name either --job or --repository.")
    catalogue = catalogue_or_exit(enterprise_manager, job, repository, backup_server)
    _WRITERS[output](enterprise_manager, catalogue)
    warn_of_unread(catalogue)
    raise typer.Exit(INCOMPLETE if catalogue.unread else 0)


# --- what is printed ------------------------------------------------------------------------------------------------


def _print_table(_enterprise_manager: str, catalogue: Catalogue) -> None:
    print_links(catalogue)


def _print_json(enterprise_manager: str, catalogue: Catalogue) -> None:
    for each in catalogue.links:
        command = {
            "enterprise_manager": enterprise_manager,
            "job": {"id": each.job.id},
            "repository": {"link_id": each.link.object_in_job_id},
            "labels": labels_of(each),
        }
        typer.echo(json.dumps(command, ensure_ascii=False))


def _print_csv(enterprise_manager: str, catalogue: Catalogue) -> None:
    names = ("job", "repository", "linked_backups")
    sys.stdout.write(line_of(["enterprise_manager", "job", "link_id", *(f"label.{name}" for name in names)]))
    for each in catalogue.links:
        labels = labels_of(each)
        row = [
            enterprise_manager,
            each.job.id,
            each.link.object_in_job_id,
            *(as_cell(labels.get(name, "")) for name in names),
        ]
        sys.stdout.write(line_of(row))


_WRITERS = {"table": _print_table, "json": _print_json, "csv": _print_csv}
