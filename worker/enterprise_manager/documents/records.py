"""The records that are read from the documents of Enterprise Manager, and the functions that read them.

The documents are those of the vendor's REST API reference (build 13.0.1): Task, LinkedBackupRepositoryResourceObjects,
Job entity, QueryResult, EnterpriseManager, LogonSession, Error. A missing value is never guessed: if a wrong guess
could do harm, `UnexpectedDocumentError` is raised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from worker.enterprise_manager.documents.tree import Kind, Node, UnexpectedDocumentError, cleaned

#: Removes secrets from a text.
Clean = Callable[[str], str]

#: A server's message is truncated to this many characters.
MAX_MESSAGE = 1000

#: A name is truncated to this many characters.
MAX_NAME = 255

#: The maximum length of an ID that is not a UUID.
_MAX_ID = 200

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: The names of fields in which a gateway before the server says what went wrong, also with status 200. No document of
#: Enterprise Manager with a list of links has such a field beside the list.
_OF_A_FAILURE = re.compile("error|fault|exception|status|message|code|title|detail|reason")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task. `success` and `message` come from its result, if it has one; `hrefs` are the server's URLs of it."""

    task_id: str
    state: str | None
    operation: str | None
    success: bool | None
    message: str | None
    hrefs: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the state is `Finished`. No other state, known or unknown, is final."""
        return self.state is not None and self.state.casefold() == "finished"


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """A linked repository. Its IDs are bare, lower-case UUIDs.

    `delete_href` is the URL in its element `Link` with `Rel="Delete"`. `job_hrefs` are its URLs whose path contains the
    job's ID by the documentation.
    """

    object_in_job_id: str
    repository_uid: str
    repository_name: str | None
    delete_href: str | None
    job_hrefs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkedBackupRecord:
    """A linked backup. Its IDs are bare, lower-case UUIDs."""

    object_in_job_id: str
    uid: str | None
    name: str | None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job. `linked_backups` is None if the document is not that of a copy job.

    `links` are the linked repositories in the document. They are empty if the document has no list of them, or a list
    that cannot be read. The absence of a link from `links` therefore proves nothing.
    """

    id: str
    name: str | None
    job_type: str | None
    backup_server: str | None
    linked_backups: tuple[LinkedBackupRecord, ...] | None
    links: tuple[LinkRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class ReferenceRecord:
    """A reference to a job or a repository, from the result of a query."""

    id: str
    name: str
    backup_server: str | None


@dataclass(frozen=True, slots=True)
class Paging:
    """The number of a page, if the document states it, and the number of pages of its list."""

    number: int | None
    pages: int


@dataclass(frozen=True, slots=True)
class TaskPage:
    """One page of the tasks that a query found."""

    tasks: tuple[TaskRecord, ...]
    pages: int


def bare_id(text: str | None) -> str:
    """The UUID of `urn:veeam:<Type>:<uuid>` or of a bare one, lower-case.

    Raises:
        UnexpectedDocumentError: it is neither.
    """
    bare = (text or "").strip().rpartition(":")[2].lower()
    if not _UUID.fullmatch(bare):
        raise UnexpectedDocumentError(f"it has an ID that is no UUID: {cleaned(text or '', 80)!r}")
    return bare


def read_task(root: Node, clean: Clean = str) -> TaskRecord:
    """Read a Task, its message cleaned.

    Raises:
        UnexpectedDocumentError: it names no task.
    """
    task = next(root.records("taskid"), None)
    if task is None:
        raise UnexpectedDocumentError("it names no task")
    return _task_record(task, clean)


def read_tasks(root: Node, clean: Clean = str) -> TaskPage:
    """Read a page of tasks (the response to `/query?type=Task`), their messages cleaned.

    Raises:
        UnexpectedDocumentError: it is no page of tasks, or one of its tasks has no ID.
    """
    if root.find("paginginfo") is None and root.find("tasks") is None and not root.has("tasks", "resources"):
        raise UnexpectedDocumentError("it is no list of tasks")
    return TaskPage(tuple(_task_record(record, clean) for record in root.records("taskid")), read_paging(root).pages)


def _task_record(task: Node, clean: Clean) -> TaskRecord:
    task_id = _opaque_id(task.value("taskid"))
    if task_id is None:
        raise UnexpectedDocumentError("it names no task")
    result = task.child("result")
    return TaskRecord(
        task_id=task_id,
        state=_short(task.value("state")),
        operation=_short(task.value("operation")),
        success=_TRUTH.get((result.value("success") or "").casefold()) if result is not None else None,
        message=_message(result.value("message"), clean) if result is not None else None,
        hrefs=tuple(href for href in (task.value("href"), *_hrefs(task, rel="delete")) if href is not None),
    )


def read_links(root: Node) -> tuple[LinkRecord, ...]:
    """Read a job's linked repositories. The name of the JSON array is not documented, so any name is accepted.

    Raises:
        UnexpectedDocumentError: it is no such list, or one of its members has no ID. A list that cannot be read must
            not be mistaken for a list without the link.
    """
    records = list(root.records("objectinjobid"))
    if not records and not _is_empty_list(root):
        raise UnexpectedDocumentError("it is no list of linked repositories")
    return tuple(_link_record(record) for record in _complete(root, records))


def hrefs_of_list(root: Node) -> tuple[str, ...]:
    """The list's own URLs whose path contains the job's ID, if it has any: also an empty list may be another job's."""
    lists = [root, *(child for child in root.children if child.kind is Kind.OBJECT and child.name != "links")]
    own = (each.value("href") for each in lists)
    return (*(href for href in own if href is not None), *(up for each in lists for up in _hrefs(each, rel="up")))


def _link_record(record: Node) -> LinkRecord:
    up, delete, own = _hrefs(record, rel="up"), _hrefs(record, rel="delete"), record.value("href")
    return LinkRecord(
        object_in_job_id=bare_id(record.value("objectinjobid")),
        repository_uid=bare_id(record.value("linkedbackuprepositoryuid", "repositoryuid")),
        repository_name=_name(record, "linkedbackuprepositoryname", "repositoryname", "name"),
        delete_href=next(iter(delete), None),
        job_hrefs=(*up, *delete, *([own] if own is not None else [])),
    )


def _is_empty_list(root: Node) -> bool:
    if root.kind is Kind.ARRAY or "linkedbackuprepositor" in root.name:
        return True
    if root.kind is not Kind.OBJECT or any(_OF_A_FAILURE.search(child.name) for child in root.children):
        return False
    return any(
        child.name != "links" and (child.kind is Kind.ARRAY or "linkedbackuprepositor" in child.name)
        for child in root.children
    )


def _complete(container: Node, records: list[Node]) -> list[Node]:
    """Return `records`, after a check that no other member of the container could be a record."""
    is_text = container.kind is Kind.TEXT and container.text.strip()
    if is_text or _members(container) != len(records):
        raise UnexpectedDocumentError("it has a member without an ObjectInJobId")
    return records


def _members(node: Node) -> int:
    """The number of members of the lists in `node`, whether or not they can be read."""
    if node.child("objectinjobid") is not None:
        return 1
    return sum(
        max(_members(child), 1 if _is_member(node, child) else 0)
        for child in node.children
        if child.name not in {"links", "paginginfo"} and child.kind is not Kind.NULL
    )


def _is_member(parent: Node, child: Node) -> bool:
    return parent.kind is Kind.ARRAY or (
        child.kind is Kind.ELEMENT and child.name in {"linkedbackup", "linkedbackuprepository"}
    )


def read_job(root: Node) -> JobRecord:
    """Read a Job entity.

    Raises:
        UnexpectedDocumentError: it names no job, or its linked backups cannot be read.
    """
    job = next(root.records("uid"), None)
    if job is None:
        raise UnexpectedDocumentError("it names no job")
    details = _details(job.child("jobinfo"))
    return JobRecord(
        id=bare_id(job.value("uid")),
        name=_name(job, "name"),
        job_type=_short(job.value("jobtype")),
        backup_server=_backup_server(job),
        linked_backups=_linked_backups(details),
        links=_links_in_entity(details),
    )


def _details(job_info: Node | None) -> list[Node]:
    return [
        child
        for child in (job_info.children if job_info is not None else ())
        if child.name in {"immediatebackupcopyjobinfo", "backupcopyjobinfo"}
        and child.kind in {Kind.ELEMENT, Kind.OBJECT}
    ]


def _links_in_entity(details: list[Node]) -> tuple[LinkRecord, ...]:
    """The linked repositories in the entity; empty if it has none or they cannot be read.

    The vendor's documentation contradicts itself on whether the entity has them. The separate list of the job's links
    always has them.
    """
    includes = [found for detail in details if (found := detail.child("linkedbackuprepositoryincludes")) is not None]
    try:
        return tuple(
            _link_record(record)
            for included in includes
            for record in _complete(included, list(included.records("objectinjobid")))
        )
    except UnexpectedDocumentError:
        return ()


def _linked_backups(details: list[Node]) -> tuple[LinkedBackupRecord, ...] | None:
    if not details:
        return None
    includes = [found for detail in details if (found := detail.child("linkedbackupincludes")) is not None]
    return tuple(
        LinkedBackupRecord(
            object_in_job_id=bare_id(record.value("objectinjobid")),
            uid=_uid(record.value("linkedbackupuid")),
            name=_name(record, "linkedbackupname", "name"),
        )
        for included in includes
        for record in _complete(included, list(included.records("objectinjobid")))
    )


def read_references(root: Node, resource: str) -> tuple[ReferenceRecord, ...]:
    """Read the references to `resource` (`Job`, `Repository`) from a response; other references are left out.

    The response is that of `/query`, `/jobs` or `/repositories`.

    Raises:
        UnexpectedDocumentError: it is no list of references.
    """
    refs = root if root.name == "entityreferences" else root.find("refs")
    if refs is None and root.find("paginginfo") is None and root.name != "queryresult" and not root.has("refs"):
        raise UnexpectedDocumentError("it is no list of references")
    found = list(refs.records("uid")) if refs is not None else []
    return tuple(_reference(record) for record in found if _is_of(record, resource))


def _is_of(record: Node, resource: str) -> bool:
    uid = (record.value("uid") or "").lower()
    return not uid.startswith("urn:") or uid.startswith(f"urn:veeam:{resource.lower()}:")


def _reference(record: Node) -> ReferenceRecord:
    # The name is kept unchanged, because it is compared with the requested name.
    name = record.child("name")
    return ReferenceRecord(bare_id(record.value("uid")), name.text if name is not None else "", _backup_server(record))


def read_paging(root: Node) -> Paging:
    """Read the page's number and the number of pages, which is 1 if the document does not state it."""
    paging = root.find("paginginfo")
    if paging is None:
        return Paging(None, 1)
    pages = _count(paging.value("pagescount"))
    return Paging(_count(paging.value("pagenum")), 1 if pages is None else pages)


def _count(text: str | None) -> int | None:
    # A longer number is no plausible count of pages.
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None  # noqa: PLR2004


def read_versions(root: Node) -> tuple[str, ...]:
    """Read the names of the supported versions from the response to `GET /api/`.

    Raises:
        UnexpectedDocumentError: the document is not one of Enterprise Manager.
    """
    versions = root.find("supportedversions")
    if versions is None and root.name != "enterprisemanager":
        raise UnexpectedDocumentError("it is no description of an Enterprise Manager")
    named = versions.records("name") if versions is not None else ()
    return tuple(name for record in named if (name := _short(record.value("name"))) is not None)


def read_session_id(root: Node) -> str | None:
    """Read the ID of a LogonSession, which the log-off needs; None if there is none. The ID is not the token."""
    session = next(root.records("sessionid"), None)
    return _opaque_id(session.value("sessionid")) if session is not None else None


def read_error(root: Node, clean: Clean = str) -> str | None:
    """Read the message of an Error, cleaned and truncated; None if it has none."""
    return _message(root.value("message", "firstchanceexceptionmessage"), clean)


def _links(record: Node, *, rel: str) -> Iterator[Node]:
    links = record.child("links")
    for link in links.records("rel") if links is not None else ():
        if (link.value("rel") or "").casefold() == rel:
            yield link


def _hrefs(record: Node, *, rel: str) -> list[str]:
    return [href for link in _links(record, rel=rel) if (href := link.value("href")) is not None]


def _backup_server(record: Node) -> str | None:
    for link in _links(record, rel="up"):
        if (link.value("type") or "").casefold().startswith("backupserver"):
            return link.value("name")
    return None


def _opaque_id(text: str | None) -> str | None:
    """An ID in any format, if it can be logged, stored and used in a path; else None."""
    return text if text is not None and text.isprintable() and len(text) <= _MAX_ID else None


def _uid(text: str | None) -> str | None:
    return bare_id(text) if text is not None else None


def _name(record: Node, *names: str) -> str | None:
    text = record.value(*names)
    return cleaned(text, MAX_NAME) or None if text is not None else None


def _short(text: str | None) -> str | None:
    return cleaned(text, 100) or None if text is not None else None


def _message(text: str | None, clean: Clean) -> str | None:
    # Clean before truncating: a truncated secret would not be recognised.
    return cleaned(clean(text), MAX_MESSAGE) or None if text is not None else None
