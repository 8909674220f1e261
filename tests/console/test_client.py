"""A client that a generator has made of the console's OpenAPI document, and that knows nothing else."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, get_args

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


class Judge:
    """Compares each answer with what the document says of it. `called` holds the operations that were answered."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self.called: set[str] = set()
        self.operations = {
            operation["operationId"]: (re.compile(re.sub(r"{\w+}", "[^/]+", path)), method.upper(), operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }

    def judge(self, answer: httpx.Response) -> None:
        """Read an answer; it is what is described."""
        name = next(
            name
            for name, (path, method, _) in self.operations.items()
            if method == answer.request.method and path.fullmatch(answer.request.url.path)
        )
        self.called.add(name)
        responses = self.operations[name][2]["responses"]
        assert answer.status_code >= 400 or str(answer.status_code) in responses
        described = self._found(responses.get(str(answer.status_code), responses["default"]))
        media_type = answer.headers["content-type"].partition(";")[0]
        schema = described["content"][media_type]["schema"]
        if media_type == "text/event-stream":
            event = next(events_in(answer.iter_lines()))
            self._require(schema, {key: value for key, value in event.items() if key != "id"})
            answer.close()
        else:
            self._require(schema, json.loads(answer.read()))

    def made(self, name: str) -> Any:
        """A body for an operation, made of its schema alone: what is required, by the first example."""
        _, _, operation = self.operations[name]
        return self._example(operation["requestBody"]["content"][BODY]["schema"])

    def _require(self, schema: dict[str, Any], value: Any) -> None:
        validator = Draft202012Validator({**schema, "components": self._document["components"]})
        assert [error.message for error in validator.iter_errors(value)] == []

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


class Client:
    """Calls operations by their ID, through what the generator made of them. A context manager."""

    def __init__(self, package: str, console: Console, judge: Judge, token: str | None) -> None:
        self._package = package
        made = importlib.import_module(package)
        hooks = {"response": [judge.judge]}
        options = {"base_url": console.url, "timeout": 60, "httpx_args": {"event_hooks": hooks}}
        self._client = made.Client(**options) if token is None else made.AuthenticatedClient(token=token, **options)

    def __enter__(self) -> Self:
        self._client.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()

    def call(self, name: str, body: Any = None, /, **parameters: Any) -> tuple[int, Any]:
        """The status, and what the body says. A parameter's name has `_` for `-`."""
        function = self._module_of(name).sync_detailed
        if body is not None:
            kind = inspect.signature(function).parameters["body"].annotation
            parameters["body"] = (get_args(kind) or (kind,))[0].from_dict(body)
        answer = function(client=self._client, **parameters)
        assert answer.parsed.to_dict().keys() == json.loads(answer.content).keys()
        return int(answer.status_code), json.loads(answer.content)

    def listen(self, name: str, /, **parameters: Any) -> None:
        """Ask for a stream, of which the judge reads the first event: generated functions read to the end."""
        request = self._module_of(name)._get_kwargs(**parameters)  # noqa: SLF001 - as above
        with self._client.get_httpx_client().stream(**request):
            pass

    def _module_of(self, name: str) -> Any:
        return importlib.import_module(f"{self._package}.api.default.{re.sub('(?=[A-Z])', '_', name).lower()}")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generator, in an environment of its own."""
    folder = tmp_path_factory.mktemp("generator")
    venv.create(folder, with_pip=True)
    lock = Path(__file__).with_name("generator.lock")
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", lock], check=True)
    return folder / "bin" / "openapi-python-client"


@pytest.fixture
def package(
    generator: Path, document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The name of the package that the generator makes."""
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")
    arguments = ("--path", "openapi.json", "--config", "config.yaml", "--meta", "none", "--output-path", "made_client")
    run = subprocess.run([generator, "generate", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "WARNING" not in run.stdout + run.stderr
    monkeypatch.syspath_prepend(tmp_path)
    yield "made_client"
    for name in [name for name in sys.modules if name.split(".")[0] == "made_client"]:
        del sys.modules[name]


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
def test_every_operation_does_what_the_document_says(package: str, console: Console, document: dict[str, Any]) -> None:
    """A generated client would refuse an answer, or lack what it has to send."""
    judge = Judge(document)
    with Client(package, console, judge, token_of("operate")) as client:
        command = judge.made("orderUnlink") | {"batch": {"id": "OPS-1", "size": 1}}
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
        missing = judge.made("orderUnlink") | {"idempotency_key": "CHG2", "job": {"name": "There is none"}}
        failed = client.call("orderUnlink", missing, prefer="wait=50")[1]
        status, again = client.call("retryUnlink", {"run": 1}, key=last(failed["href"]), prefer="wait=50")
        assert (status, again["event"]["data"]["run"]) == (200, 2)
        assert client.call("retryUnlink", {"run": 1}, key=last(failed["href"]))[0] == 409
        assert client.call("cancelUnlink", {"reason": "not now"}, key="Q0hHMw")[0] == 202
        client.listen("streamEvents", last_event_id="0")
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
    assert judge.called == judge.operations.keys()


@pytest.mark.slow
def test_every_operation_refuses_a_stranger_as_the_document_says(
    package: str, console: Console, document: dict[str, Any]
) -> None:
    """A generated client would raise an error that says nothing, or be let in."""
    judge = Judge(document)
    with Client(package, console, judge, None) as client:
        for name, (_, _, operation) in judge.operations.items():
            needed = {each["name"]: "0" * 64 for each in operation.get("parameters", ()) if each.get("required")}
            required = operation.get("requestBody", {}).get("required")
            status, problem = client.call(name, judge.made(name) if required else None, **needed)
            assert (status, problem["status"], bool(problem["detail"])) == (401, 401, True)
