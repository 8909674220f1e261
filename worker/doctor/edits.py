"""An edit of a laboratory's job as it was sent, and the forms of the POST that puts a link back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from worker.enterprise_manager import paths
from worker.enterprise_manager.documents.records import TaskRecord
from worker.enterprise_manager.documents.tree import Node
from worker.enterprise_manager.logon import LogonSession
from worker.enterprise_manager.responses import MULTIPLE_CHOICES, OK
from worker.enterprise_manager.transport import Request

#: The statuses with which a server may answer a POST whose body it does not understand.
OF_ANOTHER_FORM = frozenset({400, 415})

_NAMESPACE = "http://www.veeam.com/ent/v1.0"


@dataclass(slots=True, eq=False)
class Edit:
    """An edit that was sent. `status` is None if its answer was lost; then it may have been made or not."""

    status: int | None
    session: LogonSession
    #: By `Clock.monotonic`, as all times here.
    sent_at: float
    #: Whether it adds the link; else it removes it.
    adds: bool
    task: TaskRecord | None = None
    #: Whether the task's document has a field for its result, even an empty one.
    names_result: bool = False
    #: What the task's result said of success while it was `OperationFinished`, at the last look that showed it so.
    success_before: bool | None = None
    #: What the task's result asks for beside success and message.
    asks: str = ""
    location: bool = False
    #: Whether the task was answered with an error, so that its end will not be seen.
    lost: bool = False
    running_at: float | None = None
    finished_at: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether the server's status says so."""
        return self.status is not None and succeeded(self.status)

    @property
    def finished(self) -> bool:
        """Whether its task was seen to end."""
        return self.task is not None and self.task.finished

    @property
    def open(self) -> bool:
        """Whether it has a task that may still be seen to end."""
        return self.task is not None and not self.task.finished and not self.lost

    @property
    def failed(self) -> bool:
        """Whether its task was seen to fail."""
        return self.task is not None and self.task.finished and self.task.success is False

    def is_in(self, state: str) -> bool:
        """Whether its task was in this state when it was last seen."""
        return self.task is not None and (self.task.state or "").casefold() == state.casefold()


def succeeded(status: int | None) -> bool:
    """Whether a status, if there is one, is that of a success."""
    return status is not None and OK <= status < MULTIPLE_CHOICES


def asked_for(task: Node) -> str:
    """What a task's result asks for: confirmation, credentials, or nothing (the published schema knows both)."""
    result = task.child("result")
    if result is None:
        return ""
    return " and ".join(what for what in ("confirmation", "credentials") if result.value(f"{what}needed") == "true")


# --- the forms of the POST --------------------------------------------------------------------------------------------


def _as_json(job_id: str, repository_uid: str) -> Request:
    body = json.dumps({"LinkedBackupRepositoryUid": f"urn:veeam:Repository:{repository_uid}"})
    return _post(job_id, "application/json", body)


def _as_xml(root: str) -> Callable[[str, str], Request]:
    def form(job_id: str, repository_uid: str) -> Request:
        uid = f"urn:veeam:Repository:{repository_uid}"
        content = f"<LinkedBackupRepositoryUid>{uid}</LinkedBackupRepositoryUid>"
        body = f'<?xml version="1.0" encoding="utf-8"?><{root} xmlns="{_NAMESPACE}">{content}</{root}>'
        return _post(job_id, "application/xml", body)

    return form


def _post(job_id: str, content_type: str, body: str) -> Request:
    return Request(
        "POST",
        paths.links(job_id),
        headers={"Content-Type": content_type},
        body=body.encode(),
    )


#: The POST of a repository (its UUID) to a job (likewise). The vendor documents the element that the body must hold,
#: but not the element around it: JSON has none, and the names in XML are those of similar requests.
FORMS: tuple[Callable[[str, str], Request], ...] = (
    _as_json,
    _as_xml("CreateLinkedBackupRepositorySpec"),
    _as_xml("LinkedBackupRepository"),
)
