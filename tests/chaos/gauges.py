"""What must not grow while all goes on: one worker's memory, threads and descriptors, and the ledger's bytes a key."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

import psycopg

from tests.chaos.deployment import Deployment

#: How often they are read, in seconds.
_TICK = 10.0

#: Flat is what in the last quarter of the time is no more than so many times what it was in the second quarter.
_FLAT = 1.15

#: A reading of each gauge by its name, those that could be read.
Reading = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Course:
    """How a gauge went: its median in the second quarter of the time and in the last one."""

    before: float
    after: float

    @property
    def flat(self) -> bool:
        """Whether it did not grow."""
        return self.after <= _FLAT * self.before


class Gauges:
    """Reads them from time to time. A context manager.

    Args:
        deployment: the worker of its first seat is read, and its ledger.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read_on, name="gauges", daemon=True)
        self.readings: list[Reading] = []

    def _read_on(self) -> None:
        while not self._stopping.wait(_TICK):
            self.readings.append({**self._of_worker(), **self._of_ledger()})

    def _of_worker(self) -> Reading:
        process = Path(f"/proc/{self._deployment.seats[0].worker.pid}")
        status = (process / "status").read_text()

        def number(name: str) -> int:
            found = re.search(rf"^{name}:\s*(\d+)", status, flags=re.MULTILINE)
            return int(found.group(1)) if found else 0

        return {
            "MB of memory": number("VmRSS") / 1024,
            "threads": number("Threads"),
            "sockets, files and other descriptors": len(list((process / "fd").iterdir())),
        }

    def _of_ledger(self) -> Reading:
        with (
            suppress(psycopg.Error),  # it is away
            psycopg.connect(self._deployment.postgresql.url_of("ledger"), connect_timeout=5) as connection,
        ):
            size = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            keys = connection.execute("SELECT count(*) FROM unlinks").fetchone()
            return {"bytes": size[0] if size else 0, "keys": keys[0] if keys else 0}
        return {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(3 * _TICK)


def courses(readings: Sequence[Reading]) -> dict[str, Course]:
    """The course of each gauge; the ledger's is the bytes that a further key took in each half of the time."""
    quarter = len(readings) // 4
    if not quarter:
        return {}
    before, after = readings[quarter : 2 * quarter], readings[-quarter:]
    found = {
        name: Course(median(each[name] for each in before), median(each[name] for each in after))
        for name in readings[0].keys() - {"bytes", "keys"}
    }
    sizes = [reading for reading in readings if "bytes" in reading]
    middle = len(sizes) // 2
    found["bytes of the ledger for each further key"] = Course(
        _bytes_a_key(sizes[0], sizes[middle]), _bytes_a_key(sizes[middle], sizes[-1])
    )
    return found


def _bytes_a_key(first: Reading, last: Reading) -> float:
    return (last["bytes"] - first["bytes"]) / max(last["keys"] - first["keys"], 1)
