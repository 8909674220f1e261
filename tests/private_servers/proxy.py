"""TCP proxies that misbehave on demand: a network that is cut, slow, or swallows what is sent."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Self

from worker.sandbox.processes.free_ports import LOOPBACK

#: How long one upstream may take to accept a connection, in seconds, before the next one is tried.
_CONNECT_SECONDS = 2.0

#: How long a change of a proxy may take, in seconds.
_TIMEOUT_SECONDS = 10.0

_PIECE = 64 * 1024

#: After so many steps of the loop, asyncio serves a connection that was just accepted. Before, nobody could close it.
_STEPS_TO_A_TASK = 10


class Direction(Enum):
    """Which way bytes flow."""

    REQUESTS = auto()
    ANSWERS = auto()


class Network:
    """An event loop on a thread of its own, and the proxies on it. A context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._proxies: list[Proxy] = []

    def proxy(self, upstreams: Sequence[int], tls: ssl.SSLContext | None = None) -> Proxy:
        """A proxy on a free port; each connection goes to the first of these loopback ports that takes it.

        `tls`: what its clients are to speak; towards the upstreams it is plain.
        """
        proxy = Proxy(upstreams, self._on_loop, tls)
        self._on_loop(proxy.open())
        self._proxies.append(proxy)
        return proxy

    def heal(self) -> None:
        """Let everything flow again."""
        for proxy in self._proxies:
            proxy.heal()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self._proxies:
            self._on_loop(proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_TIMEOUT_SECONDS)
        self._loop.close()

    def _on_loop(self, coroutine: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_TIMEOUT_SECONDS)


class Proxy:
    """One port that leads to another. Its faults can be set from any thread, and last until `heal`."""

    def __init__(
        self,
        upstreams: Sequence[int],
        on_loop: Callable[[Coroutine[None, None, None]], None],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._upstreams = upstreams
        self._tls = tls
        self._on_loop = on_loop
        self._cut = False
        self._delay = 0.0
        self._flows = {direction: asyncio.Event() for direction in Direction}
        self._transports: set[asyncio.WriteTransport] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.port = 0

    # --- faults, from any thread ---

    def cut(self) -> None:
        """Reset every connection, and every new one."""
        self._on_loop(self._set(cut=True))

    def slow(self, seconds: float) -> None:
        """Let each piece of data take so long, either way."""
        self._on_loop(self._set(delay=seconds))

    def black_hole(self, *held: Direction) -> None:
        """Hold what flows in these directions, without a word.

        As TCP does, it delivers what it held when the hole closes, even if the sender has given up meanwhile. Unlike a
        real one, it lets new connections be made: the system accepts them before the proxy is asked.
        """
        self._on_loop(self._set(held=held))

    def heal(self) -> None:
        """Let everything flow again."""
        self._on_loop(self._set())

    # --- on the loop ---

    async def open(self) -> None:
        """Begin to listen."""
        await self._set()
        self._server = await asyncio.start_server(self._connected, LOOPBACK, 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more, and reset every connection."""
        # A server that is closed gives no transport to a connection that it has just accepted, and does not close it
        # (`asyncio.Server._attach`).
        for listener in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(_STEPS_TO_A_TASK):
            await asyncio.sleep(0)
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _set(self, *, cut: bool = False, delay: float = 0.0, held: Sequence[Direction] = ()) -> None:
        self._cut, self._delay = cut, delay
        for direction, flows in self._flows.items():
            if direction in held:
                flows.clear()
            else:
                flows.set()
        if cut:
            for transport in list(self._transports):
                transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("asyncio serves each connection in a task")
        self._tasks.add(task)
        try:
            if await self._is_greeted(writer):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _is_greeted(self, writer: asyncio.StreamWriter) -> bool:
        """Speak TLS with the client, if it is to; return False if the client ended the handshake."""
        if self._tls is not None:
            try:
                await writer.start_tls(self._tls)
            except OSError:
                return False
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            return
        upstream = await self._connect()
        if upstream is None:
            return
        far_reader, far_writer = upstream
        transports = {writer.transport, far_writer.transport}
        self._transports |= transports
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer, Direction.REQUESTS)),
            asyncio.create_task(self._pump(far_reader, writer, Direction.ANSWERS)),
        ]
        try:
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            for pump in pumps:
                pump.cancel()
            self._transports -= transports
            far_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for port in self._upstreams:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return await asyncio.open_connection(LOOPBACK, port)
        return None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        try:
            while piece := await reader.read(_PIECE):
                await self._passage(direction)
                writer.write(piece)
                await writer.drain()
            await self._passage(direction)
            writer.write_eof()
        except OSError:
            # One side has reset the connection: so does this one, the other way too.
            writer.transport.abort()

    async def _passage(self, direction: Direction) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)
        await self._flows[direction].wait()
