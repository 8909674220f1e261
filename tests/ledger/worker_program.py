"""A worker's process, as far as its ledger goes: what `test_processes` starts, pauses and kills."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime

from pydantic import SecretStr

from contracts.events import Outcome
from worker.clock import SystemClock
from worker.ledger.sql_ledger import SqlLedger
from worker.settings import LedgerSettings
from worker.unlinks.ports.enterprise_manager import Link, LinkedBackup
from worker.unlinks.ports.ledger import (
    Claimed,
    Intended,
    Intent,
    Lease,
    LeaseLostError,
    NewClaim,
    Settled,
)

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
INTENT = Intent(
    "d1b85018-2769-45be-89bc-03f66b60e6cb",
    "Copy job 1",
    Link("27a1d57f-7c15-43c6-9162-d05aff1c9bb9", "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec", "Repository 1"),
    (LinkedBackup("b-1", "uid-1", "Backup 1"), LinkedBackup("b-2")),
)


def say(words: str) -> None:
    """Tell the test."""
    print(words, flush=True)  # noqa: T201 - the way to the test


async def wait_for_go() -> None:
    """Wait for the test, while renewals go on."""
    await asyncio.to_thread(sys.stdin.readline)


async def claim(ledger: SqlLedger, key: str) -> Lease | None:
    """Claim a key; None if somebody else has it."""
    result = await ledger.claim(NewClaim(key, "f" * 64, "default", b'{"command":"unlink.v1"}', NOON))
    return result.entry.lease if isinstance(result, Claimed) else None


async def race(ledger: SqlLedger, keys: int) -> None:
    """Claim as many keys as possible, several at once."""
    say("ready")
    await wait_for_go()
    won = []
    for first in range(0, keys, 10):
        names = [f"CHG-{n}" for n in range(first, first + 10)]
        won += [lease.key for lease in await asyncio.gather(*(claim(ledger, name) for name in names)) if lease]
    say(" ".join(won))


async def hold(ledger: SqlLedger, key: str) -> None:
    """Claim a key, be paused, and then try to write."""
    lease = await claim(ledger, key)
    assert lease is not None
    say("ready")
    await wait_for_go()
    said = [f"alive: {ledger.alive(lease)}"]
    try:
        await ledger.record(lease, Intended(INTENT, NOON))
    except LeaseLostError:
        said.append("intend: lost")
    try:
        await ledger.record(lease, Settled(Outcome.FAILED, b"another event", NOON))
    except LeaseLostError:
        said.append("settle: lost")
    say("; ".join(said))


async def die(ledger: SqlLedger, key: str) -> None:
    """Record an intent, and be gone at once."""
    say("ready")
    await wait_for_go()
    lease = await claim(ledger, key)
    assert lease is not None
    await ledger.record(lease, Intended(INTENT, NOON))
    say("intended")
    os.kill(os.getpid(), signal.SIGKILL)


async def main(name: str, role: str, argument: str) -> None:
    """Start a ledger and play the role."""
    settings = LedgerSettings(url=SecretStr(os.environ["LEDGER_URL"]), lease_seconds=float(os.environ["LEASE_SECONDS"]))
    ledger = SqlLedger(settings, name, SystemClock())
    await ledger.start()
    if role == "race":
        await race(ledger, int(argument))
    elif role == "hold":
        await hold(ledger, argument)
    else:
        await die(ledger, argument)
    await ledger.close()


if __name__ == "__main__":
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(*sys.argv[1:]))
