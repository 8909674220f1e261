"""Whatever comes back over the wire: the gateway answers with one of the port's errors, and soon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.commands import JobReference, RepositoryReference
from tests.enterprise_manager.ids import JOB, LINK
from tests.enterprise_manager.sending import at_any_time
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.tasks import FEW
from worker.unlinks.ports.enterprise_manager import AnswerLost, EnterpriseManagerError, Job, TaskTicket, Unavailable

SESSION = b"<LogonSession><UserName>svc-unlink</UserName><SessionId>96cff3b1</SessionId></LogonSession>"
HEAD = b"HTTP/1.1 201 Created\r\nConnection: close\r\nX-RestSvcSessionId: token\r\nContent-Length: %d\r\n\r\n"
LOGON = HEAD % len(SESSION) + SESSION


class Answers:
    """What the scripted server answers to a logon, and to anything else; then it closes the connection."""

    def __init__(self, logon: bytes = LOGON) -> None:
        self.logon = logon
        self.next = b""

    def __call__(self, connection: Any) -> None:
        """Serve one connection."""
        connection.secure()
        request = connection.request()
        connection.send(self.logon if request.startswith(b"POST") else self.next)


def framed(status: int, body: bytes, headers: bytes = b"") -> bytes:
    """An answer with the length of its body."""
    return b"HTTP/1.1 %d Whatever\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(body), body)


def _xml(name: str, content: Any) -> str:
    """The same content in XML: texts are attributes."""
    if isinstance(content, list):
        return "".join(_xml(name, member) for member in content)
    if not isinstance(content, dict):
        return f"<{name}/>"
    parts = content.items()
    texts = "".join(f" {key}={quoteattr(str(value))}" for key, value in parts if not isinstance(value, dict | list))
    inner = "".join(_xml(key, value) for key, value in parts if isinstance(value, dict | list))
    return f"<{name}{texts}>{inner}</{name}>".encode(errors="replace").decode()


@pytest.fixture
def answers() -> Answers:
    """What the server answers next."""
    return Answers()


@pytest.fixture
def hostile(serve: Any, settings_for: Any, answers: Answers, clock: Any) -> Callable[[], Gateway]:
    """Makes gateways to a server that answers anything."""
    server = serve(answers, tls=None)
    given_settings = settings_for(server.port, url=f"http://127.0.0.1:{server.port}", request_timeout_seconds=2)
    return lambda: Gateway("lab", given_settings, clock)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 202 Acc",
        b"HTTP/1.1 202 Accepted\r\nContent-Le",
        b"HTTP/1.1 202 Accepted\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\n\r\n<Task><TaskId>task-1</TaskId>",
    ],
)
async def test_a_delete_whose_answer_is_cut_in_its_head_is_lost(
    hostile: Callable[[], Gateway], answers: Answers, head: bytes
) -> None:
    """Else half an answer would be taken for a whole one."""
    answers.next = head
    gateway = hostile()
    with pytest.raises(AnswerLost):
        await gateway.delete_link(JOB, LINK, at_any_time)
    await gateway.close(log_off=False)


async def test_a_token_that_is_no_header_is_no_logon(serve: Any, settings_for: Any, clock: Any) -> None:
    """Else each DELETE would be taken for one that may have been carried out, though it could not even be sent."""
    server = serve(
        lambda connection: (connection.request(), connection.send(LOGON.replace(b"token", b"\xff\x01"))), tls=None
    )
    gateway = Gateway("lab", settings_for(server.port, url=f"http://127.0.0.1:{server.port}"), clock)
    with pytest.raises(Unavailable, match="its logon gave no X-RestSvcSessionId"):
        await gateway.delete_link(JOB, LINK, at_any_time)
    await gateway.close(log_off=False)


@pytest.mark.parametrize("session_id", ["\ud800", "\x00", "x" * 300, "..", "a/../b c"])
async def test_a_session_id_that_is_none_does_not_keep_the_worker_from_ending(
    serve: Any, settings_for: Any, clock: Any, session_id: str
) -> None:
    """Else a drain would end with a stack trace, or a log-off delete something else."""
    session = json.dumps({"SessionId": session_id}).encode()
    answers = Answers(HEAD % len(session) + session)
    answers.next = framed(200, b"[]")
    server = serve(answers, tls=None)
    gateway = Gateway("lab", settings_for(server.port, url=f"http://127.0.0.1:{server.port}"), clock)
    assert await gateway.links(JOB) == []
    await gateway.close(log_off=True)
    paths = [request.split()[1] for request in server.requests if request.startswith(b"DELETE")]
    assert paths in ([], [b"/api/logonSessions/-"], [b"/api/logonSessions/a%2F..%2Fb%20c"])


@pytest.mark.parametrize("task_id", ["task-\ud800", "task\x00", "task-" + "1" * 300, "task\n1"])
async def test_a_task_id_that_is_none_is_no_answer(
    hostile: Callable[[], Gateway], answers: Answers, task_id: str
) -> None:
    """Else an accepted DELETE could be neither recorded nor followed nor reported."""
    answers.next = framed(202, json.dumps({"TaskId": task_id, "State": "Running"}).encode())
    gateway = hostile()
    with pytest.raises(AnswerLost, match="it names no task"):
        await gateway.delete_link(JOB, LINK, at_any_time)
    await gateway.close(log_off=True)


async def test_names_that_are_listed_can_be_printed(hostile: Callable[[], Gateway], answers: Answers) -> None:
    """Else one strange name would end the list of what can be unlinked with a stack trace."""
    refs = [{"UID": f"urn:veeam:Job:{JOB}", "Name": "Copy\ud800\n2"}]
    answers.next = framed(200, json.dumps({"Refs": refs}).encode())
    gateway = hostile()
    assert await gateway.names("Job") == {JOB: "Copy 2"}
    await gateway.close(log_off=False)


async def all_at_once(gateway: Gateway, session: str) -> None:
    """Look at so many tasks that one query asks for them all."""
    tickets = [TaskTicket(f"task-{number}", session) for number in range(FEW + 2)]
    for outcome in await asyncio.gather(*(gateway.task(ticket) for ticket in tickets), return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, EnterpriseManagerError):
            raise outcome


_ids = st.sampled_from([JOB, LINK, f"urn:veeam:Job:{JOB}", "task-1", "", None, 7, "../..", "x" * 300, "\ud800"])
_document = st.dictionaries(
    st.sampled_from(
        ["UID", "Name", "JobType", "TaskId", "State", "Message", "ObjectInJobId", "LinkedBackupRepositoryUid", "Href"]
    ),
    _ids | st.sampled_from(["ImmediateBackupCopy", "Backup", "Finished", "https://elsewhere/api/tasks/task-2"]),
    max_size=6,
)
_body = (
    st.recursive(
        _document,
        lambda inner: st.dictionaries(
            st.sampled_from(
                ["JobInfo", "ImmediateBackupCopyJobInfo", "LinkedBackupIncludes", "Refs", "Links", "Result", "Tasks"]
            ),
            inner | st.lists(inner, max_size=3) | st.none(),
            max_size=3,
        ),
    ).flatmap(lambda content: st.sampled_from([json.dumps(content).encode(), _xml("Task", content).encode()]))
    | st.binary(max_size=60)
    | st.sampled_from([b"", b"<html>", b"<Task><TaskId>task-1</TaskId></Task>", b"<Error Message='no'/>", b"[]"])
)
_headers = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("Retry-After", "Date", "Content-Encoding", "Content-Length", "Content-Type", "Transfer-Encoding"),
                *("X-RestSvcSessionId", "Set-Cookie", "Location", "Connection", "WWW-Authenticate", "X"),
            ]
        ),
        st.text(st.characters(max_codepoint=0xFF), max_size=20)
        | st.sampled_from(["7", "1e9", "-1", "chunked", "gzip", "close", "Fri, 31 Dec 9999 23:59:59 -2359", "token"]),
    ),
    max_size=4,
).map(lambda pairs: "".join(f"{name}: {value}\r\n" for name, value in pairs).encode("latin-1"))
_statuses = st.sampled_from([200, 201, 202, 204, 301, 400, 401, 403, 404, 408, 409, 429, 500, 501, 503])
_answer = (
    st.builds(framed, _statuses | st.integers(0, 1100), _body, _headers)
    | st.binary(max_size=200)
    | st.binary(max_size=100).map(lambda junk: b"HTTP/1.1 200 OK\r\n" + junk)
    | st.binary(max_size=100).map(lambda junk: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + junk)
)


@given(logon=_answer, answer=_answer)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_answer_to_a_logon_ends_in_a_session_or_in_an_error_of_the_port(
    hostile: Callable[[], Gateway], answers: Answers, logon: bytes, answer: bytes
) -> None:
    """Else one odd answer would end in an unforeseen exception instead of an outage."""
    answers.logon, answers.next = logon, answer

    async def log_on_and_off() -> None:
        gateway = hostile()
        await gateway.probe()
        await gateway.close(log_off=True)

    asyncio.run(asyncio.wait_for(log_on_and_off(), 30))


@given(answer=_answer)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_answer_ends_in_a_result_or_in_an_error_of_the_port(
    hostile: Callable[[], Gateway], answers: Answers, answer: bytes
) -> None:
    """Else one odd answer would end in an unforeseen exception instead of an outcome."""
    answers.next = answer

    async def call_everything() -> None:
        gateway = hostile()

        def ticket() -> TaskTicket:
            session = gateway._logon.current  # noqa: SLF001 - a ticket of the present session, without a task
            return TaskTicket("task-1", session.name if session is not None else "none")

        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: gateway.delete_link(JOB, LINK, at_any_time),
            lambda: gateway.find_job(JobReference(id=JOB)),
            lambda: gateway.links(JOB),
            lambda: gateway.linked_backups(Job(JOB, None)),
            lambda: gateway.find_job(JobReference(name="a")),
            lambda: gateway.find_repository(RepositoryReference(name="a", backup_server="b")),
            lambda: gateway.task(ticket()),
            lambda: gateway.stop_task(ticket()),
            lambda: all_at_once(gateway, ticket().session),
        ]
        for call in calls:
            gateway._availability._down_since = None  # noqa: SLF001 - else the others would fail without a request
            try:
                await call()
            except EnterpriseManagerError as error:
                text = str(error)
                assert text.isprintable(), text
                assert len(text) < 2500
        await gateway.close(log_off=True)

    asyncio.run(asyncio.wait_for(call_everything(), 30))
