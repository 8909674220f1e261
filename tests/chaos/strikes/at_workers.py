"""What happens to workers: they are killed, paused and stopped, and their host runs out of things."""

from __future__ import annotations

import resource
import time
from random import Random

from tests.chaos.deployment import LEASE_SECONDS
from tests.chaos.strikes.strike import Strike, Target

#: Less than any worker has open, and enough for a system call that waits for some of them.
_FEW_FILES = 10


def _kill(target: Target, rng: Random) -> None:
    seat = rng.choice(target.deployment.mortal_seats)
    seat.worker.kill()
    time.sleep(rng.uniform(0, LEASE_SECONDS))
    target.deployment.replace(seat)


def _kill_two(target: Target, rng: Random) -> None:
    seats = rng.sample(target.deployment.mortal_seats, min(2, len(target.deployment.mortal_seats)))
    for seat in seats:
        seat.worker.kill()
    for seat in seats:
        target.deployment.replace(seat)


def _pause(target: Target, rng: Random) -> None:
    worker = rng.choice(target.deployment.seats).worker
    worker.suspend()
    time.sleep(LEASE_SECONDS * rng.uniform(1.2, 3))
    worker.resume()


def _pause_and_kill(target: Target, rng: Random) -> None:
    seat = rng.choice(target.deployment.mortal_seats)
    seat.worker.suspend()
    time.sleep(LEASE_SECONDS * rng.uniform(1.2, 2))
    seat.worker.kill()
    target.deployment.replace(seat)


def _stop(target: Target, rng: Random) -> None:
    seat = rng.choice(target.deployment.mortal_seats)
    seat.worker.stop()
    target.deployment.replace(seat)


def _take_files(target: Target, rng: Random) -> None:
    """No file and no socket can be opened, while all connections have to be made anew."""
    seat = rng.choice(target.deployment.seats)
    usual = resource.prlimit(seat.worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(seat.worker.pid, resource.RLIMIT_NOFILE, (_FEW_FILES, usual[1]))
    target.deployment.reconnect(seat)
    time.sleep(rng.uniform(5, 10))
    resource.prlimit(seat.worker.pid, resource.RLIMIT_NOFILE, usual)


def _take_threads(target: Target, rng: Random) -> None:
    """Where the worker is young, so that it has yet to start its threads; and all connections have to be made anew."""
    seat = rng.choice(target.deployment.mortal_seats)
    seat.worker.kill()
    target.deployment.replace(seat)
    seat.worker.wait_until_started()
    target.deployment.ail(seat, no_threads=True)
    target.deployment.reconnect(seat)
    time.sleep(rng.uniform(5, 10))
    target.deployment.ail(seat)


def _set_clock(target: Target, rng: Random) -> None:
    seat = rng.choice(target.deployment.seats)
    for _ in range(2):
        target.deployment.ail(seat, clock_off=rng.choice((-1, 1)) * rng.choice((3600, 86400, 50 * 365 * 86400)))
        time.sleep(rng.uniform(2, 6))
    target.deployment.ail(seat)


STRIKES = (
    Strike("a worker is killed and replaced", _kill, vital=True),
    Strike("a worker is paused for longer than its lease", _pause, vital=True),
    Strike("a worker is paused for longer than its lease, and killed", _pause_and_kill),
    Strike("a worker is told to stop, and replaced", _stop),
    Strike("two workers are killed at once", _kill_two),
    Strike("a worker can open no file and no socket", _take_files),
    Strike("a worker can start no thread", _take_threads),
    Strike("a worker's wall clock jumps, and jumps back", _set_clock),
)
