"""Control from another process: the operations as JSON over HTTP or HTTPS, on the loopback address only."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import requests
from aiohttp import web
from pydantic import TypeAdapter, ValidationError, validate_call
from pydantic_core import to_jsonable_python

from worker.sandbox.certificates import certificates_in
from worker.sandbox.processes.free_ports import LOOPBACK
from worker.sandbox.simulated_enterprise_manager.behaviour import Behaviour, UnknownBehaviourError
from worker.sandbox.simulated_enterprise_manager.operations import OPERATIONS, Simulation
from worker.sandbox.simulated_enterprise_manager.simulation import SimulatedEnterpriseManager

if TYPE_CHECKING:
    import ssl

_TIMEOUT_SECONDS = 30.0

_PREFIX = "/control/"


class ControlFailedError(RuntimeError):
    """The simulated Enterprise Manager refused an operation; the message says why."""


class ControlListener:
    """The HTTP listener of the control. It belongs to the event loop of the simulated Enterprise Manager.

    Args:
        simulated: the simulated Enterprise Manager that it controls.
        context: if given, the listener uses HTTPS, and its URL has the host `localhost`.
    """

    def __init__(self, simulated: SimulatedEnterpriseManager, context: ssl.SSLContext | None = None) -> None:
        self._simulated = simulated
        self._context = context
        self._server: web.Server | None = None
        self._runner: web.ServerRunner | None = None
        self.url = ""

    async def open(self) -> None:
        """Listen on a free port of the loopback address."""
        self._server = web.Server(self._answer, access_log=None)
        self._runner = web.ServerRunner(self._server)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, 0, ssl_context=self._context).start()
        origin = f"http://{LOOPBACK}" if self._context is None else "https://localhost"
        self.url = f"{origin}:{self._runner.addresses[0][1]}{_PREFIX}"

    async def close(self) -> None:
        """Stop listening, and reset every connection. A clean TLS shutdown could wait for a `close_notify` forever."""
        for connection in self._server.connections if self._server else ():
            if connection.transport is not None:
                connection.transport.abort()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        # The required content type protects against cross-site requests: a page in a browser cannot send it to another
        # origin without a CORS preflight.
        if request.method != "POST" or request.content_type != "application/json":
            return _error(405, "POST a JSON object")
        name = request.path.removeprefix(_PREFIX)
        if name not in OPERATIONS:
            return _error(400, f"there is no operation {name}")
        try:
            arguments = json.loads(await request.read())
            result = self._simulated.begin(_checked(OPERATIONS[name]), arguments)
            if inspect.isawaitable(result):
                result = await result
        except UnknownBehaviourError as problem:
            return _error(422, str(problem))
        except (ValueError, TypeError, LookupError, ValidationError) as problem:
            return _error(400, str(problem))
        return _json({"result": to_jsonable_python(result)})


@functools.cache
def _checked(body: Callable[..., Any]) -> Callable[..., Any]:
    return validate_call(body)


@functools.cache
def _result_type(operation: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(OPERATIONS[operation])["return"])


@contextmanager
def control_over_https(simulated: SimulatedEnterpriseManager) -> Iterator[str]:
    """Serve the control of a simulated Enterprise Manager in this process, with its certificate. Yields the URL."""
    control = ControlListener(simulated, certificates_in(simulated.ca_file.parent).server_context())
    asyncio.run_coroutine_threadsafe(control.open(), simulated.loop).result()
    try:
        yield control.url
    finally:
        asyncio.run_coroutine_threadsafe(control.close(), simulated.loop).result()


def _error(status: int, message: str) -> web.Response:
    return _json({"error": message}, status)


def _json(content: dict[str, Any], status: int = 200) -> web.Response:
    # With a newline at the end, for terminals.
    return web.json_response(content, status=status, dumps=lambda value: json.dumps(value) + "\n")


class SimulationControl(Simulation):
    """A simulated Enterprise Manager in another process.

    Args:
        control_url: the URL that its program printed.
    """

    def __init__(self, control_url: str) -> None:
        self._url = control_url

    @property
    def password(self) -> str:
        """The password of the account that may log on."""
        return Path(self.about()["password_file"]).read_text(encoding="utf-8").strip()

    @property
    def behaviour(self) -> Behaviour:
        """Every switch; set a field of it to change it at once."""
        return _RemoteBehaviour.of(self, asdict(super().behaviour))

    def _perform(self, operation: str, /, **arguments: Any) -> Any:
        with requests.Session() as session:
            session.trust_env = False  # a proxy of the user's is not for this host
            answer = session.post(self._url + operation, json=to_jsonable_python(arguments), timeout=_TIMEOUT_SECONDS)
        content = answer.json()
        if answer.status_code == requests.codes.unprocessable:
            raise UnknownBehaviourError(content["error"])
        if "error" in content:
            raise ControlFailedError(f"{operation}: {content['error']}")
        return _result_type(operation).validate_python(content["result"])


class _RemoteBehaviour(Behaviour):
    """A copy of the other process's behaviour. Setting a field here sets it in the other process."""

    _control: SimulationControl | None = None

    @classmethod
    def of(cls, control: SimulationControl, values: dict[str, Any]) -> _RemoteBehaviour:
        behaviour = cls(**values)
        behaviour._control = control
        return behaviour

    def __setattr__(self, name: str, value: Any) -> None:
        if self._control is not None:
            self._control.change_behaviour(**{name: value})
        object.__setattr__(self, name, value)
