"""The search for cycles in a worker that does little."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.garbage import alive, without_search
from tests.waiting import until
from worker import service
from worker.service import Worker
from worker.settings import Settings


class Circle:
    """An object that holds itself."""

    def __init__(self) -> None:
        self.itself = self


async def test_a_worker_that_does_little_frees_cycles_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What errors keep would stay until ten thousand objects are made: for hours in a worker without commands."""
    monkeypatch.setattr(service, "GC_SECONDS", 0.01)
    given: dict[str, Any] = {
        "broker": {"url": "amqp://u:p@127.0.0.1:1/"},
        "ledger": {"url": f"sqlite:///{tmp_path}/ledger.db"},
        "enterprise_managers": {"default": {"url": "https://127.0.0.1:1", "username": "u", "password": "p"}},
        "http": {"host": "127.0.0.1", "port": 0},
    }
    worker, stop = Worker(Settings(**given)), asyncio.Event()
    with without_search():
        running = asyncio.create_task(worker.run(stop))
        for _ in range(3):
            Circle()
            await until(lambda: alive(Circle) == 0, "the cycle is freed")
        stop.set()
        await running
