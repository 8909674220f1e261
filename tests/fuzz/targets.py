"""What reads bytes from outside, each as one function of the bytes: it raises only if a promise is broken.

Those of senders are in `messages`; those of Enterprise Manager are here.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from pydantic import SecretStr

from tests.enterprise_manager.ids import JOB, LINK
from tests.fuzz import messages
from worker.clock import SystemClock
from worker.enterprise_manager import paths
from worker.enterprise_manager.availability import Availability
from worker.enterprise_manager.calls import Calls
from worker.enterprise_manager.connections import BoundedAdapter
from worker.enterprise_manager.deletion import Deletion
from worker.enterprise_manager.differences import Differences
from worker.enterprise_manager.documents.reading import html_title, is_html, read_document
from worker.enterprise_manager.documents.records import (
    LinkRecord,
    ReferenceRecord,
    TaskRecord,
    read_error,
    read_job,
    read_links,
    read_paging,
    read_references,
    read_session_id,
    read_task,
    read_tasks,
    read_versions,
)
from worker.enterprise_manager.documents.tree import DocumentError
from worker.enterprise_manager.logon import Logon
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.responses import LONGEST_RETRY_AFTER, Again, NotFound, Unauthorized, judge, retry_after
from worker.enterprise_manager.transport import Answer, Request, Transport, TransportError
from worker.enterprise_manager.wire import Wire
from worker.settings import EnterpriseManagerSettings
from worker.unlinks.ports.enterprise_manager import EnterpriseManagerError

_READERS = (
    read_task,
    read_tasks,
    read_links,
    read_job,
    partial(read_references, resource="Job"),
    partial(read_references, resource="Repository"),
    read_paging,
    read_versions,
    read_session_id,
    read_error,
)

#: What is never printed or stored as it is: it is compared, or followed as far as `paths` allows.
_RAW = {(ReferenceRecord, "name"), (ReferenceRecord, "backup_server"), (TaskRecord, "hrefs")} | {
    (LinkRecord, name) for name in ("delete_href", "job_hrefs")
}


def document(body: bytes) -> None:
    """Read the body of an answer as everything that it could be."""
    is_html(body)
    if (title := html_title(body)) is not None:
        _require_line(title)
    try:
        root = read_document(body)
    except DocumentError as error:
        _require_line(str(error))
        return
    for reader in _READERS:
        try:
            result = reader(root)
        except DocumentError as error:
            _require_line(str(error))
        else:
            for text in _texts(result):
                _require_line(text)
            for record in result if isinstance(result, tuple) else [result]:
                _follow(record)


def _texts(value: Any) -> Iterator[str]:
    """All that may be printed, sent or stored of a result."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for member in value:
            yield from _texts(member)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if (type(value), field.name) not in _RAW:
                yield from _texts(getattr(value, field.name))


def _require_line(text: str) -> None:
    assert text.isprintable() or not any(character.isspace() and character != " " for character in text), repr(text)
    assert "\0" not in text, repr(text)
    text.encode()


def _follow(record: Any) -> None:
    if isinstance(record, TaskRecord):
        assert paths.task(record.task_id, record.hrefs).isascii()
    elif isinstance(record, LinkRecord):
        followed = paths.link(JOB, LINK, record.delete_href).lower()
        assert followed.endswith(f"/jobs/{JOB}/linkedbackuprepositories/{LINK}"), followed
        assert all(len(paths.job_in(href) or JOB) == len(JOB) for href in record.job_hrefs)


def answer(raw: bytes) -> None:
    """Read the bytes that a server sends on a connection, and judge the answer for each request that could be meant."""
    try:
        given = _exchanged(raw)
    except TransportError as error:
        _require_line(str(error))
        return
    seconds = retry_after(given)
    assert 0 <= seconds <= LONGEST_RETRY_AFTER
    for judging in (partial(judge, remedies=_REMEDIES), _DELETION._judge, _LOGON._read):  # noqa: SLF001 - the readers
        try:
            judging(given)
        except (Again, NotFound, Unauthorized, EnterpriseManagerError) as error:
            _require_line(str(error))
    document(given.body)


class _Adapter(BoundedAdapter):
    """Connects to sockets that hold the answer already."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(_TRANSPORT._tls, _SETTINGS.url, 1)  # noqa: SLF001 - as the transport makes its own
        self._raw = raw
        self._peers: list[socket.socket] = []
        pool: Any = self._connections
        pool.ConnectionCls = type("_Connection", (pool.ConnectionCls,), {"_new_conn": lambda _: self._connected()})

    def _connected(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with suppress(BlockingIOError):
            theirs.sendall(self._raw)
        theirs.shutdown(socket.SHUT_WR)
        self._peers.append(theirs)
        return ours

    def close(self) -> None:
        """Close both ends of each connection."""
        super().close()
        for peer in self._peers:
            peer.close()


def _exchanged(raw: bytes) -> Answer:
    _TRANSPORT._adapter.close()  # noqa: SLF001 - the seam
    _TRANSPORT._adapter = adapter = _Adapter(raw)  # noqa: SLF001 - as above
    try:
        return _TRANSPORT.exchange(Request("GET", paths.API))
    finally:
        adapter.close()


_SETTINGS = EnterpriseManagerSettings(
    url="http://em.example:9399", username="svc-unlink", password=SecretStr("correct horse"), request_timeout_seconds=5
)
_REMEDIES = Remedies("lab", _SETTINGS)
_TRANSPORT = Transport(_SETTINGS, _REMEDIES)
_WIRE = Wire("lab", _TRANSPORT, SystemClock(), 1)
_LOGON = Logon(_SETTINGS, _WIRE, _REMEDIES, SystemClock())
_CALLS = Calls(
    _WIRE, _LOGON, Availability("lab", SystemClock(), _LOGON.log_off), _REMEDIES, Differences("lab"), SystemClock()
)
_DELETION = Deletion(_WIRE, _LOGON, _CALLS, _REMEDIES)

#: By name; the corpus of each is in a folder of that name.
TARGETS: dict[str, Callable[[bytes], None]] = {
    "document": document,
    "answer": answer,
    "command": messages.command,
    "event": messages.event,
    "headers": messages.headers,
    "row": messages.row,
    "stored_event": messages.stored_event,
}

#: Words that a random change would not find.
WORDS = (
    *(
        "Links",
        "Link",
        "Rel",
        "Href",
        "Up",
        "Delete",
        "UID",
        "Name",
        "TaskId",
        "State",
        "Finished",
        "Result",
        "Success",
    ),
    *("Message", "StatusCode", "Refs", "Ref", "ObjectInJobId", "LinkedBackupRepositoryUid", "LinkedBackupRepository"),
    *(
        "JobInfo",
        "JobType",
        "ImmediateBackupCopyJobInfo",
        "LinkedBackupIncludes",
        "PagingInfo",
        "PagesCount",
        "PageNum",
    ),
    *("SessionId", "SupportedVersions", "urn:veeam:Job:", JOB, "\ufeff", "<!--", "-->", "<?xml", "<![CDATA[", "<html"),
    *("HTTP/1.1 200 OK\r\n", "Content-Length: 9", "Transfer-Encoding: chunked", "Retry-After: ", "Date: ", "\r\n\r\n"),
    *("Content-Encoding: gzip", "X-RestSvcSessionId: ", "100 Continue", "Fri, 31 Dec 9999 23:59:59 -2359", "\\ud800"),
    *("unlink.v1", "cancel.v1", "retry.v1", "command", "idempotency_key", "enterprise_manager", "job", "repository"),
    *("link_id", "uid", "backup_server", "dry_run", "if_absent", "timeout_seconds", "not_after", "ticket", "labels"),
    *("specversion", "data", "correlation_id", "requested_by", "system", "2026-03-01T12:00:00Z", "batch", "size"),
    *(
        "x-death",
        "unlink-attempt",
        "unlink-user-id",
        "unlink-returns",
        "unlink-taken-away",
        "unlink-arrived-at",
        "unlink-failed-at",
        "CC",
    ),
)
