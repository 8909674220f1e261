"""A client of Enterprise Manager that shares no code with the worker, and reads both formats into one shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
import requests

from tests.waiting import wait_until
from worker.sandbox.simulated_enterprise_manager import Simulation

Format = Literal["xml", "json"]

#: Elements that hold a list.
_LISTS = {
    "BackupJobSessions",
    "BackupServers",
    "Backups",
    "EntityReferences",
    "HierarchyRoots",
    "Jobs",
    "LinkedBackupIncludes",
    "LinkedBackupRepositoryIncludes",
    "LinkedBackupRepositoryResourceObjects",
    "LinkedJobIncludes",
    "LinkedJobResourceObjects",
    "Links",
    "LogonSessions",
    "ObjectsInJob",
    "Refs",
    "Repositories",
    "SupportedVersions",
    "Tasks",
}
_NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"


@dataclass(frozen=True)
class Answer:
    """An answer; `content` has the same shape in both formats: lower-case keys, texts, lists, nothing that is null."""

    status: int
    headers: Any
    body: bytes
    content: Any


class Client:
    """One user of the simulated Enterprise Manager `em`; logged on when it is made, unless told otherwise."""

    def __init__(self, em: Simulation, wanted: Format, *, log_on: bool = True) -> None:
        self.em = em
        self.format: Format = wanted
        self.api = f"{em.url}/api"
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.verify = str(em.ca_file)
        self.token: str | None = None
        self.session_id: str | None = None
        if log_on:
            answer = self.log_on()
            assert answer.status == 201
            self.token, self.session_id = answer.headers["X-RestSvcSessionId"], answer.content["sessionid"]

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def log_on(self, password: str | None = None, version: str = "latest") -> Answer:
        """Ask for a session."""
        credentials = (self.em.username, self.em.password if password is None else password)
        return self.request("POST", f"sessionMngr/?v={version}", auth=credentials)

    def request(self, method: str, path: str, timeout: float = 10, **more: Any) -> Answer:
        """Send one request; no cookie is kept."""
        headers = {"Accept": f"application/{self.format}", **more.pop("headers", {})}
        if self.token is not None:
            headers.setdefault("X-RestSvcSessionId", self.token)
        answer = self._http.request(method, f"{self.api}/{path}", headers=headers, timeout=timeout, **more)
        self._http.cookies.clear()
        return Answer(answer.status_code, answer.headers, answer.content, _read(answer))

    def get(self, path: str) -> Answer:
        """GET."""
        return self.request("GET", path)

    def links(self, job_id: str) -> list[str]:
        """The IDs of the links that the list shows."""
        answer = self.get(f"jobs/{job_id}/linkedBackupRepositories")
        assert answer.status == 200
        return [link["objectinjobid"] for link in answer.content]

    def unlink(self, job_id: str, link_id: str) -> Answer:
        """DELETE of a link."""
        return self.request("DELETE", f"jobs/{job_id}/linkedBackupRepositories/{link_id}")

    def link(self, job_id: str, repository_uid: str) -> Answer:
        """POST of a link."""
        name, uid = "LinkedBackupRepositoryUid", f"urn:veeam:Repository:{repository_uid}"
        namespace = "http://www.veeam.com/ent/v1.0"
        as_xml = f'<LinkedBackupRepository xmlns="{namespace}"><{name}>{uid}</{name}></LinkedBackupRepository>'
        body = as_xml if self.format == "xml" else json.dumps({name: uid})
        return self.request("POST", f"jobs/{job_id}/linkedBackupRepositories", data=body)

    def task(self, task_id: str) -> Any:
        """One look at a task."""
        answer = self.get(f"tasks/{task_id}")
        assert answer.status == 200
        return answer.content

    def end_of(self, accepted: Answer) -> Any:
        """The task when it is finished."""
        assert accepted.status == 202, accepted.body
        return self.states_of(accepted.content["taskid"])[-1]

    def states_of(self, task_id: str) -> list[Any]:
        """Every sight of a task up to its end."""
        sights: list[Any] = []

        def finished() -> bool:
            sights.append(self.task(task_id))
            return bool(sights[-1]["state"] == "Finished")

        wait_until(finished)
        return sights


def _read(answer: requests.Response) -> Any:
    kind = answer.headers.get("Content-Type", "")
    try:
        if kind.startswith("application/json"):
            return _of_json(json.loads(answer.content))
        if kind.startswith("application/xml"):
            return _of_xml(defusedxml.ElementTree.fromstring(answer.content))
    except (ValueError, SyntaxError):
        return None
    return None


def _of_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_of_json(item) for item in value]
    if isinstance(value, dict):
        return _without_wrapper({key.lower(): _of_json(item) for key, item in value.items() if item is not None})
    return str(value).lower() if isinstance(value, bool) else str(value)


def _of_xml(element: Element) -> Any:
    name = element.tag.rpartition("}")[2]
    if name in _LISTS:
        return [_of_xml(child) for child in element]
    if not len(element) and not element.attrib:
        return element.text or ""
    fields: dict[str, Any] = {key.lower(): value for key, value in element.attrib.items() if key != _NIL}
    fields |= {
        child.tag.rpartition("}")[2].lower(): _of_xml(child) for child in element if child.attrib != {_NIL: "true"}
    }
    return _without_wrapper(fields)


def _without_wrapper(fields: dict[str, Any]) -> Any:
    """A list that is all of an object stands for it: its name differs between the formats."""
    only = next(iter(fields.values())) if len(fields) == 1 else None
    return only if isinstance(only, list) else fields
