"""What happens to workers: they are killed, paused and stopped."""

from __future__ import annotations

import time
from random import Random

from tests.chaos.arena import LEASE_SECONDS
from tests.chaos.strikes.strike import Scene, Strike


def _kill(scene: Scene, rng: Random) -> None:
    seat = rng.choice(scene.arena.mortal_seats)
    seat.worker.kill()
    time.sleep(rng.uniform(0, LEASE_SECONDS))
    scene.arena.replace(seat)


def _kill_two(scene: Scene, rng: Random) -> None:
    seats = rng.sample(scene.arena.mortal_seats, min(2, len(scene.arena.mortal_seats)))
    for seat in seats:
        seat.worker.kill()
    for seat in seats:
        scene.arena.replace(seat)


def _pause(scene: Scene, rng: Random) -> None:
    worker = rng.choice(scene.arena.seats).worker
    worker.suspend()
    time.sleep(LEASE_SECONDS * rng.uniform(1.2, 3))
    worker.resume()


def _pause_and_kill(scene: Scene, rng: Random) -> None:
    seat = rng.choice(scene.arena.mortal_seats)
    seat.worker.suspend()
    time.sleep(LEASE_SECONDS * rng.uniform(1.2, 2))
    seat.worker.kill()
    scene.arena.replace(seat)


def _stop(scene: Scene, rng: Random) -> None:
    seat = rng.choice(scene.arena.mortal_seats)
    seat.worker.stop()
    scene.arena.replace(seat)


STRIKES = (
    Strike("a worker is killed and replaced", _kill, vital=True),
    Strike("a worker is paused for longer than its lease", _pause, vital=True),
    Strike("a worker is paused for longer than its lease, and killed", _pause_and_kill),
    Strike("a worker is told to stop, and replaced", _stop),
    Strike("two workers are killed at once", _kill_two),
)
