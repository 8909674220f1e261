"""An Enterprise Manager in memory that is not the bottleneck: it answers what the worker asks, and checks nothing.

Run as `python -m tests.benchmarks.enterprise_manager_stub FOLDER`. It prints one line of JSON: the URLs for plain HTTP
and for TLS, and the CA file, which it writes to the folder. It runs until it is killed.

Every job exists, and has one link until its task has ended. Their IDs begin with other letters and are otherwise the
same (`JOB`, `LINK`, `REPOSITORY`), so that nothing has to be set up. The documents have the shape and the size of those
of the simulated Enterprise Manager.

`GET /stub/figures` answers the number of requests by kind, and when each task ended, by its link and by
`time.monotonic`, which all processes of a machine share. `POST /stub/reset?seconds=3&spread=0.5` forgets both; tasks
then take 3 s, give or take half a second.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, unquote

from worker.sandbox.certificates import certificates_in

JOB, LINK, REPOSITORY = "a", "b", "c"

#: What the worker logs on with; anything is accepted.
TOKEN = "benchmark"

#: The largest page of a query's answer, as seen of a real server.
PAGE = 100

_HOST = "https://em01.corp.example:9398/api"
_XML = '<?xml version="1.0" encoding="utf-8"?>'
_SPACES = (
    'xmlns="http://www.veeam.com/ent/v1.0" xmlns:xsd="http://www.w3.org/2001/XMLSchema" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
)
_LIST = "LinkedBackupRepositoryResourceObjects"
_TASK_ID = re.compile(r'TaskId=="(task-\d+)"')


def job_id(number: int) -> str:
    """The ID of a job."""
    return f"{JOB}{number:07x}-2769-45be-89bc-03f66b60e6cb"


def link_id(job: str) -> str:
    """The `ObjectInJobId` of a job's one link."""
    return LINK + job[1:]


class _Task:
    """A task; its documents are rendered once."""

    __slots__ = ("ends_at", "finished", "job", "running")

    def __init__(self, number: int, job: str, ends_at: float) -> None:
        self.job = job
        self.ends_at = ends_at
        self.running = _task(f"task-{number}", "Running")
        self.finished = _task(f"task-{number}", "Finished", '<Result Success="true"><Message>Ok</Message></Result>')

    def document(self, now: float) -> str:
        return self.finished if now >= self.ends_at else self.running


class Stub:
    """The state, and the answers."""

    def __init__(self) -> None:
        self._tasks: dict[str, _Task] = {}
        #: Those that may still run, in the order of their beginning.
        self._running: dict[str, _Task] = {}
        self._by_job: dict[str, _Task] = {}
        self._requests: Counter[str] = Counter()
        self._seconds = 0.0
        self._spread = 0.0
        self._random = random.Random(7)  # noqa: S311 - not for secrets

    def answer(self, method: str, target: str) -> tuple[int, str]:
        """The status and the body of the answer to a request."""
        path, _, query = target.partition("?")
        match method, path.strip("/").split("/"):
            case "GET", ["api", "jobs", job, *rest]:
                return 200, self._counted("links", self._links(job)) if rest else self._counted("job", self._job(job))
            case "DELETE", ["api", "jobs", job, _, _]:
                return 202, self._counted("DELETE", self._begin(job))
            case "GET", ["api", "tasks", task]:
                return 200, self._counted("task", _alone(self._tasks[task].document(time.monotonic())))
            case "GET", ["api", "query"]:
                return 200, self._counted("query of tasks", self._query(parse_qs(query)))
            case _, ["stub", what]:
                return 200, self._figures() if what == "figures" else self._reset(parse_qs(query))
        return _OTHERS.get((method, path.strip("/").partition("/")[2]), (204, ""))

    def _counted(self, kind: str, body: str) -> str:
        self._requests[kind] += 1
        return body

    def _listed(self, job: str) -> bool:
        task = self._by_job.get(job)
        return task is None or time.monotonic() < task.ends_at

    def _job(self, job: str) -> str:
        linked = _ENTITY_LINK.format(link=LINK + job[1:], uid=REPOSITORY + job[1:]) if self._listed(job) else ""
        return _ENTITY.format(job=job, linked=linked)

    def _links(self, job: str) -> str:
        if not self._listed(job):
            return f"{_XML}<{_LIST} {_SPACES} />"
        return _LINKS.format(job=job, link=LINK + job[1:], uid=REPOSITORY + job[1:])

    def _begin(self, job: str) -> str:
        number = len(self._tasks) + 1
        seconds = self._seconds + self._random.uniform(-self._spread, self._spread)
        task = _Task(number, job, time.monotonic() + seconds)
        self._tasks[f"task-{number}"] = self._running[f"task-{number}"] = self._by_job[job] = task
        return _alone(task.running)

    def _query(self, query: dict[str, list[str]]) -> str:
        now = time.monotonic()
        named = _TASK_ID.findall(query["filter"][0])
        if named:
            tasks = [self._tasks[task].document(now) for task in named]
        else:
            self._running = {name: task for name, task in self._running.items() if now < task.ends_at}
            tasks = [task.running for task in self._running.values()]
        page = int(query.get("page", ["1"])[0])
        size = min(int(query["pageSize"][0]), PAGE)
        pages = max(-(-len(tasks) // size), 1)
        return (
            f"{_XML}<QueryResult {_SPACES}><Resources><Tasks>{''.join(tasks[(page - 1) * size : page * size])}</Tasks>"
            f'</Resources><PagingInfo PageNum="{page}" PageSize="{size}" PagesCount="{pages}" /></QueryResult>'
        )

    def _figures(self) -> str:
        ends = {link_id(task.job): task.ends_at for task in self._tasks.values()}
        return json.dumps({"requests": self._requests, "ends": ends})

    def _reset(self, query: dict[str, list[str]]) -> str:
        self._seconds = float(query["seconds"][0])
        self._spread = float(query.get("spread", ["0"])[0])
        self._requests.clear()
        self._by_job = {}
        return ""


def _task(name: str, state: str, result: str = "") -> str:
    return (
        f'<Task Type="Task" Href="{_HOST}/tasks/{name}"><Links><Link Rel="Delete" Type="Task" '
        f'Href="{_HOST}/tasks/{name}" /></Links><TaskId>{name}</TaskId><State>{state}</State>'
        f"<Operation>UpdateJob</Operation>{result}</Task>"
    )


def _alone(task: str) -> str:
    """A task as a document of its own."""
    return _XML + task.replace("<Task ", f"<Task {_SPACES} ", 1)


_SESSION = (
    f'{_XML}<LogonSession {_SPACES} Type="LogonSession" Href="{_HOST}/logonSessions/1"><UserName>CORP\\unlink-worker'
    "</UserName><SessionId>f5ec90f6-b09b-4e2c-b9e7-4dcd1b3d09ed</SessionId></LogonSession>"
)
_ENTITY_LINK = (
    "<LinkedBackupRepository><ObjectInJobId>{link}</ObjectInJobId><LinkedBackupRepositoryUid>"
    "urn:veeam:Repository:{uid}</LinkedBackupRepositoryUid></LinkedBackupRepository>"
)
_ENTITY = (
    f'{_XML}<Job {_SPACES} Type="Job" Href="{_HOST}/jobs/{{job}}?format=Entity" Name="Copy {{job}}" '
    'UID="urn:veeam:Job:{job}"><Links><Link Rel="Up" Type="BackupServerReference" '
    f'Href="{_HOST}/backupServers/88651e97-5aaa-5c36-8b32-3898847cc7ef" Name="vbr01.corp.example" />'
    f'<Link Rel="Alternate" Type="JobReference" Href="{_HOST}/jobs/{{job}}" Name="Copy {{job}}" />'
    f'<Link Rel="Down" Type="LinkedBackupRepositoryObjectList" Href="{_HOST}/jobs/{{job}}/linkedBackupRepositories" />'
    f'<Link Rel="Create" Type="LinkedBackupRepositoryObject" Href="{_HOST}/jobs/{{job}}/linkedBackupRepositories" />'
    "</Links><JobType>ImmediateBackupCopy</JobType><Platform>VMware</Platform><Description>Created by "
    ".\\administrator</Description><ScheduleConfigured>true</ScheduleConfigured><ScheduleEnabled>true"
    "</ScheduleEnabled><JobInfo><ImmediateBackupCopyJobInfo><LinkedJobIncludes /><LinkedBackupIncludes />"
    "<LinkedBackupRepositoryIncludes>{linked}</LinkedBackupRepositoryIncludes></ImmediateBackupCopyJobInfo></JobInfo>"
    "</Job>"
)
_LINKS = (
    f'{_XML}<{_LIST} {_SPACES}><LinkedBackupRepository Type="LinkedBackupRepositoryObject" '
    f'Href="{_HOST}/jobs/{{job}}/linkedBackupRepositories/{{link}}"><Links><Link Rel="Up" Type="Job" '
    f'Href="{_HOST}/jobs/{{job}}?format=Entity" Name="Copy {{job}}" /><Link Rel="Delete" '
    f'Href="{_HOST}/jobs/{{job}}/linkedBackupRepositories/{{link}}" /></Links><ObjectInJobId>{{link}}</ObjectInJobId>'
    "<LinkedBackupRepositoryUid>urn:veeam:Repository:{uid}</LinkedBackupRepositoryUid></LinkedBackupRepository>"
    f"</{_LIST}>"
)


#: What is asked once: by method and path below `/api/`.
_OTHERS = {
    ("GET", ""): (200, f"{_XML}<EnterpriseManager {_SPACES}><SupportedVersions /></EnterpriseManager>"),
    ("POST", "sessionMngr"): (201, _SESSION),
}


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as far as the worker speaks it: requests without a body, one after the other."""

    def __init__(self, answer: Callable[[str, str], tuple[int, str]]) -> None:
        self._answer = answer
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            method, target, _ = self._received[: self._received.index(b"\r\n")].decode().split(" ")
            self._received = self._received[end + 4 :]
            status, body = self._answer(method, unquote(target))
            content = body.encode()
            head = (
                f"HTTP/1.1 {status} Answered\r\nContent-Type: application/xml; charset=utf-8\r\n"
                f"X-RestSvcSessionId: {TOKEN}\r\nContent-Length: {len(content)}\r\n"
                "Date: Sat, 28 Nov 2026 01:01:38 GMT\r\n\r\n"
            )
            self._transport.write(head.encode() + content)


async def _serve(folder: Path) -> None:
    stub = Stub()
    certificates = certificates_in(folder)
    loop = asyncio.get_running_loop()

    def connection() -> _Connection:
        return _Connection(stub.answer)

    plain = await loop.create_server(connection, "127.0.0.1", 0)
    tls = await loop.create_server(connection, "127.0.0.1", 0, ssl=certificates.server_context())
    http, https = (server.sockets[0].getsockname()[1] for server in (plain, tls))
    about = {
        "http": f"http://127.0.0.1:{http}",
        "https": f"https://127.0.0.1:{https}",
        "ca_file": str(certificates.ca_file),
    }
    print(json.dumps(about), flush=True)  # noqa: T201 - what it is started for
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
