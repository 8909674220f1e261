"""Runs a simulated Enterprise Manager in this process."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker.sandbox.certificates import LOOPBACK_NAMES, certificates_in
from worker.sandbox.processes.free_ports import LOOPBACK
from worker.sandbox.simulated_enterprise_manager.behaviour import Behaviour
from worker.sandbox.simulated_enterprise_manager.exchange import Account
from worker.sandbox.simulated_enterprise_manager.faults import Faults
from worker.sandbox.simulated_enterprise_manager.operations import OPERATIONS, Simulation
from worker.sandbox.simulated_enterprise_manager.replay import Replay
from worker.sandbox.simulated_enterprise_manager.server import Server
from worker.sandbox.simulated_enterprise_manager.state import State

DEFAULT_USERNAME = "CORP\\unlink-worker"
DEFAULT_PASSWORD = "simulated"  # noqa: S105 - guards nothing but a simulation

#: How long the server's thread may take to open or close its listener, in seconds.
_TIMEOUT_SECONDS = 10.0


class SimulatedEnterpriseManager(Simulation):
    """A simulated Enterprise Manager in this process, on a separate thread with its own event loop."""

    def __init__(self, folder: Path, account: Account, loop: asyncio.AbstractEventLoop) -> None:
        self._folder = folder
        self._account = account
        self._loop = loop

    @classmethod
    @contextmanager
    def start(
        cls,
        *,
        behaviour: Behaviour | None = None,
        folder: Path | None = None,
        host: str = LOOPBACK,
        name: str = "localhost",
        port: int = 0,
        password: str = DEFAULT_PASSWORD,
        replay: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[SimulatedEnterpriseManager]:
        """A simulated Enterprise Manager that runs until the context ends.

        Args:
            behaviour: its initial behaviour.
            folder: the folder of its certificates, which the next simulation with this folder uses too; by default a
                temporary folder.
            host: the address to listen on.
            name: the host name in its URL. A new certificate is valid for this name and for the loopback address.
            port: the port to listen on; 0 means any free port.
            password: the password of the account that may log on.
            replay: a recording, from which every request is answered; any password is accepted then.
            clock: the clock of edits, tasks and sessions, in seconds; never goes back.

        Raises:
            OSError: the port is in use, or the recording cannot be read.
            RecordingInvalidError: the file is not a recording.
        """
        with contextlib.ExitStack() as stack:
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="simulated-em-")))
            loop = stack.enter_context(_loop_on_a_thread())
            simulated = cls(folder, Account(DEFAULT_USERNAME, password), loop)
            recorded = Replay.of(replay) if replay is not None else None
            state = State(behaviour or Behaviour(), clock)
            simulated._on_loop(simulated._open(state, host, name, port, recorded))
            stack.callback(lambda: simulated._on_loop(simulated._server.close()))
            yield simulated

    async def _open(self, state: State, host: str, name: str, port: int, replay: Replay | None) -> None:
        self._state, self._faults = state, Faults()
        certificates = certificates_in(self._folder, tuple(dict.fromkeys((name, *LOOPBACK_NAMES))))
        self._server = Server(self._state, self._account, self._faults, certificates.server_context(), host, replay)
        await self._server.open(port)
        self._about = {
            "url": f"https://{name}:{self._server.port}",
            "ca_file": str(certificates.ca_file),
            "username": self._account.username,
        }

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop on which it runs."""
        return self._loop

    @property
    def password(self) -> str:
        """The password of the account that may log on."""
        return self._account.password

    def begin(self, body: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Execute the body of an operation. Returns its result, or a coroutine to be run on `loop`."""
        with self._state.lock:
            return body(self, **arguments)

    def _perform(self, operation: str, /, **arguments: Any) -> Any:
        result = self.begin(OPERATIONS[operation], arguments)
        return self._on_loop(result) if inspect.iscoroutine(result) else result

    def _on_loop(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_TIMEOUT_SECONDS)


@contextmanager
def _loop_on_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run_until_ended() -> None:
        ended = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), ended))
        await ended.wait()

    # At its end, asyncio.run cancels the TLS handshakes under way, which closes their connections.
    thread = threading.Thread(
        target=asyncio.run, args=(run_until_ended(),), name="simulated-enterprise-manager", daemon=True
    )
    thread.start()
    loop, ended = started.result(_TIMEOUT_SECONDS)
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(_TIMEOUT_SECONDS)
