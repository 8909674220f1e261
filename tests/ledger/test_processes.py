"""Workers are processes: they race, they are paused, they are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from contracts.events import Outcome
from tests.ledger import words
from tests.ledger.conftest import Database
from worker.unlinks.ports.ledger import (
    Settled,
    Stage,
)

_PROGRAM = Path(__file__).with_name("worker_program.py")


@asynccontextmanager
async def worker(database: Database, name: str, *arguments: str, lease_seconds: float = 1.0) -> AsyncIterator[Process]:
    """A worker's process, ready to go."""
    environment = {
        **os.environ,
        "LEDGER_URL": database.url,
        "LEASE_SECONDS": str(lease_seconds),
        "PYTHONPATH": str(_PROGRAM.parents[2]),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(_PROGRAM), name, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        assert await line_of(process) == "ready"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line_of(process: Process) -> str:
    """What it says next."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


def go(process: Process) -> None:
    """Let it go on."""
    assert process.stdin is not None
    process.stdin.write(b"go\n")


async def test_of_several_processes_one_gets_each_key(database: Database) -> None:
    """Two workers that hold the same command would both carry it out."""
    keys = 150
    async with AsyncExitStack() as stack:
        racers = [
            await stack.enter_async_context(worker(database, f"worker-{n}", "race", str(keys), lease_seconds=60))
            for n in range(2)
        ]
        for racer in racers:
            go(racer)
        claimed = [(await line_of(racer)).split() for racer in racers]
    won = Counter(key for each in claimed for key in each)
    assert len(won) == keys
    assert set(won.values()) == {1}


async def test_a_worker_that_was_paused_beyond_its_lease_writes_nothing(database: Database) -> None:
    """It would overwrite the work of the one that took over, and publish a second end."""
    async with worker(database, "paused", "hold", "CHG-1") as paused:
        paused.send_signal(signal.SIGSTOP)
        other = await database.ledger("worker-b")
        entry = await words.take_over(other)
        await other.record(entry.lease, Settled(Outcome.SUCCEEDED, b"event", words.noon))
        paused.send_signal(signal.SIGCONT)
        go(paused)
        assert await line_of(paused) == "alive: False; intend: lost; settle: lost"
    history = await other.history("CHG-1")
    assert history is not None
    assert history.record is not None
    assert (history.record.event, history.record.entry.intent) == (b"event", None)


async def test_what_was_written_before_a_kill_is_there_after_it(database: Database) -> None:
    """The worker after it would not know of the DELETE that was sent, and pick another link."""
    async with worker(database, "killed", "die", "CHG-1") as killed:
        go(killed)
        assert await line_of(killed) == "intended"
        assert await killed.wait() == -signal.SIGKILL
    other = await database.ledger("worker-b")
    entry = await words.take_over(other)
    assert entry.stage is Stage.INTENDED
    assert entry.intent == words.intent_of()
