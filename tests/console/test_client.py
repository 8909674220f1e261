"""A client that knows of the console what its OpenAPI document says, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.console.conftest import Console, served, token_of
from tests.console.test_offboardings import account_of
from tests.console.test_orders import settings_of
from tests.console.test_streams import events_in
from tests.end_to_end.world import World
from worker.clock import SystemClock

BODY = "application/json"


class Client:
    """Calls operations by their ID. Refuses what the document does not describe, sent or received.

    `called` holds each operation with the statuses that it was answered with.
    """

    def __init__(self, document: dict[str, Any], http: httpx.Client, token: str | None) -> None:
        self._document = document
        self._http = http
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.called: dict[str, set[int]] = {}
        self.operations = {
            operation["operationId"]: (path, method, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }

    def call(self, name: str, body: Any = None, /, **parameters: Any) -> tuple[int, Any]:
        """The status, and what the body says. A parameter's name has `_` for `-`."""
        request = self._request(name, body, parameters)
        answer = self._http.send(request)
        described = self._described(name, answer)
        self.called.setdefault(name, set()).add(answer.status_code)
        if "content" not in described:
            assert not answer.content
            return answer.status_code, None
        self._require(described["content"][answer.headers["content-type"]]["schema"], answer.json())
        return answer.status_code, answer.json()

    def first_event(self, name: str, /, **parameters: Any) -> dict[str, Any]:
        """The first event of a stream."""
        answer = self._http.send(self._request(name, None, parameters), stream=True)
        try:
            media_type = answer.headers["content-type"].partition(";")[0]
            schema = self._described(name, answer)["content"][media_type]["schema"]
            event = next(events_in(answer.iter_lines()))
        finally:
            answer.close()
        self.called.setdefault(name, set()).add(answer.status_code)
        self._require(schema, {key: value for key, value in event.items() if key != "id"})
        return event

    def made(self, name: str) -> Any:
        """A body for an operation, made of its schema alone: what is required, by the first example."""
        _, _, operation = self.operations[name]
        return self._example(operation["requestBody"]["content"][BODY]["schema"])

    def _request(self, name: str, body: Any, parameters: dict[str, Any]) -> httpx.Request:
        path, method, operation = self.operations[name]
        known = {each["name"].replace("-", "_").lower(): each for each in operation.get("parameters", ())}
        assert parameters.keys() <= known.keys()
        assert {key for key, each in known.items() if each.get("required")} <= parameters.keys()
        where: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}}
        for key, value in parameters.items():
            self._require(known[key]["schema"], value)
            where[known[key]["in"]][known[key]["name"]] = str(value).lower() if value is True else str(value)
        for key, value in where["path"].items():
            path = path.replace("{" + key + "}", quote(value, safe=""))
        if body is not None:
            self._require(operation["requestBody"]["content"][BODY]["schema"], body)
        headers = {**self._headers, **where["header"]}
        return self._http.build_request(method, path, params=where["query"], headers=headers, json=body)

    def _described(self, name: str, answer: httpx.Response) -> dict[str, Any]:
        responses = self.operations[name][2]["responses"]
        assert answer.status_code >= 400 or str(answer.status_code) in responses
        described: dict[str, Any] = self._found(responses.get(str(answer.status_code), responses["default"]))
        return described

    def _require(self, schema: dict[str, Any], value: Any) -> None:
        judge = Draft202012Validator({**schema, "components": self._document["components"]})
        assert [error.message for error in judge.iter_errors(value)] == []

    def _found(self, part: dict[str, Any]) -> dict[str, Any]:
        target: Any = self._document
        for each in part["$ref"].removeprefix("#/").split("/") if "$ref" in part else ():
            target = target[each]
        return target if "$ref" in part else part

    def _example(self, schema: dict[str, Any]) -> Any:
        schema = self._found(schema)
        for known in ("const", "default"):
            if schema.get(known) is not None:
                return schema[known]
        if "examples" in schema:
            return schema["examples"][0]
        required = schema.get("required") or schema.get("oneOf", [{}])[0].get("required", ())
        return {each: self._example(schema["properties"][each]) for each in required}


@pytest.fixture
def console(world: World, users_file: Path) -> Iterator[Console]:
    """The console beside a worker that has dead-lettered two commands, with an account on its Enterprise Manager."""
    world.serve()
    world.send(b"nonsense")
    world.send(b"more nonsense")
    world.until(lambda: world.client.count("unlink.dead") == 2, "two dead letters")
    with served(settings_of(world, users_file, enterprise_managers=account_of(world)), SystemClock()) as console:
        yield console


@pytest.fixture
def document(console: Console) -> dict[str, Any]:
    """What the console says of itself."""
    document: dict[str, Any] = console.get(
        "/api/v1/openapi.json", headers={"Authorization": f"Bearer {token_of('read')}"}
    ).json()
    return document


def last(href: str) -> str:
    """The last part of a path."""
    return href.rpartition("/")[2]


@pytest.mark.slow
def test_every_operation_does_what_the_document_says(console: Console, document: dict[str, Any]) -> None:
    """A generated client would refuse an answer, or lack what it has to send."""
    client = Client(document, console.client, token_of("operate"))
    command = client.made("orderUnlink") | {"batch": {"id": "OPS-1", "size": 1}}
    status, ordered = client.call("orderUnlink", command, prefer="wait=50")
    assert (status, ordered["event"]["data"]["outcome"]) == (200, "succeeded")
    assert client.call("orderUnlink", command)[0] == 202
    assert client.call("orderUnlink", command | {"if_absent": "fail"})[0] == 409
    key = last(ordered["href"])
    assert client.call("getUnlink", key=key)[1]["outcome"] == "succeeded"
    assert client.call("listUnlinks", batch="OPS-1", limit=1)[1]["items"][0]["href"] == ordered["href"]
    assert client.call("listUnlinks", since="no time")[0] == 400
    assert client.call("getBatch", id="T1BTLTE")[1]["batches"][0]["ended"] == {"succeeded": 1}
    assert client.call("retryUnlink", {"reason": "once more"}, key=key)[0] == 409
    missing = client.made("orderUnlink") | {"idempotency_key": "CHG2", "job": {"name": "There is none"}}
    failed = client.call("orderUnlink", missing, prefer="wait=50")[1]
    status, again = client.call("retryUnlink", key=last(failed["href"]), prefer="wait=50")
    assert (status, again["event"]["data"]["run"]) == (200, 2)
    assert client.call("cancelUnlink", {"reason": "not now"}, key="Q0hHMw")[0] == 202
    assert client.first_event("streamEvents", last_event_id="0")["step"] == "claimed"
    job = command["job"]["id"]
    assert client.call("listLinks", name="default", job=job)[0] == 200
    assert client.call("listLinks", name="default")[0] == 400
    repository = client.call("getUnlink", key=key)[1]["repository"]["uid"]
    plan = client.call("offboard", {"repository": {"uid": repository}, "dry_run": True})
    assert (plan[0], plan[1]["ordered"]) == (200, 0)
    assert client.call("listEnterpriseManagers")[1]["items"][0]["name"] == "default"
    assert client.call("pauseEnterpriseManager", {"reason": "a test"}, name="default")[0] == 200
    assert client.call("resumeEnterpriseManager", name="default")[0] == 200
    first, second = (each["id"] for each in client.call("listDeadLetters")[1]["items"])
    assert client.call("replayDeadLetter", id=first)[1]["replayed"] == 0
    assert client.call("discardDeadLetter", id=second)[1] == {"discarded": 1}
    assert client.called.keys() == client.operations.keys()


@pytest.mark.slow
def test_every_operation_refuses_a_stranger_as_the_document_says(console: Console, document: dict[str, Any]) -> None:
    """A generated client would raise an error that says nothing, or be let in."""
    client = Client(document, console.client, None)
    for name, (_, _, operation) in client.operations.items():
        needed = {each["name"]: "0" * 64 for each in operation.get("parameters", ()) if each.get("required")}
        status, problem = client.call(name, **needed)
        assert (status, problem["status"], bool(problem["detail"])) == (401, 401, True)
