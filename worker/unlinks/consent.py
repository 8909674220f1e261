"""Whether a command consents to the side effect of every edit of a job: it drops the job's linked backups."""

from __future__ import annotations

from contracts.commands import UnlinkCommand
from contracts.events import Reason, ReasonCode
from worker.unlinks.ports.enterprise_manager import LinkedBackup


def reason_against(command: UnlinkCommand, backups: tuple[LinkedBackup, ...]) -> Reason | None:
    """Why the command must not edit a job that has these linked backups; None if it may."""
    if not backups or command.allow_linked_backups_removal:
        return None
    names = ", ".join(backup.name or backup.uid or backup.object_in_job_id for backup in backups)
    message = f"any edit of this job drops its linked backups ({names}); to consent, set allow_linked_backups_removal"
    return Reason(code=ReasonCode.LINKED_BACKUPS_AT_RISK, message=message)
