"""Many open pages of the console, as browsers keep them up to date: `python -m tests.benchmarks.open_pages PORT COUNT`.

Nine of ten show the overview, which is read again every five seconds; the others show one unlink each, read every two
seconds. It prints a line once every page was answered, and goes on until it is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator

from worker.console.keys import to_path
from worker.sandbox.processes.free_ports import LOOPBACK

OVERVIEW_SECONDS, UNLINK_SECONDS = 5.0, 2.0


async def _answers(port: int, path: str) -> AsyncIterator[bytes]:
    """Ask again and again on one connection."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    while True:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}:{port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.splitlines()[1:] if b": " in line)
        yield head.splitlines()[0] + b"\n" + await reader.readexactly(int(fields[b"content-length"]))


async def _keep_open(port: int, path: str, seconds: float, wait: float, opened: asyncio.Semaphore) -> None:
    await asyncio.sleep(wait)
    for_the_first = True
    async for answer in _answers(port, path):
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"{path}: {answer[:200]!r}")
        if for_the_first:
            opened.release()
            for_the_first = False
        await asyncio.sleep(seconds)


async def _open(port: int, count: int) -> None:
    opened = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as pages:
        for number in range(count):
            path, seconds = "/?part=true", OVERVIEW_SECONDS
            if number % 10 == 0:
                path, seconds = f"/unlinks/{to_path(f'bench:{number}')}?part=true", UNLINK_SECONDS
            pages.create_task(_keep_open(port, path, seconds, number / count * OVERVIEW_SECONDS, opened))
        for _ in itertools.repeat(None, count):
            await opened.acquire()
        sys.stdout.write("open\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_open(int(sys.argv[1]), int(sys.argv[2])))
