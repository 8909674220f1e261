"""Offboarding a repository: one command for each link to it, as one batch, for the command line and the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from contracts.commands import MAX_BATCH
from contracts.keys import batch_id_for, derived_key
from worker.enterprise_manager.catalogue import Catalogue, LinkedJob

#: The longest value of a label, in characters (contract, `labels`). Longer names are cut.
_LONGEST_LABEL: Final = 200


def commands_of(catalogue: Catalogue, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The commands for all links, with the fields in `given`. Their keys are derived from ticket and link.

    They are one batch whose ID is derived from the keys; more than a batch may have are none.
    """
    commands = [_command(each, given) for each in catalogue.links]
    keys = {command["idempotency_key"] for command in commands}
    if not keys or len(keys) > MAX_BATCH:
        return commands
    batch = {"id": batch_id_for(keys), "size": len(keys)}
    return [{**command, "batch": batch} for command in commands]


def _command(each: LinkedJob, given: Mapping[str, Any]) -> dict[str, Any]:
    content = {
        **{name: value for name, value in given.items() if value is not None},
        "job": {"id": each.job.id},
        "repository": {"link_id": each.link.object_in_job_id},
        "labels": labels_of(each),
    }
    return {"command": "unlink.v1", **content, "idempotency_key": derived_key(content)}


def counts_of(catalogue: Catalogue) -> dict[str, int]:
    """How many jobs and links there are, and how many linked backups would be lost."""
    of_jobs = {each.job.id: backups_of(each) for each in catalogue.links}
    return {
        "jobs": len(of_jobs),
        "links": len(catalogue.links),
        "linked_backups_at_risk": sum(len(backups) for backups in of_jobs.values()),
    }


def labels_of(each: LinkedJob) -> dict[str, str]:
    """The labels of a link's command: names for people, which the command's events repeat."""
    labels = {
        "job": each.job.name,
        "repository": each.link.repository_name,
        "linked_backups": str(len(backups_of(each))),
    }
    return {name: text[:_LONGEST_LABEL] for name, text in labels.items() if text}


def backups_of(each: LinkedJob) -> list[str]:
    """The names of the linked backups of a link's job."""
    return [backup.name or backup.uid or backup.object_in_job_id for backup in each.job.linked_backups or ()]
