"""The threads that wait for Enterprise Manager and parse its long documents."""

from __future__ import annotations

import weakref

from tests.waiting import until
from worker.enterprise_manager.threads import Threads


class Answer:
    """Something that may be large."""


async def test_an_idle_thread_keeps_nothing() -> None:
    """Each of them would keep the last document that it read, of 50 MB in a large installation."""
    threads = Threads("test", 1)
    kept: list[weakref.ref[Answer]] = []

    def read() -> Answer:
        answer = Answer()
        kept.append(weakref.ref(answer))
        return answer

    await threads.run(read)
    await until(lambda: kept[0]() is None)
    threads.close()
